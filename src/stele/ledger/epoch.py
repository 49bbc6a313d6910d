"""Epoch leaves: a commitment to the latest entry of every workload, as the last leaf of every checkpoint. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.model.epochmap import map_root
from stele.model.event import HOST_WORKLOAD, Event

if TYPE_CHECKING:
    from collections.abc import Mapping

ACTOR = "ledger"


def epoch_event(covers: int, heads: Mapping[str, tuple[int, str]], time_ns: int) -> Event:
    """The epoch event over the first `covers` entries, whose chains end in `heads` (workload → count, digest)."""
    return Event(
        workload=HOST_WORKLOAD,
        kind="epoch",
        time_ns=time_ns,
        actor=ACTOR,
        data={"covers": covers, "map_root": map_root(heads).hex(), "map_size": len(heads)},
    )
