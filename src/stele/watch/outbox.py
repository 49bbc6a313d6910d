"""Reports that wait for their acknowledgement: numbered, kept, bounded. Pure."""

from __future__ import annotations

from typing import NamedTuple

from stele.model.report import Report


class Entry(NamedTuple):
    """A report under its number."""

    number: int
    report: Report


class Outbox:
    """At least once: an entry stays until it is acknowledged.

    Args:
        first: number of the first report; a successor starts higher than any number given before.
        room: how many may wait; what comes then is lost, and counted.
    """

    def __init__(self, first: int, room: int) -> None:
        self._next = first
        self._room = room
        self._waiting: dict[int, Report] = {}
        self._lost = 0

    def put(self, report: Report) -> None:
        """Add a report."""
        if len(self._waiting) >= self._room:
            self._lost += report.count
            return
        self._waiting[self._next] = report
        self._next += 1

    def after(self, number: int) -> list[Entry]:
        """What waits with a higher number, oldest first."""
        return [Entry(key, report) for key, report in self._waiting.items() if key > number]

    def acknowledge(self, number: int) -> list[Report]:
        """Forget everything up to and including `number`; returns what was forgotten."""
        done = [key for key in self._waiting if key <= number]
        return [self._waiting.pop(key) for key in done]

    def take_lost(self) -> int:
        """How many reports found no room since this was last asked."""
        lost, self._lost = self._lost, 0
        return lost
