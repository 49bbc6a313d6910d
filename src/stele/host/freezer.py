"""Freezing a cgroup, v1 and v2, and knowing when it is frozen."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal, NamedTuple

from stele.trust.errors import SteleError

Kind = Literal["v1", "v2"]
PAUSE_S = 30e-6  # a busy loop steals the victim's CPU; POLLPRI on cgroup.events is rate-limited to about 9 ms


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="ascii", buffering=1) as file:
        file.write(text)


class Freezer(NamedTuple):
    """One cgroup that can be frozen. `kind`: "v1" (freezer controller) or "v2" (cgroup.freeze); `folder`: the cgroup's.

    The kinds differ: SIGKILL to a frozen task waits for the thaw in v1, and reaps it at once in v2.
    All methods raise OSError if the cgroup is gone.
    """

    kind: Kind
    folder: Path

    def request(self) -> None:
        """Order the freeze and return at once. Idempotent."""
        if self.kind == "v1":
            _write(self.folder / "freezer.state", "FROZEN")
        else:
            _write(self.folder / "cgroup.freeze", "1")

    def is_frozen(self) -> bool:
        """Whether every task is frozen now; reading moves v1 on from FREEZING."""
        if self.kind == "v1":
            return (self.folder / "freezer.state").read_bytes().startswith(b"FROZEN")
        return b"frozen 1" in (self.folder / "cgroup.events").read_bytes()

    def is_requested(self) -> bool:
        """Whether a freeze was ordered and not taken back: true from the first moment, whatever its progress."""
        if self.kind == "v1":
            return not (self.folder / "freezer.state").read_bytes().startswith(b"THAWED")
        return (self.folder / "cgroup.freeze").read_bytes().startswith(b"1")

    def await_frozen(self, timeout_s: float) -> int:
        """Wait until frozen; CLOCK_MONOTONIC nanoseconds of when it was seen so.

        Raises:
            SteleError: `run.not-frozen` after `timeout_s` seconds; the order stands.
        """
        deadline = time.monotonic_ns() + int(timeout_s * 1e9)
        while not self.is_frozen():
            if time.monotonic_ns() > deadline:
                raise SteleError(
                    f"the cgroup {self.folder} did not freeze within {timeout_s:g} s",
                    remedy="a task is blocked in the kernel; it freezes as soon as it returns: the order stands",
                    code="run.not-frozen",
                    retryable=True,
                )
            time.sleep(PAUSE_S)
        return time.monotonic_ns()

    def thaw(self) -> None:
        """Let everything run again. Idempotent."""
        if self.kind == "v1":
            _write(self.folder / "freezer.state", "THAWED")
        else:
            _write(self.folder / "cgroup.freeze", "0")

    def pids(self) -> list[int]:
        """The processes of the cgroup, by thread-group id."""
        return [int(line) for line in (self.folder / "cgroup.procs").read_bytes().split()]
