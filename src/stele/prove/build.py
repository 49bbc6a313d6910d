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
from stele.prove.shape import Absence, Head, Item, Map, NeverRanClaim, Opening, Place, Proof, Row, Signed, Start, WorkloadsClaim
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

    def consistency(self, old: int, new: int) -> list[bytes]:
        """Consistency proof between two sizes."""

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
    entries: list[tuple[int, Entry]] = []
    if isinstance(claim, WorkloadsClaim):
        parts = maker.all_workloads()
    else:
        parts, chain = maker.workload(claim)
        named, entries = answers.of_chain(claim, chain, maker.brackets).named, list(chain.entries)
    proof = Proof(
        format=shape.FORMAT,
        claim=claim,
        form=form,
        heads=maker.heads(),
        log=[raw.decode() for raw in log.raw_entries(0, maker.signed[-1].size)] if form == "log" else [],
        releases=[_signed(evidence(digest), light=form == "light") for digest in named],
        openings=_openings(entries, openings) if openings is not None else [],
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

    def heads(self) -> list[Head]:
        """All heads with their paths."""
        out: list[Head] = []
        old = 0
        for epoch, signed in zip(self.epochs, self.signed, strict=True):
            bare = self._form == "log"
            out.append(
                Head(
                    checkpoint=signed.note.decode(),
                    timestamps=[base64.b64encode(token).decode() for token in signed.timestamps],
                    index=epoch.epoch,
                    entry=signed.entry.decode(),
                    path=[] if bare else self._audit(epoch.epoch, signed.entry, signed),
                    consistency=[] if bare or not out else _hexes(self._log.consistency(old, signed.size)),
                )
            )
            old = signed.size
        return out

    def _audit(self, index: int, raw: bytes, under: SignedHead) -> list[str]:
        """The audit path of an entry. A proof that would not hold is not made."""
        path = self._log.inclusion(index, under.size)
        root = note.unverified(under.note).root
        if merkle.root_from_inclusion(index, under.size, merkle.leaf_hash(raw), path) != root:
            raise SteleError(
                f"entry {index} of the ledger is not the one that was signed",
                remedy="the ledger is damaged or was altered: `stele log check` says where; compare with another copy",
                code="ledger.damaged",
            )
        return _hexes(path)

    def _items(self, mine: Sequence[tuple[int, bytes]]) -> list[Item]:
        return [Item(index=index, entry=raw.decode(), path=self._audit(index, raw, self.signed[-1])) for index, raw in mine]

    # --- one workload

    def workload(self, claim: Claim) -> tuple[dict[str, Any], Chain]:
        """What is about one workload, and its chain as a verifier will have it."""
        name = shape.about(claim)
        assert name is not None
        found = [self._log.find(epoch, epochmap.key_of(name)) for epoch in self.epochs]
        leaves = [each.leaf if isinstance(each.leaf, Leaf) and each.leaf.workload == name else None for each in found]
        counts = [leaf.count if leaf else 0 for leaf in leaves]
        first = self.brackets[0]
        floor = 0 if self._form != "light" or (first.before is None and not first.exact) else counts[0]
        kept = leaves[0].kept if floor and leaves[0] else None
        state = kept.state(name) if isinstance(kept, facts.Facts) else history.start(name)
        mine = list(self._log.chain(name, floor, counts[-1]))
        chain = Chain(name, floor, state, [(index, read_entry(raw.decode())) for index, raw in mine], counts)
        absent = self._absent(claim) if isinstance(claim, NeverRanClaim) else None
        if self._form == "log":
            return _NOTHING, chain
        places = [
            Place(count=count, path=_hexes(each.siblings), other=None if count else _other(each.leaf))
            for count, each in zip(counts, found, strict=True)
        ]
        start = None
        if floor and leaves[0] is not None and isinstance(kept, facts.Facts):
            start = Start(head=leaves[0].head, facts=kept.plain())
        return {"places": places, "start": start, "entries": self._items(mine), "absent": absent, "maps": []}, chain

    def _absent(self, claim: NeverRanClaim) -> Absence:
        key = epochmap.ran_key(claim.workload, claim.release)
        found = self._log.find(self.epochs[-1], key)
        if isinstance(found.leaf, Ran) and found.leaf.key == key:
            raise SteleError(
                f"{claim.release} was started as {claim.workload!r}: first by entry {found.leaf.seq} of its chain",
                remedy="`stele log` shows it; `stele prove` proves when it ran",
                code="prove.it-ran",
            )
        return Absence(path=_hexes(found.siblings), other=_other(found.leaf))

    # --- all of them

    def all_workloads(self) -> dict[str, Any]:
        """All leaves of the map of each head, and the first entry of every workload that was new."""
        if self._form == "log":
            return _NOTHING
        bracket = self.brackets[0]
        found = [self._log.workloads(epoch) for epoch in self.epochs]
        known = {leaf.workload for leaf in found[0][0]} if bracket.before is not None else set()
        new = [] if bracket.exact else [leaf.workload for leaf in found[-1][0] if leaf.workload not in known]
        first = sorted(entry for name in new for entry in self._log.chain(name, 0, 1))
        maps = [Map(leaves=[_row(leaf) for leaf in leaves], rest=rest.hex()) for leaves, rest in found]
        return {**_NOTHING, "maps": maps, "entries": self._items(first)}


_NOTHING: dict[str, Any] = {"places": [], "start": None, "entries": [], "absent": None, "maps": []}


def _row(leaf: Leaf) -> Row:
    return Row(workload=leaf.workload, count=leaf.count, head=leaf.head, state=leaf.state)


def _other(leaf: Leaf | Ran | None) -> dict[str, Any] | None:
    if leaf is None:
        return None
    if isinstance(leaf, Ran):
        return {"workload": leaf.workload, "release": leaf.release, "seq": leaf.seq}
    plain: dict[str, Any] = msgspec.to_builtins(_row(leaf))
    return plain


def _hexes(path: Sequence[bytes]) -> list[str]:
    return [item.hex() for item in path]


def _signed(found: ReleaseEvidence, *, light: bool) -> Signed:
    return Signed(
        manifest="" if light else found.manifest.decode(),
        config="" if light else found.config.decode(),
        statement=found.payload.decode(),
        signatures=[base64.b64encode(signature).decode() for signature in found.signatures],
    )


def _openings(entries: Sequence[tuple[int, Entry]], openings: Callable[[int, Entry], Mapping[str, private.Opening]]) -> list[Opening]:
    return [
        Opening(index=index, field=found.field, salt=found.salt.hex(), value=found.value)
        for index, entry in entries
        for _, found in sorted(openings(index, entry).items())
    ]
