"""Heads of a proof: checkpoints that were signed, the epochs under them, and which of them stand around an instant. Pure.

Steps 2 and 3 of docs/spec/proof.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from stele.model import epoch, private
from stele.model.event import HOST_WORKLOAD, Entry, decode_entry
from stele.prove.shape import NOT_CONVERTED, Hex, NeverRanClaim, Number, Proof, Shape, instants, invalid
from stele.trust import merkle, note
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.prove.shape import Claim, Head, Item
    from stele.trust.note import Opened
    from stele.trust.root import Root
    from stele.trust.trust_keys import Trust


class _Committed(Shape, frozen=True, kw_only=True):
    """What an epoch entry says (docs/spec/ledger.md)."""

    behind_ns: Number
    covers: Number
    map: Number
    map_root: Hex
    map_size: Number
    since: Number


class Epoch(NamedTuple):
    """A head that holds. `at`: index of the epoch entry. `since`: where the epoch before ends. `root`, `workloads`: of its map."""

    opened: note.Opened
    at: int
    time_ns: int
    behind_ns: int
    since: int
    root: bytes
    workloads: int

    @property
    def own(self) -> bool:
        """Whether its checkpoint is the one that was signed just after it, and not a later one in its place."""
        return self.opened.checkpoint.size == self.at + 1


class Bracket(NamedTuple):
    """Which heads stand around an instant, as places in the list.

    `before` is None where no epoch precedes *after*, and where it is not needed: then `exact`, all that *after* covers counts.
    """

    before: int | None
    after: int
    exact: bool

    @property
    def sure(self) -> bool:
        """Whether what the first head's map says counts at the instant."""
        return self.exact or self.before is not None


def read_entry(text: str, index: int) -> Entry:
    """A well-formed entry of any kind.

    Raises:
        SteleError: `prove.invalid`.
    """
    try:
        entry = decode_entry(text.encode("ascii"), any_kind=True)
    except (SteleError, UnicodeEncodeError) as error:
        raise invalid("an entry is malformed") from error
    if entry.event.kind == "epoch":
        committed(entry, index)
    return entry


def included(item: Item, last: Opened) -> tuple[Entry, bytes]:
    """The entry of an item, which is where it says in the log of the last head; and the root of the tree that ends with it.

    What is opened of it is what it commits to.

    Raises:
        SteleError: `prove.invalid`.
    """
    leaf = merkle.leaf_hash(item.entry.encode("utf-8", "surrogatepass"))
    roots_ = merkle.roots_from_inclusion(item.index, last.checkpoint.size, leaf, hashes(item.path))
    if roots_ is None or roots_[1] != last.checkpoint.root:
        raise invalid(f"entry {item.index} is not in the signed log")
    entry = read_entry(item.entry, item.index)
    for field, opening in item.openings.items():  # 7
        if not private.check_opening(entry, field, bytes.fromhex(opening.salt), opening.value):
            raise invalid("an opening is not what the entry commits to")
    return entry, roots_[0]


def hashes(path: Sequence[str]) -> list[bytes]:
    """A path's hashes as bytes."""
    return [bytes.fromhex(text) for text in path]


def committed(entry: Entry, index: int) -> _Committed:
    """What an epoch entry at this index commits to.

    Raises:
        SteleError: `prove.invalid`: it is no epoch, or does not cover what is before it.
    """
    event = entry.event
    try:
        said = msgspec.convert(event.data, _Committed)
    except NOT_CONVERTED as error:
        raise invalid("an epoch does not say what an epoch says") from error
    of_ledger = (event.kind, event.workload, event.actor, entry.sealed) == ("epoch", HOST_WORKLOAD, epoch.ACTOR, {})
    if not of_ledger or said.covers != index or said.map != epoch.MAP_VERSION or said.since > index:
        raise invalid("what should be an epoch is not, or does not cover all before it, or its map is of another format")
    return said


def root_of(proof: Proof, trust: Trust) -> Root | None:
    """The root of trust that the proof's documents lead to; None if the verifier trusts no root of this ledger.

    Raises:
        SteleError: `trust.bad-note`, `trust.bad-root`, `trust.root-order`, `trust.root-unsigned`.
    """
    heads = [note.unverified(_bytes(head)) for head in proof.heads]
    return trust.root(heads[0].origin, [document.encode("utf-8", "surrogatepass") for document in proof.roots])


def _bytes(head: Head) -> bytes:
    return head.checkpoint.encode("utf-8", "surrogatepass")


def check(proof: Proof, trust: Trust, root: Root | None) -> list[Epoch]:
    """Every head: signed, the beginning of the last one, with an epoch in it.

    Raises:
        SteleError: `trust.*`, `prove.invalid`.
    """
    opened = [_open(_bytes(head), trust, root) for head in proof.heads]
    last = opened[-1].checkpoint
    epochs: list[Epoch] = []
    for head, signed in zip(proof.heads, opened, strict=True):
        entry, first = included(head.epoch, opened[-1])
        said, index = committed(entry, head.epoch.index), head.epoch.index
        checkpoint = signed.checkpoint
        if checkpoint.origin != last.origin:
            raise invalid("its heads are of different ledgers")
        if (checkpoint.size, checkpoint.root) not in {(index + 1, first), (last.size, last.root)}:
            raise invalid("a head is not the beginning of the last one: the ledger was forked, or these are of two")
        made = Epoch(signed, index, entry.event.time_ns, said.behind_ns, said.since, bytes.fromhex(said.map_root), said.map_size)
        if epochs and not (epochs[-1].at < made.since and epochs[-1].time_ns < made.time_ns):
            raise invalid("its heads are not in order")
        epochs.append(made)
    return epochs


def _open(signed: bytes, trust: Trust, root: Root | None) -> note.Opened:
    """A checkpoint that is signed as it must be. What a stolen key signed is not believed: a proof brings a later one instead."""
    if root is None:
        return note.open_note(signed, trust.ledgers, trust.witnesses)
    keys = root.ledger_keys(note.unverified(signed).size)
    by = {(name, identity) for name, identity, _ in note.split_note(signed)[1]}
    ours, stolen = (
        any(key.algorithm == note.ED25519 and (key.name, key.key_id) in by for key in some)
        for some in (keys, [item.verifier for item in root.stolen])
    )
    if stolen and not ours:
        raise SteleError(
            "a checkpoint in the proof is signed with a key that was stolen later, and nothing shows that it is older than the theft",
            remedy="ask for the proof again: it is made with a checkpoint by the present key then", code="trust.stolen-key",
        )  # fmt: skip
    return note.open_note(signed, keys, trust.witnesses)


def brackets(claim: Claim, epochs: Sequence[Epoch]) -> list[Bracket]:
    """The heads around each instant of the claim; all heads must be used.

    Raises:
        SteleError: `prove.not-covered`, `prove.invalid`.
    """
    found = [_bracket(claim, epochs, at_ns) for at_ns in instants(claim)]
    used = {each for bracket in found for each in (bracket.before, bracket.after)} - {None}
    if len(used) != len(epochs):
        raise invalid("it brings heads that the claim does not need")
    return found


def _bracket(claim: Claim, epochs: Sequence[Epoch], at_ns: int) -> Bracket:
    after = next((number for number, epoch in enumerate(epochs) if epoch.time_ns >= at_ns), None)
    if after is None:
        raise SteleError(
            "the ledger in this proof ends before the instant that is claimed",
            remedy="make the proof again now", code="prove.not-covered",
        )  # fmt: skip
    epoch = epochs[after]
    if epoch.time_ns == at_ns or isinstance(claim, NeverRanClaim):
        return Bracket(None, after, True)
    if epoch.since == 0:
        return Bracket(None, after, False)
    if after == 0 or epochs[after - 1].at != epoch.since - 1:
        raise invalid("the heads are not the two around the instant: between them is another, which it does not bring")
    return Bracket(after - 1, after, False)
