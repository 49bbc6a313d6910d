"""The proof file as records: bytes in, a `Proof` or a refusal out (docs/spec/proof.md, step 1). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from stele.model import facts
from stele.trust import canonical
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.model.facts import Facts

FORMAT = "stele-proof v3"
MAX_PROOF = 64 << 20  # bytes: what a hostile file may cost in memory is some twenty times that
MAX_HEADS = 4
MAX_TIMESTAMPS = 4  # of a head: who has no key could bring any number, and each is looked at
FORMS = ("light", "chain", "log")

NOT_CONVERTED = (msgspec.ValidationError, UnicodeEncodeError)  # the latter: half a surrogate pair as the name of a field
Hex = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Path = list[Hex]
Number = Annotated[int, msgspec.Meta(ge=0)]
Release = Annotated[str, msgspec.Meta(pattern=r"\Asha256:[0-9a-f]{64}\Z")]  # in another spelling nothing ever ran


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Frozen; all fields, and no others."""


class Opening(Shape, frozen=True, kw_only=True):
    """What a commitment stands for (docs/spec/sealed.md)."""

    salt: Hex
    value: Any


class Item(Shape, frozen=True, kw_only=True):
    """An entry in its place. `openings`: of its private fields, by name."""

    index: Number
    entry: str
    path: Path
    openings: dict[str, Opening]


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


class Place(Shape, frozen=True, kw_only=True):
    """Where the path of a key ends in a map: at its leaf, at another one (then it is not there), or at nothing."""

    path: Path
    leaf: dict[str, Any] | None


class Head(Shape, frozen=True, kw_only=True):
    """A signed checkpoint, an epoch of its log, and where the workload stands in the epoch's map."""

    checkpoint: str
    timestamps: list[str]
    epoch: Item
    place: Place | None


class Workloads(Shape, frozen=True, kw_only=True):
    """The leaves of all workloads in the last head's map, sorted by key, and the hash of its other half."""

    leaves: list[Row]
    rest: Hex


class Signed(Shape, frozen=True, kw_only=True):
    """A release, as it was signed."""

    manifest: str
    config: str
    statement: str
    signatures: list[str]


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
    release: Release
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
    heads: list[Head]
    facts: dict[str, Any] | None
    entries: list[Item]
    absent: Place | None
    workloads: Workloads | None
    log: list[str]
    releases: list[Signed]
    roots: list[str]


def row_of(leaf: dict[str, Any]) -> Row | RanRow:
    """The leaf of a map.

    Raises:
        SteleError: `prove.invalid`.
    """
    try:
        return msgspec.convert(leaf, RanRow) if "release" in leaf else msgspec.convert(leaf, Row)
    except NOT_CONVERTED as error:
        raise invalid("a leaf of a map is malformed") from error


def facts_of(plain: dict[str, Any]) -> Facts:
    """What a workload's chain is said to have made.

    Raises:
        SteleError: `prove.invalid`.
    """
    try:
        found = facts.from_plain(plain)
    except (SteleError, UnicodeEncodeError) as error:
        raise invalid("the facts that it begins with are malformed") from error
    times = [found.active_since_ns, *(live.since_ns for live in (*found.running.values(), *found.frozen.values()))]
    if found.plain() != plain or min(times) < 0:
        raise invalid("the facts that it begins with are spelled otherwise")
    return found


def invalid(reason: str) -> SteleError:
    """The refusal of a proof."""
    return SteleError(
        f"the proof does not hold: {reason}",
        remedy="do not rely on it; ask for it again, and compare with another copy of the ledger",
        code="prove.invalid",
    )


def _brings_what_it_needs(proof: Proof) -> bool:
    """Whether the parts are there that belong to the claim and form, and no others."""
    one = about(proof.claim) is not None
    return (
        all((head.place is not None) == one for head in proof.heads)
        and (proof.absent is not None) == isinstance(proof.claim, NeverRanClaim)
        and (proof.workloads is None) == one
        and (one or (proof.facts is None and proof.form != "chain"))
        and (proof.form != "chain" or proof.facts is None)
        and (proof.form == "log") == bool(proof.log)
    )


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
    if said != sha256(canonical.encode(plain)):
        # the claim is a question, not a signed fact: without the sum, an altered instant would be answered truly, but unasked
        raise invalid("its sum does not fit: it was altered or damaged")
    try:
        proof = msgspec.convert(plain, Proof)
    except NOT_CONVERTED as error:
        raise invalid(f"its fields are not those of the format: {str(error)[:200]}") from error
    stamps = max((len(head.timestamps) for head in proof.heads), default=0)
    bounded = 1 <= len(proof.heads) <= MAX_HEADS and stamps <= MAX_TIMESTAMPS
    if proof.form not in FORMS or not bounded or not _brings_what_it_needs(proof):
        raise invalid("it does not bring what its claim needs in this form, or more")
    for place in (*(head.place for head in proof.heads), proof.absent):
        if place is not None and place.leaf is not None:
            row_of(place.leaf)
    if proof.facts is not None:
        facts_of(proof.facts)
    if isinstance(proof.claim, HistoryClaim) and proof.claim.from_ns > proof.claim.until_ns:
        raise invalid("the end of the claim is before its beginning")
    return proof
