"""What this machine cannot run is listed at the end and makes the run red, with an exit status of its own.

A skipped test in a green run is a claim nobody checked. So tests marked `root`, `qemu` or `needs` that cannot run here are
neither passed nor silently skipped: pytest ends with NOT_RUN instead of 0. To leave them out on purpose, deselect them
(`-m "not root and not qemu"`, `make unit`).
"""

from __future__ import annotations

import os
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

NOT_RUN = 77  # the number that `stele` uses, too, for "this host cannot do it"
CAP_SYS_ADMIN = 21
WHOLE_RANGE = ["0", "0", "4294967295"]

hypothesis.settings.register_profile("any machine", deadline=None)  # how long an example takes says how busy the machine is
hypothesis.settings.load_profile("any machine")

_not_run: dict[str, list[str]] = {}


def _no_root() -> str | None:
    """Why tests that mount, freeze and make namespaces cannot run here; None when they can."""
    if os.geteuid() != 0:
        return "needs root: run `sudo make test`, or let `make test` use sudo"
    if Path("/proc/self/uid_map").read_text().split() != WHOLE_RANGE:
        return "root only of a user namespace (a rootless container): run it on the host or in a virtual machine"
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1]
    if not int(effective, 16) >> CAP_SYS_ADMIN & 1:
        return "root without CAP_SYS_ADMIN (an unprivileged container): run it on the host or in a virtual machine"
    return None


def _no_qemu() -> str | None:
    if shutil.which("qemu-system-x86_64") is None:
        return "qemu-system-x86_64 is not installed: scripts/bootstrap test"
    from tests.qemu import image

    if not all(image.is_cached(suite) for suite in image.SUITES.values()) and (reason := _no_root()):
        return f"the guest images are not built, and building them {reason}"
    return None


def _no_program(wanted: str) -> str | None:
    """`wanted`: a program's name, or the path of a file (a library)."""
    found = Path(wanted).exists() if "/" in wanted else shutil.which(wanted) is not None
    return None if found else f"{wanted} is not installed: scripts/bootstrap test"


NEEDS = {"root": _no_root, "qemu": _no_qemu}


def _checks(item: pytest.Item) -> Iterator[tuple[str, Callable[[], str | None]]]:
    yield from ((marker, check) for marker, check in NEEDS.items() if item.get_closest_marker(marker) is not None)
    for marker in item.iter_markers("needs"):
        yield from ((wanted, partial(_no_program, wanted)) for wanted in marker.args)


def pytest_configure() -> None:
    """A shell starts what runs in its background deaf to Ctrl-C, and nohup to SIGHUP, which is inherited: what is tested must hear them."""
    for number, ordinary in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, ordinary)


@pytest.hookimpl(trylast=True)  # after -m and -k: what was deselected on purpose is not missed
def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    reasons: dict[str, str | None] = {}
    for item in items:
        for need, check in _checks(item):
            if need not in reasons:
                reasons[need] = check()
            if (reason := reasons[need]) is not None:
                item.add_marker(pytest.mark.skip(reason=f"not run: {reason}"))
                _not_run.setdefault(reason, []).append(item.nodeid)
                break


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _not_run:
        return
    terminalreporter.section("not run on this machine", red=True)
    for reason, tests in _not_run.items():
        terminalreporter.line(f"{len(tests)} tests: {reason}")
        for test in tests:
            terminalreporter.line(f"  {test}")
    terminalreporter.line(f"This run is not green: exit status {NOT_RUN}.", red=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.OK and _not_run and not session.config.option.collectonly:
        session.exitstatus = NOT_RUN
