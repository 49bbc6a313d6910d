"""Reports that wait for their acknowledgement, coalesced and bounded. No clock of its own: time comes in."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from stele.model.report import Report

WINDOW_NS = 1_000_000_000
Key = tuple[str, str, str, str]


class Entry(NamedTuple):
    """A report under its number."""

    number: int
    report: Report


class Outbox:
    """At least once: an entry stays until it is acknowledged. Repetitions within a second become a count.

    Args:
        first: number of the first report; a successor starts higher than any number given before.
        room: how many may wait; the next one is lost, and `lost` counts it.
    """

    def __init__(self, first: int, room: int) -> None:
        self._next = first
        self._room = room
        self._waiting: dict[int, Report] = {}
        self._recent: dict[Key, tuple[int, Report | None]] = {}
        self.lost = 0

    def put(self, report: Report, now_ns: int, *, at_once: bool = False) -> bool:
        """Add a report; True when it can be sent now, False when it was counted to one of the last second (or lost).

        Args:
            report: what to tell.
            now_ns: monotonic time.
            at_once: never coalesce (a freeze).
        """
        if not at_once:
            key = (report.instance, report.kind, report.path, report.syscall)
            since, pending = self._recent.get(key, (0, None))
            if since and now_ns - since < WINDOW_NS:
                count = report.count + (pending.count if pending else 0)
                self._recent[key] = (since, msgspec.structs.replace(pending or report, count=count))
                return False
            if len(self._recent) >= self._room:
                self.lost += report.count
                return False
            self._recent[key] = (now_ns, None)
        return self._add(report)

    def _add(self, report: Report) -> bool:
        if len(self._waiting) >= self._room:
            self.lost += report.count
            return False
        self._waiting[self._next] = report
        self._next += 1
        return True

    def settle(self, now_ns: int) -> bool:
        """Turn what was counted for a second into reports; True when there are new ones."""
        due = [key for key, (since, _) in self._recent.items() if now_ns - since >= WINDOW_NS]
        added = False
        for key in due:
            _, pending = self._recent.pop(key)
            if pending is not None:
                self._recent[key] = (now_ns, None)
                added |= self._add(pending)
        return added

    @property
    def is_counting(self) -> bool:
        """Whether `settle` will have something to do later."""
        return bool(self._recent)

    def after(self, number: int) -> list[Entry]:
        """What waits with a higher number, oldest first."""
        return [Entry(key, report) for key, report in self._waiting.items() if key > number]

    def acknowledge(self, number: int) -> list[Report]:
        """Forget everything up to and including `number`; returns what was forgotten."""
        done = [key for key in self._waiting if key <= number]
        return [self._waiting.pop(key) for key in done]

    def take_lost(self) -> int:
        """How many reports found no room since this was last asked."""
        lost, self.lost = self.lost, 0
        return lost
