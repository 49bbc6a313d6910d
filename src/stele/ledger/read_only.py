"""A ledger that does not fit: nothing is added or signed any more, and everybody is told why (docs/spec/ledger.md)."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NoReturn

from stele.host import durable
from stele.ledger import regular
from stele.trust import canonical, note
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from stele.ledger.lock import Lock
    from stele.model.event import Entry, Event

# what no writing could mend: the bytes are not those that were signed or committed
_CODES = (
    "ledger.damaged",
    "ledger.bad-entry",
    "trust.bad-note",
    "trust.bad-signature",
    "trust.missing-signature",
    "trust.not-canonical",
    "trust.stolen-key",
    "trust.unknown-signer",
)
MAX_MARK = 1 << 16
MARK = "read-only"  # in `.state`, as long as it lasts


def is_reason(error: SteleError) -> bool:
    """Whether an error of the writer is one that makes a ledger read-only."""
    return error.code in _CODES


def mark(folder: Path, why: SteleError, time_ns: int) -> None:
    """Leave word for readers and for the next opening; the first reason stays. Failing to is no further harm."""
    path = folder / ".state" / MARK
    with contextlib.suppress(OSError):
        if not path.exists():
            plain = {"code": why.code, "reason": why.reason, "remedy": why.remedy, "time_ns": time_ns}
            durable.write(path, canonical.encode(plain) + b"\n")


def marked(folder: Path) -> dict[str, Any] | None:
    """The word that `mark` left: `code`, `reason`, `remedy`, `time_ns`; None where there is none, or it cannot be read."""
    try:
        found = canonical.decode(regular.read(folder / ".state" / MARK, MAX_MARK).removesuffix(b"\n"))
    except (OSError, SteleError):
        return None
    return found if isinstance(found, dict) and {"code", "reason", "remedy", "time_ns"} <= set(found) else None


def unmark(folder: Path) -> None:
    """It fits again."""
    durable.remove(folder / ".state" / MARK)


class ReadOnlyLedger:
    """Stands where a `Ledger` would, holds its lock, and refuses whatever would add to it."""

    def __init__(self, folder: Path, why: SteleError, lock: Lock) -> None:
        self._lock = lock
        self.read_only = why
        self.witnesses: Callable[[], list[dict[str, Any]]] = list  # nobody is asked
        self.published = 0
        with contextlib.suppress(OSError, SteleError):
            self.published = note.unverified(regular.read(folder / "checkpoint", note.MAX_NOTE)).size

    @property
    def size(self) -> int:
        """As many entries as the checkpoint says; what was committed after it is unknown."""
        return self.published

    @property
    def erasing(self) -> bool:
        """Nothing is recorded, so nothing is erased."""
        return False

    def uncovered(self) -> list[Entry]:
        """None that are known."""
        return []

    def append(self, _events: Sequence[Event]) -> NoReturn:
        """Refuse, and say why.

        Raises:
            SteleError: the reason.
        """
        raise SteleError(self.read_only.reason, remedy=self.read_only.remedy, code=self.read_only.code)

    def publish(self) -> NoReturn:
        """Refuse, and say why. Raises as `append`."""
        self.append(())

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()
