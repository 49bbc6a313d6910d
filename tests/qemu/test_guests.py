"""The tests marked `guest`, on Debian's stock kernels: all guests boot side by side, one pytest run in each."""

from __future__ import annotations

import concurrent.futures
import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Guest:
    """One boot: which kernel, which cgroup layout, and which of the guest tests."""

    suite: image.Suite
    cgroups: str
    selection: str

    @property
    def name(self) -> str:
        return self.suite.name if self.cgroups == "default" else f"{self.suite.name}-{self.cgroups}"

    def command(self) -> str:
        return (
            f"exec python3 -m pytest -v -m {shlex.quote(self.selection)} -p no:cacheprovider "
            f"-o timeout={SECONDS_A_TEST} --junit-xml=/results/junit.xml --durations=10 "
            f"{shlex.join(_files_with_guest_tests())}"
        )


GUESTS = [
    *(Guest(suite, "default", "guest") for suite in image.SUITES.values()),
    Guest(image.SUITES["bookworm"], "hybrid", "guest and cgroups"),
]


@pytest.fixture(scope="module")
def outcomes():
    """All guests at once; each future is a machine.Outcome or the error that kept the guest from running."""
    for suite in image.SUITES.values():  # images one after the other: the package downloads share one line
        image.image(suite)
    with concurrent.futures.ThreadPoolExecutor(len(GUESTS)) as pool:
        yield {
            guest.name: pool.submit(machine.run, guest.suite, guest.command(), cgroups=guest.cgroups, timeout=MINUTES * 60)
            for guest in GUESTS
        }


@pytest.mark.timeout((MINUTES + 10) * 60)
@pytest.mark.parametrize("guest", [guest.name for guest in GUESTS])
def test_guest_tests_pass_on_the_stock_kernel_of(guest, outcomes, capsys):
    outcome = outcomes[guest].result()
    if keep := os.environ.get("STELE_GUEST_LOGS"):
        Path(keep).mkdir(parents=True, exist_ok=True)
        (Path(keep) / f"{guest}.out").write_text(outcome.output)
        (Path(keep) / f"{guest}.console").write_text(outcome.console)
    assert outcome.status is not None, f"{outcome.output}\n{machine.console_tail(outcome)}"
    assert outcome.status == 0, f"pytest ended with {outcome.status} in the guest ({outcome.kernel}):\n{outcome.output}"
    report = ET.fromstring(outcome.results["junit.xml"]).find("testsuite")
    assert report is not None
    ran = int(report.attrib["tests"]) - int(report.attrib["skipped"])
    assert ran > 0, f"no test ran in the guest:\n{outcome.output}"
    with capsys.disabled():  # the guest's own closing line belongs in the run's output, also when all is well
        print(f"\n{guest}, kernel {outcome.kernel}, {outcome.seconds:.0f} s: {outcome.output.strip().splitlines()[-1]}")
