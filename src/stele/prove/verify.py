"""Verifying a proof: bytes and trusted keys in, verdict out. Pure; imports only `trust` and `model` (docs/spec/proof.md).

The steps are numbered as in the spec.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from stele.model import epochmap, facts, history, release
from stele.model.event import HOST_WORKLOAD, Entry, decode_entry
from stele.trust import canonical, cosign, merkle, note
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.model.event import Event
    from stele.trust.trust_keys import Trust

FORMAT = "stele-proof v1"
MAX_PROOF = 64 << 20  # bytes: what a hostile file may cost in memory is some twenty times that


class Verdict(NamedTuple):
    """What a valid proof says. `says`: plain words; `checked`, `not_covered`: what that rests on, and what not."""

    workload: str
    at_ns: int
    state: history.WorkloadState
    says: tuple[str, ...]
    checked: tuple[str, ...]
    not_covered: tuple[str, ...]


def _fail(reason: str, code: str = "prove.invalid") -> SteleError:
    return SteleError(
        f"the proof does not hold: {reason}",
        remedy="do not rely on it; ask for it again, and compare with another copy of the ledger",
        code=code,
    )


def _fields(value: Any, **types: type) -> dict[str, Any]:
    """A dict with exactly these fields of these types."""
    if not isinstance(value, dict) or set(value) != set(types):
        raise _fail("its fields are not those of the format")
    for key, kind in types.items():
        if not isinstance(value[key], kind) or (kind is int and (isinstance(value[key], bool) or value[key] < 0)):
            raise _fail(f"the field {key} is not what the format says")
    return value


def _path(value: Any, longest: int = 64) -> list[bytes]:
    if not isinstance(value, list) or len(value) > longest:
        raise _fail("an audit path is not a list of hashes")
    out = []
    for text in value:
        if not isinstance(text, str) or len(text) != 64 or text != text.lower():
            raise _fail("an audit path is not a list of hashes")
        try:
            out.append(bytes.fromhex(text))
        except ValueError as error:
            raise _fail("an audit path is not a list of hashes") from error
    return out


class _Head(NamedTuple):
    checkpoint: note.Checkpoint
    covers: int
    time_ns: int
    length: int
    head: str
    facts: str


def verify(data: bytes, trust: Trust | None) -> Verdict:
    """Check a proof against keys that the verifier brings.

    Raises:
        SteleError: `prove.no-keys`, `prove.invalid`, `prove.not-covered`, `trust.*`.
    """
    if trust is None or not trust.ledgers:
        raise SteleError(
            "a proof is worth nothing without keys that you trust",
            remedy="pass the ledger's trust.keys, obtained on a way that you trust, with --trust",
            code="prove.no-keys",
        )
    if len(data) > MAX_PROOF or not data.endswith(b"\n"):
        raise _fail("it is not a proof file")
    raw = _fields(
        canonical.decode(data[:-1]), format=str, claim=dict, checkpoint=str, epoch=dict, map=dict, entries=list, releases=list, sum=str
    )
    if raw["format"] != FORMAT:
        raise _fail(f"its format is {raw['format'][:40]!r}, this verifier knows {FORMAT!r}")
    if raw.pop("sum") != sha256(canonical.encode(raw)):
        # the claim is a question, not a signed fact: without the sum, an altered instant would be answered truly, but unasked
        raise _fail("its sum does not fit: it was altered or damaged")
    claim = _fields(raw["claim"], workload=str, at_ns=int)
    head = _check_head(raw, claim["workload"], trust)
    entries = _check_chain(raw["entries"], claim["workload"], head)
    at_ns = claim["at_ns"]
    # where the host's clock was set back, entries may be stamped later than the head
    end_ns = max(head.time_ns, history.reached_ns(entry.event for entry in entries))
    if at_ns > end_ns:
        raise SteleError(
            f"the ledger in this proof ends at {_when(end_ns)}, before the instant that is claimed ({_when(at_ns)})",
            remedy="make the proof again now", code="prove.not-covered",
        )  # fmt: skip
    # 5. the state at T: everything before the first entry that is later than T
    events = [entry.event for entry in entries]
    state = history.at(claim["workload"], events, at_ns)
    named = releases_named(state)
    _check_releases(raw["releases"], named, trust, claim["workload"])
    return _verdict(state, at_ns, head, events, named)


def _check_head(raw: dict[str, Any], workload: str, trust: Trust) -> _Head:
    # 1. the checkpoint is signed by a ledger that the verifier trusts
    checkpoint = note.open_checkpoint(raw["checkpoint"].encode("utf-8", "surrogatepass"), trust.ledgers)
    # 2. its last leaf is an epoch over everything before it
    epoch = _fields(raw["epoch"], entry=str, path=list)
    leaf = epoch["entry"].encode("utf-8", "surrogatepass")
    if (
        checkpoint.size < 1
        or merkle.root_from_inclusion(checkpoint.size - 1, checkpoint.size, merkle.leaf_hash(leaf), _path(epoch["path"])) != checkpoint.root
    ):
        raise _fail("the epoch entry is not the last of the signed log")
    entry = decode_entry(leaf)
    if entry.event.kind != "epoch" or entry.event.workload != HOST_WORKLOAD:
        raise _fail("the last entry of the signed log is not an epoch")
    committed = _fields(entry.event.data, behind_ns=int, covers=int, map=int, map_root=str, map_size=int, since=int)
    if committed["covers"] != checkpoint.size - 1 or committed["map"] != 2:
        raise _fail("the epoch does not cover the whole log, or its map is of another format")
    # 3. its map names this workload's count, head and facts
    inmap = _fields(raw["map"], count=int, head=str, facts=str, path=list)
    leaf_hash = epochmap.leaf_hash(workload, inmap["count"], inmap["head"], inmap["facts"])
    if epochmap.root_from(epochmap.key_of(workload), _path(inmap["path"], epochmap.MAX_DEPTH), leaf_hash).hex() != committed["map_root"]:
        raise _fail("the epoch's map does not name this workload so")
    return _Head(checkpoint, committed["covers"], entry.event.time_ns, inmap["count"], inmap["head"], inmap["facts"])


def _check_chain(raw: Sequence[Any], workload: str, head: _Head) -> list[Entry]:
    # 4. the workload's chain is whole: from its first entry to the head that the epoch names, each in the signed log
    if len(raw) != head.length or not raw:
        raise _fail(f"the epoch counts {head.length} entries of the workload, the proof brings {len(raw)}")
    entries: list[Entry] = []
    previous, last_index = "", -1
    for number, item in enumerate(raw):
        fields = _fields(item, index=int, entry=str, path=list)
        leaf = fields["entry"].encode("utf-8", "surrogatepass")
        if not last_index < fields["index"] < head.covers:
            raise _fail("entries are out of order")
        found = merkle.root_from_inclusion(fields["index"], head.checkpoint.size, merkle.leaf_hash(leaf), _path(fields["path"]))
        if found != head.checkpoint.root:
            raise _fail(f"entry {number} is not in the signed log")
        entry = decode_entry(leaf)
        if entry.event.workload != workload or entry.seq != number or entry.prev != previous:
            raise _fail(f"entry {number} does not continue the workload's chain")
        previous, last_index = sha256(leaf), fields["index"]
        entries.append(entry)
    if previous != head.head:
        raise _fail("the chain does not end in the head that the epoch names")
    if facts.of(history.reduce(workload, [entry.event for entry in entries])).digest != head.facts:
        raise _fail("the chain does not make the facts that the epoch names")
    return entries


def releases_named(state: history.WorkloadState) -> tuple[str, ...]:
    """Digests of the releases that a state names as serving, running or frozen, sorted."""
    live = {state.active_release if state.active_instance else "", *(item.release for item in state.running.values())}
    return tuple(sorted((live | {item.release for item in state.frozen.values()}) - {""}))


def _check_releases(raw: Sequence[Any], named: tuple[str, ...], trust: Trust, workload: str) -> None:
    # 6. what ran was a release of this workload, that a trusted key signed
    found = []
    for item in raw:
        fields = _fields(item, manifest=str, config=str, payload=str, signature=str)
        manifest = fields["manifest"].encode("utf-8", "surrogatepass")
        digest = sha256(manifest)
        found.append(digest)
        config = fields["config"].encode("utf-8", "surrogatepass")
        if release.parse(digest, manifest, config).workload != workload:
            raise _fail(f"release {digest[:19]} is of another workload")
        envelope = {
            "payload": base64.b64encode(fields["payload"].encode("utf-8", "surrogatepass")).decode(),
            "payloadType": cosign.PAYLOAD_TYPE,
            "signatures": [{"keyid": "", "sig": fields["signature"]}],
        }
        bundle = canonical.encode({"mediaType": cosign.BUNDLE_TYPE, "dsseEnvelope": envelope})
        signed = cosign.check_bundle(bundle, digest, trust.releases)
        if signed.state != "valid":
            raise _fail(f"release {digest[:19]} is not signed by a key that you trust ({signed.reason})")
    if tuple(found) != named:
        raise _fail("the releases that it brings are not those that ran")


def _when(time_ns: int) -> str:
    moment = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns % 1_000_000_000:09d}Z"


def _verdict(state: history.WorkloadState, at_ns: int, head: _Head, events: Sequence[Event], named: tuple[str, ...]) -> Verdict:
    instant = _when(at_ns)
    says = []
    if state.active_instance:
        says.append(f"At {instant} the workload {state.workload!r} was served by release {state.active_release}")
        says.append(f"  as instance {state.active_instance}, serving since {_when(state.active_since_ns)}.")
    else:
        says.append(f"At {instant} nothing served the workload {state.workload!r}.")
    for name, live in sorted(state.running.items()):
        if name != state.active_instance:
            says.append(f"  Also started and not yet stopped: instance {name} of release {live.release}, since {_when(live.since_ns)}.")
    for incident, live in sorted(state.frozen.items()):
        says.append(
            f"  Frozen as evidence: instance {live.instance} of release {live.release}, incident {incident}, since {_when(live.since_ns)}."
        )
    checked = (
        f"the signature of the ledger {head.checkpoint.origin!r} over its head of {head.checkpoint.size} entries",
        f"all {len(events)} entries of this workload are in it, in an unbroken chain from the first to the last",
        "the ledger's own commitment says that there are no others",
        f"the signatures of the releases named above ({len(named)}), by keys that you trust",
    )
    not_covered: tuple[str, ...] = (
        "the time: without an independent witness it is the operator's claim",
        "whether the operator, who holds the ledger's key, committed to all that it did: `stele log check` replays a whole ledger",
        "whether the operator showed somebody else another ledger: compare checkpoints with others who have one",
        f"anything after {_when(head.time_ns)}, when this ledger's head was signed",
        "what the code did while it ran; and code that ran outside Stele's care",
    )
    if back := history.steps_back(events):
        went = f"{back} entries are stamped earlier than one before them: the host's clock was set back; their order is certain"
        not_covered = (went, *not_covered)
    return Verdict(state.workload, at_ns, state, tuple(says), checked, not_covered)
