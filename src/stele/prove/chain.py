"""A workload's part of a proof: where it stands in each map, and the entries that lead from one to the next. Pure.

Step 4 of docs/spec/proof.md.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

from stele.model import epochmap, facts, history
from stele.prove.heads import hashes, included
from stele.prove.shape import RanRow, facts_of, invalid, row_of
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.model.event import Entry
    from stele.model.history import WorkloadState
    from stele.prove.heads import Bracket, Epoch
    from stele.prove.shape import Place, Proof


class Chain(NamedTuple):
    """Entries of a workload from its `first` on (index in the log, entry), what is the case before them, and the count at each head."""

    workload: str
    first: int
    before: WorkloadState
    entries: Sequence[tuple[int, Entry]]
    counts: Sequence[int]

    def count_at(self, bracket: Bracket, at_ns: int) -> int:
        """How many entries of the workload count at an instant."""
        if bracket.exact:
            return self.counts[bracket.after]
        count = self.counts[bracket.before] if bracket.before is not None else 0
        while count < self.counts[bracket.after] and self.entries[count - self.first][1].event.time_ns <= at_ns:
            count += 1
        return count

    def state_at(self, count: int) -> WorkloadState:
        """The state after so many entries."""
        state = self.before
        for _, entry in self.entries[: count - self.first]:
            state = history.advance(state, entry.event)
        return state


def leaf_of(leaf: dict[str, Any]) -> tuple[int, bytes]:
    """Key and hash of a leaf in a map."""
    row = row_of(leaf)
    try:
        if isinstance(row, RanRow):
            return epochmap.ran_key(row.workload, row.release), epochmap.ran_hash(row.workload, row.release, row.seq)
        return epochmap.key_of(row.workload), epochmap.leaf_hash(row.workload, row.count, row.head, row.state)
    except SteleError as error:
        raise invalid("a leaf of a map is malformed") from error


def find(key: int, place: Place, epoch: Epoch) -> dict[str, Any] | None:
    """The leaf of a key in the epoch's map, or None: it is not there.

    Raises:
        SteleError: `prove.invalid`: the path does not lead there.
    """
    found, end = leaf_of(place.leaf) if place.leaf is not None else (None, epochmap.EMPTY)
    path = hashes(place.path)
    if len(path) > epochmap.MAX_DEPTH or epochmap.root_from(key, path, end) != epoch.root:
        raise invalid("a path does not lead to the root of the map")
    if found == key:
        return place.leaf
    if not epochmap.shows_absence(key, path, found):
        raise invalid("it does not show that what should be absent is not in the map")
    return None


def check(proof: Proof, workload: str, epochs: Sequence[Epoch], first_bracket: Bracket) -> Chain:
    """The places in the maps, and the entries between them.

    Raises:
        SteleError: `prove.invalid`.
    """
    key = epochmap.key_of(workload)
    rows = [find(key, head.place, epoch) for head, epoch in zip(proof.heads, epochs, strict=True) if head.place is not None]
    counts = [row["count"] if row else 0 for row in rows]
    state, head, first = history.start(workload), "", 0
    if proof.facts is not None:
        kept, row = facts_of(proof.facts), rows[0]
        # without an epoch before the first instant, anything from the first entry on may count
        if row is None or row["state"] != kept.digest or not first_bracket.sure:
            raise invalid("it begins elsewhere in the workload's chain than it says")
        state, head, first = kept.state(workload), row["head"], row["count"]
    chain = Chain(workload, first, state, entries(proof, epochs[-1]), counts)
    _replay(chain, proof, epochs, rows, head)
    return chain


def entries(proof: Proof, last: Epoch) -> list[tuple[int, Entry]]:
    """The entries that it brings, by index.

    Raises:
        SteleError: `prove.invalid`.
    """
    found = [(item.index, included(item, last.opened)[0]) for item in proof.entries]
    if any(one >= two for (one, _), (two, _) in itertools.pairwise(found)):
        raise invalid("its entries are out of order")
    return found


def _replay(chain: Chain, proof: Proof, epochs: Sequence[Epoch], rows: Sequence[dict[str, Any] | None], head: str) -> None:
    """Every entry continues the chain, and at every head they make what its map names."""
    state, done = chain.before, chain.first
    if len(chain.entries) != sum(index < epochs[-1].at for index, _ in chain.entries):
        raise invalid("it brings entries of after its last head")
    for row, epoch in zip(rows, epochs, strict=True):
        for place in range(done - chain.first, sum(index < epoch.at for index, _ in chain.entries)):
            _, entry = chain.entries[place]
            if entry.event.workload != chain.workload or entry.seq != done or entry.prev != head:
                raise invalid("an entry does not continue the workload's chain")
            state, head = history.advance(state, entry.event), sha256(proof.entries[place].entry.encode())
            done += 1
        made = {"workload": chain.workload, "count": done, "head": head, "state": facts.of(state).digest}
        if (row or None) != (made if done else None):
            raise invalid("a map does not say of the workload what its entries make")
