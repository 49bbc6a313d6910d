"""Epoch leaves: a commitment to where every workload's chain stands, as the last leaf of every checkpoint. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.model.damage import damaged
from stele.model.event import HOST_WORKLOAD, Event
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stele.model.chains import Chains
    from stele.model.event import Entry

ACTOR = "ledger"
MAP_VERSION = 2


class Trail:
    """What an epoch says of what went before besides the map: the latest stamp, and where the epoch before it ends."""

    __slots__ = ("latest_ns", "since")

    def __init__(self, latest_ns: int = -1, since: int = 0) -> None:
        self.latest_ns, self.since = latest_ns, since

    def take(self, entry: Entry, index: int) -> None:
        """Count one more entry in."""
        event = entry.event
        if event.time_ns > self.latest_ns:  # noqa: PLR1730  half the time of max()
            self.latest_ns = event.time_ns
        if event.kind == "epoch":
            self.since = index + 1


def refuse_epochs(events: Iterable[Event]) -> None:
    """Refuse to record an epoch that somebody else than the ledger made: light proofs believe what an epoch in the log says.

    Raises:
        SteleError: `ledger.bad-entry`.
    """
    for event in events:
        if event.kind == "epoch":
            raise SteleError(
                "an epoch is written by the ledger itself", remedy="report it: this is an error of Stele", code="ledger.bad-entry"
            )


def epoch_event(covers: int, chains: Chains, trail: Trail, now_ns: int) -> Event:
    """The epoch event over the first `covers` entries, whose chains stand so. It is stamped later than all of them."""
    root, workloads = chains.fold()
    time_ns = max(now_ns, trail.latest_ns + 1)
    data = {
        "behind_ns": time_ns - now_ns,
        "covers": covers,
        "map": MAP_VERSION,
        "map_root": root.hex(),
        "map_size": workloads,
        "since": trail.since,
    }
    return Event(workload=HOST_WORKLOAD, kind="epoch", time_ns=time_ns, actor=ACTOR, data=data)


def check(entry: Entry, index: int, chains: Chains, trail: Trail) -> None:
    """An epoch entry, before it is itself counted in, against what it commits to.

    Raises:
        SteleError: `ledger.damaged`.
    """
    behind = entry.event.data.get("behind_ns")
    now_ns = entry.event.time_ns - behind if isinstance(behind, int) else -1
    if not 0 <= now_ns <= entry.event.time_ns or entry.event != epoch_event(index, chains, trail, now_ns):
        raise damaged(f"epoch entry {index} does not commit to what precedes it")
