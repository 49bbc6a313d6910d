"""The tests marked `guest`, on Debian's stock kernels: all guests boot side by side, one pytest run in each."""

from __future__ import annotations

import concurrent.futures
import os
import shlex
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.qemu import image, machine

pytestmark = pytest.mark.qemu
MINUTES = 20
# Emulated CPUs are 10 to 30 times slower: what is a hang on the host may be work there.
SECONDS_A_TEST = 600


def _files_with_guest_tests() -> list[str]:
    """Only these are collected in the guests: importing all test modules takes an emulated CPU long."""
    tests = machine.CLONE / "tests"
    found = [path for path in sorted(tests.rglob("test_*.py")) if "mark.guest" in path.read_text(encoding="utf-8")]
    return [str(path.relative_to(machine.CLONE)) for path in found if path != Path(__file__)]


def _command() -> str:
    selection = shlex.join(_files_with_guest_tests())
    return (
        f"exec python3 -m pytest -v -m guest -p no:cacheprovider -o timeout={SECONDS_A_TEST} "
        f"--junit-xml=/results/junit.xml --durations=10 {selection}"
    )


@pytest.fixture(scope="module")
def outcomes():
    """Both guests at once; each future is a machine.Outcome or the error that kept the guest from running."""
    for suite in image.SUITES.values():  # images one after the other: the package downloads share one line
        image.image(suite)
    with concurrent.futures.ThreadPoolExecutor(len(image.SUITES)) as pool:
        yield {name: pool.submit(machine.run, suite, _command(), timeout=MINUTES * 60) for name, suite in image.SUITES.items()}


@pytest.mark.timeout((MINUTES + 10) * 60)
@pytest.mark.parametrize("suite", sorted(image.SUITES))
def test_guest_tests_pass_on_the_stock_kernel_of(suite, outcomes, capsys):
    outcome = outcomes[suite].result()
    if keep := os.environ.get("STELE_GUEST_LOGS"):
        Path(keep).mkdir(parents=True, exist_ok=True)
        (Path(keep) / f"{suite}.out").write_text(outcome.output)
        (Path(keep) / f"{suite}.console").write_text(outcome.console)
    assert outcome.status is not None, f"{outcome.output}\n{machine.console_tail(outcome)}"
    assert outcome.status == 0, f"pytest ended with {outcome.status} in the guest ({outcome.kernel}):\n{outcome.output}"
    report = ET.fromstring(outcome.results["junit.xml"]).find("testsuite")
    assert report is not None
    ran = int(report.attrib["tests"]) - int(report.attrib["skipped"])
    assert ran > 0, f"no test ran in the guest:\n{outcome.output}"
    with capsys.disabled():  # the guest's own closing line belongs in the run's output, also when all is well
        print(f"\n{suite}, kernel {outcome.kernel}, {outcome.seconds:.0f} s: {outcome.output.strip().splitlines()[-1]}")
