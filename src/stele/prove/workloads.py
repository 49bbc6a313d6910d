"""All workloads at an instant: their half of the map made anew from its leaves. Pure (docs/spec/proof.md, step 5)."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from stele.model import epochmap
from stele.model.epochmap import EMPTY
from stele.model.event import HOST_WORKLOAD
from stele.prove.shape import instants, invalid
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stele.model.event import Entry
    from stele.prove.heads import Bracket, Epoch
    from stele.prove.shape import Proof, Row


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


def check(proof: Proof, found: Sequence[tuple[int, Entry]], epochs: Sequence[Epoch], bracket: Bracket) -> list[str]:
    """The names of all workloads at the instant, sorted; the host's own chain is not one.

    A map only grows: those that the one before has not are the ones whose first entry is between the two. The entry of the epoch
    before is one: it may be the host's first, and its own map does not cover it.

    Raises:
        SteleError: `prove.invalid`.
    """
    assert proof.workloads is not None
    leaves, last = proof.workloads.leaves, epochs[-1]
    # the number first: whoever has no key cannot make a verifier work for long
    if len(leaves) != last.workloads or root_of(leaves, bytes.fromhex(proof.workloads.rest)) != last.root:
        raise invalid("the workloads are not those of the signed map")
    names = {row.workload for row in leaves}
    since = last.at if bracket.exact else max(last.since - 1, 0)
    new = {entry.event.workload for index, entry in found if entry.seq == 0 and since <= index < last.at} & names
    if not len(found) == len(new) == len(names) - (epochs[0].workloads if bracket.sure else 0):
        raise invalid("it does not bring the first entry of each workload that was new, and no others")
    late = {entry.event.workload for _, entry in found if entry.event.time_ns > instants(proof.claim)[0]}
    return sorted(names - late - {HOST_WORKLOAD})
