"""All workloads at an instant: their half of the map made anew from its leaves. Pure (docs/spec/proof.md, step 5)."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from stele.model import epochmap
from stele.model.epochmap import EMPTY
from stele.model.event import HOST_WORKLOAD
from stele.prove.heads import included
from stele.prove.shape import invalid
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stele.model.event import Entry
    from stele.prove.heads import Bracket, Epoch
    from stele.prove.shape import Item, Map, Row
    from stele.prove.whole import Whole


def root_of(rows: Iterable[Row], rest: bytes) -> bytes:
    """The root of the map with these workloads, and the other half with the hash `rest`.

    Raises:
        SteleError: `prove.invalid`: they are not sorted by key, or a workload is there twice.
    """
    try:
        leaves = [epochmap.leaf(row.workload, row.count, row.head, row.state) for row in rows]
    except SteleError as error:
        raise invalid("a leaf of a map is malformed") from error
    if any(one.key >= two.key for one, two in itertools.pairwise(leaves)):
        raise invalid("the leaves of a map are not sorted")
    half = epochmap.put(None, leaves, depth=1)
    if rest == EMPTY and len(leaves) < 2:
        return epochmap.hash_of(half)
    return epochmap.branch_hash(epochmap.hash_of(half), rest)


def check(maps: Sequence[Map], items: Sequence[Item], epochs: Sequence[Epoch], bracket: Bracket, at_ns: int) -> list[str]:
    """The names of all workloads at the instant, sorted; the host's own chain is not one.

    Raises:
        SteleError: `prove.invalid`.
    """
    if len(maps) != len(epochs):
        raise invalid("it does not bring the map of each head")
    for said, epoch in zip(maps, epochs, strict=True):
        if root_of(said.leaves, bytes.fromhex(said.rest)) != epoch.root or len(said.leaves) != epoch.workloads:
            raise invalid("the workloads are not those of the signed map")
    last, names = epochs[bracket.after], {row.workload for row in maps[bracket.after].leaves}
    before = {row.workload for row in maps[bracket.before].leaves} if bracket.before is not None else set()
    first = _first_entries(items, last)
    if not before <= names or first.keys() != (set() if bracket.exact else names - before):
        raise invalid("it does not bring the first entry of each workload that was new")
    floor = epochs[bracket.before].at if bracket.before is not None else -1
    if any(not floor < index < last.at for index, _ in first.values()):
        raise invalid("the first entry of a workload lies elsewhere in the log")
    later = {name for name, (_, entry) in first.items() if entry.event.time_ns > at_ns}
    return sorted(names - later - {HOST_WORKLOAD})


def _first_entries(items: Sequence[Item], last: Epoch) -> dict[str, tuple[int, Entry]]:
    first: dict[str, tuple[int, Entry]] = {}
    for item in items:
        entry = included(item, last)
        if entry.seq or entry.event.workload in first:
            raise invalid("an entry is not the first of its workload, or is there twice")
        first[entry.event.workload] = item.index, entry
    return first


def from_log(whole: Whole, epochs: Sequence[Epoch], bracket: Bracket, at_ns: int) -> list[str]:
    """The same from the whole log."""
    end = epochs[bracket.after].at
    sure = end if bracket.exact else epochs[bracket.before].at if bracket.before is not None else 0
    return sorted(
        name
        for name, (index, entry) in whole.first.items()
        if name != HOST_WORKLOAD and (index < sure or (index < end and entry.event.time_ns <= at_ns))
    )
