"""The proof file as records: bytes in, a `Proof` or a refusal out (docs/spec/proof.md, step 1). Pure."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from stele.trust import canonical
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

FORMAT = "stele-proof v2"
MAX_PROOF = 64 << 20  # bytes: what a hostile file may cost in memory is some twenty times that
MAX_SIGNATURES = 16  # of a release
FORMS = ("light", "chain", "log")

Hex = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Path = Annotated[list[Hex], msgspec.Meta(max_length=256)]
Number = Annotated[int, msgspec.Meta(ge=0)]


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Frozen; all fields, and no others."""


class Head(Shape, frozen=True, kw_only=True):
    """A signed checkpoint and an epoch under it."""

    checkpoint: str
    timestamps: list[str]
    index: Number
    entry: str
    path: Path
    consistency: Path


class Item(Shape, frozen=True, kw_only=True):
    """An entry in its place."""

    index: Number
    entry: str
    path: Path


class Row(Shape, frozen=True, kw_only=True):
    """A workload's leaf in an epoch's map."""

    workload: str
    count: Number
    head: str
    state: str


class RanRow(Shape, frozen=True, kw_only=True):
    """The leaf of a release that ran."""

    workload: str
    release: str
    seq: Number


class Absence(Shape, frozen=True, kw_only=True):
    """Where the path of a key ends that is not in a map."""

    path: Path
    other: dict[str, Any] | None


class Place(Absence, frozen=True, kw_only=True):
    """Where a workload stands in a map."""

    count: Number


class Start(Shape, frozen=True, kw_only=True):
    """What the first head knows of the workload."""

    head: str
    facts: dict[str, Any]


class Map(Shape, frozen=True, kw_only=True):
    """The leaves of all workloads in a head's map, sorted by key, and the hash of its other half."""

    leaves: list[Row]
    rest: Hex


class Signed(Shape, frozen=True, kw_only=True):
    """A release, as it was signed."""

    manifest: str
    config: str
    statement: str
    signatures: Annotated[list[str], msgspec.Meta(max_length=MAX_SIGNATURES)]


class Opening(Shape, frozen=True, kw_only=True):
    """What a commitment in the entry at `index` stands for (docs/spec/sealed.md)."""

    index: Number
    field: str
    salt: Hex
    value: Any


class StateClaim(Shape, frozen=True, kw_only=True, tag_field="kind", tag="state"):
    """What was the case with a workload at an instant (UTC nanoseconds, as all)?"""

    workload: str
    at_ns: Number


class HistoryClaim(Shape, frozen=True, kw_only=True, tag_field="kind", tag="history"):
    """What happened to a workload between two instants?"""

    workload: str
    from_ns: Number
    until_ns: Number


class NeverRanClaim(Shape, frozen=True, kw_only=True, tag_field="kind", tag="never-ran"):
    """Was a release never started as a workload until an instant?"""

    workload: str
    release: str
    at_ns: Number


class WorkloadsClaim(Shape, frozen=True, kw_only=True, tag_field="kind", tag="workloads"):
    """Which workloads existed at an instant?"""

    at_ns: Number


Claim = StateClaim | HistoryClaim | NeverRanClaim | WorkloadsClaim


def instants(claim: Claim) -> tuple[int, ...]:
    """The instants that a claim is about, the earliest first."""
    return (claim.from_ns, claim.until_ns) if isinstance(claim, HistoryClaim) else (claim.at_ns,)


def about(claim: Claim) -> str | None:
    """The workload that a claim is about; None: all of them."""
    return None if isinstance(claim, WorkloadsClaim) else claim.workload


class Proof(Shape, frozen=True, kw_only=True):
    """A proof file, its sum already checked."""

    format: str
    claim: Claim
    form: str
    heads: Annotated[list[Head], msgspec.Meta(min_length=1, max_length=4)]
    places: list[Place]
    start: Start | None
    entries: list[Item]
    absent: Absence | None
    maps: list[Map]
    log: list[str]
    releases: list[Signed]
    openings: list[Opening]
    roots: list[str]


def invalid(reason: str) -> SteleError:
    """The refusal of a proof."""
    return SteleError(
        f"the proof does not hold: {reason}",
        remedy="do not rely on it; ask for it again, and compare with another copy of the ledger",
        code="prove.invalid",
    )


def _brings_what_it_needs(proof: Proof) -> bool:
    """Whether the parts are there that belong to the claim and form, and no others."""
    parts = ("places", "start", "entries", "absent", "maps", "log")
    brings = {part for part in parts if getattr(proof, part) not in ([], None)}
    if proof.form == "log":
        must, may = {"log"}, set[str]()
    elif about(proof.claim) is None:
        must, may = {"maps"}, {"entries"}
    else:
        must, may = ({"absent"} if isinstance(proof.claim, NeverRanClaim) else set()), {"places", "start", "entries"}
    paths = any(head.path or head.consistency for head in proof.heads) if proof.form == "log" else proof.heads[0].consistency
    return must <= brings <= must | may and not paths


def encode(proof: Proof) -> bytes:
    """The file's bytes."""
    plain = msgspec.to_builtins(proof)
    return canonical.encode({**plain, "sum": sha256(canonical.encode(plain))}) + b"\n"


def decode(data: bytes) -> Proof:
    """Read a proof file.

    Raises:
        SteleError: `prove.invalid`, `trust.not-canonical`.
    """
    if len(data) > MAX_PROOF or not data.endswith(b"\n"):
        raise invalid("it is not a proof file")
    plain = canonical.decode(data[:-1])
    if not isinstance(plain, dict) or not isinstance(plain.get("format"), str):
        raise invalid("it is not a proof file")
    if plain["format"] != FORMAT:
        raise invalid(f"its format is {plain['format'][:40]!r}, this verifier knows {FORMAT!r}")
    said = plain.pop("sum", None)
    try:
        proof = msgspec.convert(plain, Proof)
    except msgspec.ValidationError as error:
        raise invalid(f"its fields are not those of the format: {str(error)[:200]}") from error
    if proof.form not in FORMS or (proof.form == "chain" and about(proof.claim) is None):
        raise invalid("there is no such form of this claim")
    if isinstance(proof.claim, HistoryClaim) and proof.claim.from_ns > proof.claim.until_ns:
        raise invalid("the end of the claim is before its beginning")
    if not _brings_what_it_needs(proof):
        raise invalid("it does not bring what its claim needs in this form, or more")
    if said != sha256(canonical.encode(plain)):
        # the claim is a question, not a signed fact: without the sum, an altered instant would be answered truly, but unasked
        raise invalid("its sum does not fit: it was altered or damaged")
    return proof
