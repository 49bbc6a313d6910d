"""Opening a ledger for writing: the lock first; one that does not fit is held read-only (docs/spec/ledger.md)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

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

Opened = TypeVar("Opened")


class Terms(NamedTuple):
    """How a ledger is written.

    signer: its keys. clock: UTC nanoseconds since 1970. cosign: is asked before anything is published. random: gives so many
    unpredictable bytes, the salts. trusted: whose keys may have signed what is there; without one, `signer`'s.
    """

    signer: Signs
    clock: Callable[[], int]
    cosign: Cosign | None = None
    random: Callable[[int], bytes] = os.urandom
    trusted: Root | None = None


def write_failed(what: str, error: OSError, remedy: str) -> SteleError:
    """The error for a disk that fails. `what`: was to be done to the ledger."""
    return SteleError(f"the ledger could not be {what}: {error}", remedy=remedy, code="ledger.write-failed")


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
        return make(folder, lock, terms)
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


def tell_of_the_past(folder: Path, append: Callable[[list[Event]], object], clock: Callable[[], int]) -> None:
    """A ledger that did not fit and fits again, because its bytes are back, says so itself."""
    past = read_only.marked(folder)
    if past is not None:
        data = {"code": past["code"], "reason": past["reason"], "since_ns": past["time_ns"]}
        append([Event(workload=HOST_WORKLOAD, kind="ledger.restored", time_ns=clock(), actor=ACTOR, data=data)])
        read_only.unmark(folder)
