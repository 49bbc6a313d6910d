"""Building a proof from a published ledger and the signatures of the releases that ran (docs/spec/proof.md)."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from stele.model import epochmap, facts, history, private
from stele.model.epochmap import Leaf, Ran
from stele.prove import answers, shape
from stele.prove.chain import Chain
from stele.prove.heads import Bracket, read_entry
from stele.prove.shape import Head, Item, NeverRanClaim, Opening, Place, Proof, Row, Signed, Workloads, WorkloadsClaim
from stele.trust import merkle, note
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from stele.model.epochmap import Found
    from stele.model.event import Entry
    from stele.model.release import ReleaseEvidence
    from stele.prove.shape import Claim


class Epoch(Protocol):
    """An epoch of a ledger: index of its entry, and its stamp."""

    @property
    def epoch(self) -> int:
        """Index."""

    @property
    def time_ns(self) -> int:
        """Stamp."""


class SignedHead(Protocol):
    """A checkpoint (the note) of a size that covers an epoch, timestamps of it, and the epoch's entry."""

    @property
    def note(self) -> bytes:
        """The note."""

    @property
    def size(self) -> int:
        """Entries under it."""

    @property
    def entry(self) -> bytes:
        """The epoch's entry."""

    @property
    def timestamps(self) -> Sequence[bytes]:
        """RFC 3161 answers over the checkpoint."""


class Log(Protocol):
    """A published ledger to read from, at any instant. Its epochs go back to it as they came from it."""

    def around(self, time_ns: int) -> tuple[Epoch | None, Epoch | None]:
        """The last epoch stamped before an instant, and the one after it."""

    def head(self, at: Any) -> SignedHead:
        """A checkpoint of then."""

    def find(self, at: Any, key: int) -> Found:
        """Where a key's path ends in the epoch's map."""

    def workloads(self, at: Any) -> tuple[list[Leaf], bytes]:
        """All workloads in the epoch's map, sorted by key, and the hash of its other half."""

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Audit path of an entry in the tree of a size."""

    def chain(self, workload: str, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Index and bytes of a workload's entries, by its own count."""

    def raw_entries(self, begin: int, end: int) -> Iterator[bytes]:
        """Entries as bytes."""


def build(
    log: Log,
    claim: Claim,
    form: str,
    evidence: Callable[[str], ReleaseEvidence],
    openings: Callable[[int, Entry], Mapping[str, private.Opening]] | None = None,
    roots: Sequence[bytes] = (),
) -> bytes:
    """The proof file's bytes.

    Args:
        log: a published ledger.
        claim: the question.
        form: `light`, `chain` or `log`.
        evidence: gives what belongs to a release digest.
        openings: gives, of an entry at an index, what could be opened, by private field; without it nothing private is in the proof.
        roots: the documents of the ledger's root of trust, oldest first.

    Raises:
        SteleError: `prove.not-covered`, `prove.it-ran`, `prove.too-large`, `ledger.damaged`, `ledger.bad-map`, and what `evidence` raises.
    """
    maker = _Maker(log, claim, form)
    named: tuple[str, ...] = ()
    if isinstance(claim, WorkloadsClaim):
        parts = maker.all_workloads()
    else:
        parts, chain = maker.workload(claim)
        named = answers.of_chain(claim, chain, maker.brackets).named
        if openings is not None:
            parts["entries"] = [_opened(*both, openings) for both in zip(parts["entries"], chain.entries, strict=True)]
    proof = Proof(
        format=shape.FORMAT,
        claim=claim,
        form=form,
        log=[raw.decode() for raw in log.raw_entries(0, maker.signed[-1].size)] if form == "log" else [],
        releases=[_signed(evidence(digest), light=form == "light") for digest in named],
        roots=[document.decode() for document in roots],
        **parts,
    )
    data = shape.encode(proof)
    if len(data) > shape.MAX_PROOF:
        raise SteleError(
            f"the proof would be {len(data) >> 20} MiB, more than a proof may be ({shape.MAX_PROOF >> 20} MiB)",
            remedy="make a smaller form; a whole ledger is replayed by `stele log check`",
            code="prove.too-large",
        )
    return data


class _Maker:
    """The heads of one proof, and what is read under them."""

    def __init__(self, log: Log, claim: Claim, form: str) -> None:
        self._log, self._claim, self._form = log, claim, form
        self.epochs: list[Epoch] = []
        self.brackets = [self._bracket(at_ns) for at_ns in shape.instants(claim)]
        self.signed = [log.head(epoch) for epoch in self.epochs]

    def _place(self, epoch: Epoch) -> int:
        if not self.epochs or self.epochs[-1].epoch < epoch.epoch:
            self.epochs.append(epoch)
        return next(number for number, known in enumerate(self.epochs) if known.epoch == epoch.epoch)

    def _bracket(self, at_ns: int) -> Bracket:
        before, after = self._log.around(at_ns)
        if after is None:
            raise SteleError(
                "the ledger does not reach that instant yet", remedy="give an instant that has passed", code="prove.not-covered"
            )
        if after.time_ns == at_ns or isinstance(self._claim, NeverRanClaim):
            return Bracket(None, self._place(after), True)
        return Bracket(self._place(before) if before is not None else None, self._place(after), False)

    def _heads(self, places: Sequence[Place | None]) -> list[Head]:
        """All heads. A checkpoint is the one of just that epoch, or where there is none, the last head's."""
        last = self.signed[-1]
        out: list[Head] = []
        for epoch, signed, place in zip(self.epochs, self.signed, places, strict=True):
            under = signed if signed.size == epoch.epoch + 1 else last
            timestamps = [base64.b64encode(token).decode() for token in under.timestamps]
            item = self._item(epoch.epoch, signed.entry)
            out.append(Head(checkpoint=under.note.decode(), timestamps=timestamps, epoch=item, place=place))
        return out

    def _item(self, index: int, raw: bytes) -> Item:
        """An entry and its audit path in the last head's tree. A proof that would not hold is not made."""
        last = self.signed[-1]
        path = self._log.inclusion(index, last.size)
        if merkle.root_from_inclusion(index, last.size, merkle.leaf_hash(raw), path) != note.unverified(last.note).root:
            raise SteleError(
                f"entry {index} of the ledger is not the one that was signed",
                remedy="the ledger is damaged or was altered: `stele log check` says where; compare with another copy",
                code="ledger.damaged",
            )
        return Item(index=index, entry=raw.decode(), path=_hexes(path), openings={})

    # --- one workload

    def workload(self, claim: Claim) -> tuple[dict[str, Any], Chain]:
        """What is about one workload, and its chain as a verifier will have it."""
        name = shape.about(claim)
        assert name is not None
        found = [self._log.find(epoch, epochmap.key_of(name)) for epoch in self.epochs]
        leaves = [each.leaf if isinstance(each.leaf, Leaf) and each.leaf.workload == name else None for each in found]
        counts = [leaf.count if leaf else 0 for leaf in leaves]
        kept = leaves[0].kept if leaves[0] and self._form != "chain" and self.brackets[0].sure else None
        start = kept if isinstance(kept, facts.Facts) else None
        first = counts[0] if start else 0
        mine = list(self._log.chain(name, first, counts[-1]))
        state = start.state(name) if start else history.start(name)
        chain = Chain(name, first, state, [(index, read_entry(raw.decode(), index)) for index, raw in mine], counts)
        parts: dict[str, Any] = {
            "heads": self._heads([_place(each) for each in found]),
            "facts": start.plain() if start else None,
            "entries": [self._item(*each) for each in mine],
            "absent": self._absent(claim) if isinstance(claim, NeverRanClaim) else None,
            "workloads": None,
        }
        return parts, chain

    def _absent(self, claim: NeverRanClaim) -> Place:
        key = epochmap.ran_key(claim.workload, claim.release)
        found = self._log.find(self.epochs[-1], key)
        if isinstance(found.leaf, Ran) and found.leaf.key == key:
            raise SteleError(
                f"{claim.release} was started as {claim.workload!r}: first by entry {found.leaf.seq} of its chain",
                remedy="`stele log` shows it; `stele prove` proves when it ran",
                code="prove.it-ran",
            )
        return _place(found)

    # --- all of them

    def all_workloads(self) -> dict[str, Any]:
        """All leaves of the last head's map, and the first entry of every workload that was new."""
        bracket = self.brackets[0]
        found = [self._log.workloads(epoch) for epoch in self.epochs]
        known = {leaf.workload for leaf in found[0][0]} if bracket.sure else set()
        leaves, rest = found[-1]
        first = sorted(entry for leaf in leaves if leaf.workload not in known for entry in self._log.chain(leaf.workload, 0, 1))
        return {
            "heads": self._heads([None] * len(self.epochs)),
            "facts": None,
            "entries": [self._item(*each) for each in first],
            "absent": None,
            "workloads": Workloads(leaves=[_row(leaf) for leaf in leaves], rest=rest.hex()),
        }


def _row(leaf: Leaf) -> Row:
    return Row(workload=leaf.workload, count=leaf.count, head=leaf.head, state=leaf.state)


def _place(found: Found) -> Place:
    leaf = found.leaf
    plain: dict[str, Any] | None = None
    if isinstance(leaf, Ran):
        plain = {"workload": leaf.workload, "release": leaf.release, "seq": leaf.seq}
    elif leaf is not None:
        plain = msgspec.to_builtins(_row(leaf))
    return Place(path=_hexes(found.siblings), leaf=plain)


def _hexes(path: Sequence[bytes]) -> list[str]:
    return [item.hex() for item in path]


def _signed(found: ReleaseEvidence, *, light: bool) -> Signed:
    return Signed(
        manifest="" if light else found.manifest.decode(),
        config="" if light else found.config.decode(),
        statement=found.payload.decode(),
        signatures=[base64.b64encode(signature).decode() for signature in found.signatures],
    )


def _opened(item: Item, entry: tuple[int, Entry], openings: Callable[[int, Entry], Mapping[str, private.Opening]]) -> Item:
    found = openings(*entry).values()
    return msgspec.structs.replace(item, openings={each.field: Opening(salt=each.salt.hex(), value=each.value) for each in found})
