"""Opening a ledger for writing: the lock first; one that does not fit is held read-only (docs/spec/ledger.md)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from stele.host import durable
from stele.ledger import read_only
from stele.ledger.lock import Lock
from stele.ledger.notary import Cosign, Signs
from stele.ledger.read_only import ReadOnlyLedger
from stele.model.epoch import ACTOR
from stele.model.event import HOST_WORKLOAD, Event
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from pathlib import Path

    from stele.trust.root import Root


class _Writable(Protocol):
    """What opening makes: `sequencer.Ledger`."""

    def append(self, events: Sequence[Event]) -> object:
        """Commit events."""

    def close(self) -> None:
        """Let go of it."""


Opened = TypeVar("Opened", bound=_Writable)


class Terms(msgspec.Struct, frozen=True):
    """How a ledger is written.

    signer: its keys. clock: UTC nanoseconds since 1970. cosign: is asked before anything is published. random: gives so many
    unpredictable bytes, the salts. trusted: whose keys may have signed what is there; without one, `signer`'s.
    """

    signer: Signs
    clock: Callable[[], int]
    cosign: Cosign | None = None
    random: Callable[[int], bytes] = os.urandom
    trusted: Root | None = None


def write_failed(what: str, error: OSError, remedy: str = "free space or mend the disk, then start the agent again") -> SteleError:
    """The error for a disk that fails. `what`: was to be done to the ledger."""
    return SteleError(f"the ledger could not be {what}: {error}", remedy=remedy, code="ledger.write-failed")


def stopped(error: BaseException) -> SteleError:
    """The error for what nobody foresaw."""
    return SteleError(
        f"the ledger stopped: {type(error).__name__}: {error}",
        remedy="start the agent again; if it happens again, report it",
        code="ledger.write-failed",
    )


def closed() -> SteleError:
    """The error for whoever comes too late."""
    return SteleError("the ledger is closed", remedy="open it again", code="ledger.closed")


def open_or_hold(folder: Path, terms: Terms, make: Callable[[Path, Lock, Terms], Opened]) -> Opened | ReadOnlyLedger:
    """Take the lock and recover; what does not fit is held read-only, so that nobody else writes it either.

    Raises:
        SteleError: `ledger.locked`, `ledger.write-failed`.
    """
    try:
        durable.make_dirs(folder / ".state", 0o700)
        durable.make_dirs(folder / "checkpoints")
        lock = Lock.take(folder)
    except OSError as error:
        raise write_failed("opened", error, "free space or mend the disk, or run as the user who owns it") from error
    try:
        made = make(folder, lock, terms)
    except SteleError as error:
        if read_only.is_reason(error):
            read_only.mark(folder, error, terms.clock())
            return ReadOnlyLedger(folder, error, lock)
        lock.release()
        raise
    except OSError as error:
        lock.release()
        raise write_failed("opened", error, "free space or mend the disk, then try again") from error
    except BaseException:
        lock.release()
        raise
    try:
        _tell_of_the_past(folder, made, terms.clock)
    except BaseException:
        made.close()
        raise
    return made


def _tell_of_the_past(folder: Path, made: Opened, clock: Callable[[], int]) -> None:
    """A ledger that did not fit and fits again, because its bytes are back, says so itself."""
    past = read_only.marked(folder)
    if past is not None:
        data = {"code": past["code"], "reason": past["reason"], "since_ns": past["time_ns"]}
        made.append([Event(workload=HOST_WORKLOAD, kind="ledger.restored", time_ns=clock(), actor=ACTOR, data=data)])
        read_only.unmark(folder)
