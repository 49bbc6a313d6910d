"""Redactions that are recorded and not finished yet (docs/spec/sealed.md). Not thread-safe: its owner serialises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.model import redaction
from stele.model.event import decode_entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.model.event import Event
    from stele.model.redaction import Targets

KIND = "log.redacted"
_MARK = b'"kind":"log.redacted"'


class Erasing:
    """What is still to be erased, by the index of the entry that says so. At first all that the write-ahead log has of them.

    The write-ahead log begins anew only after a redaction is finished: so what is in it may not be, and is done again.
    """

    def __init__(self, base: int, entries: Sequence[bytes]) -> None:
        self.open: dict[int, Targets] = {}
        for index, raw in enumerate(entries, base):
            if _MARK in raw and (event := decode_entry(raw).event).kind == KIND:
                self.open[index] = redaction.erased(event)

    def take(self, index: int, event: Event) -> None:
        """Take in an event that was committed."""
        self.open[index] = redaction.erased(event)

    def due(self, size: int) -> dict[int, set[str]]:
        """Fields to erase by entry, of all redactions that a checkpoint of this size covers."""
        found: dict[int, set[str]] = {}
        for index, targets in self.open.items():
            if index < size:
                for target, fields in targets.items():
                    found.setdefault(target, set()).update(fields)
        return found

    def done(self, size: int) -> None:
        """All of those are finished."""
        self.open = {index: targets for index, targets in self.open.items() if index >= size}


def refuse_malformed(event: Event, size: int) -> None:
    """Refuse a redaction of anything that is not committed yet, or that cannot be read.

    Raises:
        SteleError: `ledger.bad-entry`.
    """
    if any(index >= size for index in redaction.erased(event)):
        raise redaction.malformed()
