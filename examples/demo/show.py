"""What the sections of the demo share: the screen, the command line, what was learned so far, and the measured times."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from examples.demo.prepare import Ground
    from examples.demo.screen import Screen
    from examples.demo.stele import Event, Stele

WORKLOAD = "shop"
SERVING_LIMIT_S = 60.0


@dataclasses.dataclass
class Show:
    """The state of one run of the demo.

    `releases`: digest by version. `moments`: UTC nanoseconds by name, for the proofs. `times`: measured seconds with what they
    span, by row of the last table. `incidents`: ids, in the order in which they happened.
    """

    screen: Screen
    stele: Stele
    where: Ground
    layout: Path
    releases: dict[str, str] = dataclasses.field(default_factory=dict)
    moments: dict[str, int] = dataclasses.field(default_factory=dict)
    times: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    incidents: list[str] = dataclasses.field(default_factory=list)

    def measured(self, row: str, seconds: float) -> None:
        """Add one measured time to a row of the last table."""
        self.times.setdefault(row, []).append(seconds)

    def newest(self) -> int:
        """Index of the workload's newest ledger entry, -1 if there is none."""
        return max((event["index"] for event in self.stele.events(WORKLOAD, last=1)), default=-1)

    def await_serving(self, *, instead_of: str = "", confirmed: bool = False) -> dict[str, Any]:
        """Wait until the workload serves (by another instance than `instead_of`; past its confirm window); its status."""
        limit = time.monotonic() + SERVING_LIMIT_S
        while True:
            status = self.stele.status(WORKLOAD)
            ready = status.get("instance") and status["instance"] != instead_of and status["phase"].startswith("serving")
            if (ready and (not confirmed or status["release"] in status["good"])) or time.monotonic() > limit:
                return status
            time.sleep(0.02)


def first(events: list[Event], kind: str, **data: Any) -> Event | None:
    """The first event of a kind whose data holds what is given."""
    return next((event for event in events if event["kind"] == kind and data.items() <= event["data"].items()), None)


def seconds_between(earlier: Event | None, later: Event | None) -> float | None:
    """Seconds from one event to another, by the ledger's times; None if one is missing."""
    if earlier is None or later is None:
        return None
    return (int(later["time_ns"]) - int(earlier["time_ns"])) / 1e9


def utc(time_ns: int) -> str:
    """UTC time as `stele prove --at` takes it, to the nanosecond."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time_ns // 1_000_000_000)) + f".{time_ns % 1_000_000_000:09d}Z"


def short(digest: str) -> str:
    """A digest as people compare it."""
    return digest.removeprefix("sha256:")[:12]
