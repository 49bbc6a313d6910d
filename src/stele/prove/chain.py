"""A workload's part of a proof: where it stands in each map, and the entries that lead from one to the next. Pure.

Step 4 of docs/spec/proof.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from stele.model import epochmap, facts, history
from stele.prove.heads import hashes, included
from stele.prove.shape import RanRow, Row, invalid
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.model.event import Entry
    from stele.model.history import WorkloadState
    from stele.prove.heads import Bracket, Epoch
    from stele.prove.shape import Absence, Proof, Start


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


def leaf_of(other: dict[str, Any]) -> tuple[int, bytes]:
    """Key and hash of a leaf in a map."""
    try:
        if "release" in other:
            ran = msgspec.convert(other, RanRow)
            return epochmap.ran_key(ran.workload, ran.release), epochmap.ran_hash(ran.workload, ran.release, ran.seq)
        row = msgspec.convert(other, Row)
        return epochmap.key_of(row.workload), epochmap.leaf_hash(row.workload, row.count, row.head, row.state)
    except (msgspec.ValidationError, SteleError) as error:
        raise invalid("a leaf of a map is malformed") from error


def check_absent(key: int, absence: Absence, epoch: Epoch) -> None:
    """The key is not in the epoch's map.

    Raises:
        SteleError: `prove.invalid`.
    """
    other, end = leaf_of(absence.other) if absence.other is not None else (None, epochmap.EMPTY)
    path = hashes(absence.path)
    if not epochmap.shows_absence(key, path, other) or epochmap.root_from(key, path, end) != epoch.root:
        raise invalid("it does not show that what should be absent is not in the map")


def check(proof: Proof, workload: str, epochs: Sequence[Epoch], first_bracket: Bracket) -> Chain:
    """The places in the maps, and the entries between them.

    Raises:
        SteleError: `prove.invalid`.
    """
    counts = [place.count for place in proof.places]
    if len(counts) != len(epochs):
        raise invalid("a head says nothing of the workload")
    for place, epoch in zip(proof.places, epochs, strict=True):
        if place.count == 0:
            check_absent(epochmap.key_of(workload), place, epoch)
        elif place.other is not None:
            raise invalid("a workload cannot be in a map and not")
    # without an epoch before the first instant, anything from the first entry on may count
    floor = 0 if proof.form == "chain" or (first_bracket.before is None and not first_bracket.exact) else counts[0]
    state, head = _start(proof.start, workload, floor)
    chain = Chain(workload, floor, state, _entries(proof, epochs[-1], workload), counts)
    _replay(chain, proof, epochs, head)
    return chain


def _start(start: Start | None, workload: str, count: int) -> tuple[WorkloadState, str]:
    if (start is None) != (count == 0):
        raise invalid("it begins in the middle of the workload's chain, or says so of its beginning")
    if start is None:
        return history.start(workload), ""
    try:
        kept = facts.from_plain(start.facts)
    except SteleError as error:
        raise invalid("the facts that it begins with are malformed") from error
    if kept.plain() != start.facts:
        raise invalid("the facts that it begins with are spelled otherwise")
    return kept.state(workload), start.head


def _entries(proof: Proof, last: Epoch, workload: str) -> list[tuple[int, Entry]]:
    found: list[tuple[int, Entry]] = []
    before = -1
    for item in proof.entries:
        entry = included(item, last)
        if item.index <= before or entry.event.workload != workload:
            raise invalid("its entries are out of order, or of another workload")
        before = item.index
        found.append((item.index, entry))
    return found


def _replay(chain: Chain, proof: Proof, epochs: Sequence[Epoch], head: str) -> None:
    """Every entry continues the chain, and at every head they make what its map names."""
    state, done = chain.before, chain.first
    if list(chain.counts) != sorted(chain.counts):
        raise invalid("the maps do not count forward")
    if chain.counts[-1] - chain.first != len(chain.entries):
        raise invalid(f"the maps count {chain.counts[-1]} entries of the workload, it brings others")
    for place, epoch in zip(proof.places, epochs, strict=True):
        while done < place.count:
            index, entry = chain.entries[done - chain.first]
            if entry.seq != done or entry.prev != head or index >= epoch.at:
                raise invalid("an entry does not continue the workload's chain, or came later than the map that counts it")
            state, head = history.advance(state, entry.event), sha256(proof.entries[done - chain.first].entry.encode())
            done += 1
        if done - chain.first < len(chain.entries) and chain.entries[done - chain.first][0] < epoch.at:
            raise invalid("an entry came before the map that does not count it")
        if place.count:
            leaf = epochmap.leaf_hash(chain.workload, place.count, head, facts.of(state).digest)
            if epochmap.root_from(epochmap.key_of(chain.workload), hashes(place.path), leaf) != epoch.root:
                raise invalid("a map does not say of the workload what its entries make")
