"""Epoch leaves: a commitment to where every workload's chain stands, as the last leaf of every checkpoint. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.ledger.tiles import damaged
from stele.model.event import HOST_WORKLOAD, Event

if TYPE_CHECKING:
    from stele.ledger.chains import Chains
    from stele.model.event import Entry

ACTOR = "ledger"
MAP_VERSION = 1


def epoch_event(covers: int, chains: Chains, time_ns: int) -> Event:
    """The epoch event over the first `covers` entries, whose chains stand so."""
    root, workloads = chains.fold()
    data = {"covers": covers, "map": MAP_VERSION, "map_root": root.hex(), "map_size": workloads}
    return Event(workload=HOST_WORKLOAD, kind="epoch", time_ns=time_ns, actor=ACTOR, data=data)


def check(entry: Entry, index: int, chains: Chains) -> None:
    """An epoch entry, before it is itself counted in, against the chains that it commits to.

    Raises:
        SteleError: `ledger.damaged`.
    """
    root, workloads = chains.fold()
    data = entry.event.data
    said = (data.get("covers"), data.get("map"), data.get("map_root"), data.get("map_size"))
    if said != (index, MAP_VERSION, root.hex(), workloads):
        raise damaged(f"epoch entry {index} does not commit to what precedes it")
