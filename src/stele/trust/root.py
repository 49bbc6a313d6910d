"""The root of trust (docs/spec/root.md): documents that holders of offline keys sign by threshold. Bytes in, verdict out. Pure."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from stele.trust import merkle, note
from stele.trust import policy as policies
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from stele.trust.note import Checkpoint, Opened, Verifier
    from stele.trust.policy import Policy

HEADER = "stele-root v0"
MAX_BYTES = 32 << 10
MAX_HOLDERS = 32
MAX_VERSION = 10**9 - 1  # nine digits, as in trust.keys
_NUMBER = re.compile(r"(0|[1-9][0-9]{0,17})\Z", re.ASCII)
_ORDER = ("ledger", "version", "threshold", "holder", "log", "stolen", "key", "revoke", "rule", "running")
_POLICY = ("key", "revoke", "rule", "running")
_ONCE = ("ledger", "version", "threshold")


class LogKey(msgspec.Struct, frozen=True):
    """A ledger's key for checkpoints of size `start` and more, and less than `end` (None: without end)."""

    start: int
    end: int | None
    verifier: Verifier


class Stolen(msgspec.Struct, frozen=True):
    """A ledger's key that is no longer believed, and the last good head."""

    size: int
    root: bytes
    verifier: Verifier


class Pin(NamedTuple):
    """The name of a document: what a verifier who trusts it brings. `digest`: of its text."""

    origin: str
    version: int
    digest: str


class Root(msgspec.Struct, frozen=True):
    """A document that was parsed. Whether it is believed is another question. `text`: what is signed."""

    text: bytes
    origin: str
    version: int
    threshold: int
    holders: tuple[Verifier, ...]
    logs: tuple[LogKey, ...]
    stolen: tuple[Stolen, ...]
    policy: Policy

    @property
    def pin(self) -> Pin:
        """Its name."""
        return Pin(self.origin, self.version, sha256(self.text))

    def ledger_keys(self, at_size: int) -> tuple[Verifier, ...]:
        """The keys that a checkpoint of this size must be signed with."""
        gone = {item.verifier for item in self.stolen}
        return tuple(key.verifier for key in self.logs if _within(key, at_size) and key.verifier not in gone)

    def stolen_keys(self, at_size: int) -> tuple[Stolen, ...]:
        """Keys that were stolen later than at this size: what they signed is believed if shown to be a beginning of the good head."""
        spans = {key.verifier: key for key in self.logs}
        return tuple(item for item in self.stolen if at_size <= item.size and _within(spans[item.verifier], at_size))


def _within(key: LogKey, size: int) -> bool:
    return key.start <= size and (key.end is None or size < key.end)


def _bad(reason: str) -> SteleError:
    return SteleError(
        f"not a valid root document: {reason}",
        remedy="get it again from its source; docs/spec/root.md says what it is made of",
        code="trust.bad-root",
    )


# ---- reading and writing -----------------------------------------------------------------------------


def parse(document: bytes) -> Root:
    """The root that a document, signed or a text alone, says; no signature is looked at.

    Raises:
        SteleError: `trust.bad-root`.
    """
    if len(document) > MAX_BYTES:
        raise _bad("it is larger than 32 KiB")
    text = document.rpartition(b"\n\n")[0] + b"\n" if b"\n\n" in document else document
    try:
        lines = text.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise _bad("it is not ASCII") from error
    if lines.pop() or not lines or lines[0] != HEADER:
        raise _bad(f"it does not begin with {HEADER!r} or does not end with a newline")
    found: dict[str, list[list[str]]] = {kind: [] for kind in _ORDER}
    place = 0
    for line in lines[1:]:
        kind, *fields = line.split(" ")
        if kind not in found or not all(fields) or _ORDER.index(kind) < place:
            raise _bad(f"a line is none of the format or not in its place: {line[:60]!r}")
        place = _ORDER.index(kind)
        found[kind].append(fields)
    if any(len(found[kind]) != 1 or len(found[kind][0]) != 1 for kind in _ONCE):
        raise _bad("ledger, version and threshold are there once, with a value")
    origin = found["ledger"][0][0]
    root = Root(
        text=text,
        origin=origin,
        version=_number(found["version"][0][0]),
        threshold=_number(found["threshold"][0][0]),
        holders=tuple(_vkey(fields, 1) for fields in found["holder"]),
        logs=tuple(LogKey(*_span(fields), _vkey(fields, 3)) for fields in found["log"]),
        stolen=tuple(_stolen(fields) for fields in found["stolen"]),
        policy=_policy(origin, [line for line in lines if line.partition(" ")[0] in _POLICY]),
    )
    _check(root)
    return root


def _number(text: str) -> int:
    if not _NUMBER.match(text):
        raise _bad(f"{text[:40]!r} is not a number")
    return int(text)


def _vkey(fields: list[str], count: int) -> Verifier:
    if len(fields) != count:
        raise _bad("a line has more or fewer fields than it should")
    try:
        return note.parse_vkey(fields[-1])
    except SteleError as error:
        raise _bad(error.reason) from error


def _span(fields: list[str]) -> tuple[int, int | None]:
    if len(fields) != 3:
        raise _bad("a line has more or fewer fields than it should")
    start, end = _number(fields[0]), None if fields[1] == "-" else _number(fields[1])
    if end is not None and end <= start:
        raise _bad("a key of the ledger would never be valid")
    return start, end


def _stolen(fields: list[str]) -> Stolen:
    verifier = _vkey(fields, 3)
    try:
        root = note.strict_base64(fields[1])
    except SteleError as error:
        raise _bad(error.reason) from error
    if len(root) != 32:
        raise _bad("a root hash is not 32 bytes")
    return Stolen(_number(fields[0]), root, verifier)


def _policy(origin: str, lines: list[str]) -> Policy:
    try:
        return policies.parse("\n".join([policies.HEADER, f"ledger {origin}", *lines, ""]).encode())
    except SteleError as error:
        raise _bad(error.reason) from error


def _check(root: Root) -> None:
    """What a document must be in itself."""
    if not 1 <= root.version <= MAX_VERSION:
        raise _bad("its version is not 1 to 999999999")
    if not 1 <= root.threshold <= len(root.holders) <= MAX_HOLDERS:
        raise _bad(f"{root.threshold} of {len(root.holders)} holders is not possible")
    if any(key.algorithm != note.ED25519 for key in root.holders):
        raise _bad("a holder's key is not Ed25519")
    logs = [key.verifier for key in root.logs]
    for what, values in (
        ("a holder's name", [key.name for key in root.holders]),
        ("a key", [key.public for key in (*root.holders, *logs)]),
        ("a stolen key", [item.verifier for item in root.stolen]),
    ):
        if len(set(values)) != len(values):
            raise _bad(f"{what} is named twice")
    if any(key.name != root.origin or key.algorithm == note.COSIGNATURE for key in logs):
        raise _bad("a key of the ledger has another name than the ledger, or is a witness's")
    if not set(logs).issuperset(item.verifier for item in root.stolen):
        raise _bad("a stolen key has no log line")


def encode(
    origin: str,
    version: int,
    threshold: int,
    holders: Iterable[Verifier],
    logs: Iterable[LogKey],
    stolen: Iterable[Stolen] = (),
    policy_lines: Iterable[str] = (),
) -> bytes:
    """The text of a document, to be signed.

    Raises:
        SteleError: `trust.bad-root`.
    """
    lines = [HEADER, f"ledger {origin}", f"version {version}", f"threshold {threshold}"]
    lines += [f"holder {key.encode()}" for key in holders]
    lines += [f"log {key.start} {'-' if key.end is None else key.end} {key.verifier.encode()}" for key in logs]
    lines += [f"stolen {item.size} {base64.b64encode(item.root).decode()} {item.verifier.encode()}" for item in stolen]
    chosen = [line for line in policy_lines if line.partition(" ")[0] in _POLICY]
    lines += sorted(chosen, key=lambda line: _POLICY.index(line.partition(" ")[0]))
    return parse(("\n".join(lines) + "\n").encode()).text


# ---- signatures --------------------------------------------------------------------------------------


def signers(document: bytes, holders: Iterable[Verifier]) -> tuple[Verifier, ...]:
    """Those of the holders who signed a document, each key once; none for a text alone.

    Raises:
        SteleError: `trust.bad-root`: a signature by one of them does not hold, or is there twice; or it is not a note.
    """
    if b"\n\n" not in document:
        return ()
    try:
        text, lines = note.split_note(document)
    except SteleError as error:
        raise _bad(error.reason) from error
    known = {(key.name, key.key_id): key for key in holders}
    held: dict[bytes, Verifier] = {}
    seen: set[tuple[str, bytes]] = set()
    for name, identity, signature in lines:
        key = known.get((name, identity))
        if key is None:
            continue
        if (name, identity) in seen:
            raise _bad(f"two signatures by {name}")
        seen.add((name, identity))
        if not key.verify(text, signature):
            raise _bad(f"the signature by {name} does not hold")
        held.setdefault(key.public, key)
    return tuple(held.values())


def _enough(document: bytes, root: Root, whose: str) -> None:
    count = len(signers(document, root.holders))
    if count < root.threshold:
        raise SteleError(
            f"the root document is signed by {count} of the {whose} holders, and {root.threshold} of {len(root.holders)} are needed",
            remedy="have it signed by more of " + ", ".join(key.name for key in root.holders)[:300] + ": `stele trust sign`",
            code="trust.root-unsigned",
        )


def _order(reason: str) -> SteleError:
    return SteleError(
        reason,
        remedy="bring all documents of this ledger, from the one that you trust on; if two of one version exist, ask the holders",
        code="trust.root-order",
    )


def first(document: bytes, pin: Pin) -> Root:
    """The document that a verifier names.

    Raises:
        SteleError: `trust.bad-root`, `trust.root-order` (it is another one), `trust.root-unsigned`.
    """
    root = parse(document)
    if root.pin != pin:
        raise _order(f"this is not the root document that you trust (version {pin.version} of {pin.origin}, {pin.digest[:19]})")
    _enough(document, root, "its own")
    return root


def follow(document: bytes, present: Root) -> Root:
    """The root after `present`, if this document is one (docs/spec/root.md, The next one).

    Raises:
        SteleError: `trust.bad-root`, `trust.root-order`, `trust.root-unsigned`.
    """
    root = parse(document)
    if root.origin != present.origin or root.version != present.version + 1:
        raise _order(f"version {present.version + 1} of {present.origin} comes next, and this is version {root.version} of {root.origin}")
    signers(document, (*present.holders, *root.holders))
    _enough(document, present, "present")
    _enough(document, root, "new")
    named = {key.verifier for key in root.logs}
    now = {item.verifier: item.size for item in root.stolen}
    for item in present.stolen:
        if item.verifier in named and now.get(item.verifier, item.size + 1) > item.size:
            raise _bad("it takes back that a key of the ledger was stolen")
    for wanted, revoked in present.policy.revoked.items():
        kept = root.policy.revoked.get(wanted)
        if root.policy.key(wanted) is not None and (kept is None or kept.start > revoked.start):
            raise _bad(f"it takes back that the key {wanted[:12]} was revoked")
    return root


def verify_chain(documents: Sequence[bytes], trusted: Root) -> Root:
    """The root that documents lead to, in order of their versions, for whoever trusts `trusted`.

    Raises:
        SteleError: `trust.bad-root`, `trust.root-order`, `trust.root-unsigned`.
    """
    present, last = trusted, 0
    for document in documents:
        root = parse(document)
        if root.version <= last or root.origin != present.origin:
            raise _order(f"root documents are out of order: version {root.version} of {root.origin} after {last}")
        last = root.version
        if root.version < trusted.version:
            continue
        if root.version == trusted.version:
            if root.text != trusted.text:
                raise _order(f"there are two root documents of version {root.version}")
            continue
        present = follow(document, present)
    return present


def from_pin(documents: Sequence[bytes], pin: Pin) -> Root:
    """The root that documents lead to, for whoever trusts the one that `pin` names; it must be among them.

    Raises:
        SteleError: `trust.bad-root`, `trust.root-order`, `trust.root-unsigned`.
    """
    roots = [parse(document) for document in documents]
    versions = [root.version for root in roots]
    if versions != sorted(set(versions)) or any(root.origin != pin.origin for root in roots):
        raise _order("root documents are out of order, or of another ledger")
    at = next((at for at, version in enumerate(versions) if version >= pin.version), len(versions))
    if versions[at:] != list(range(pin.version, pin.version + len(versions) - at)) or at == len(versions):
        raise _order(
            f"the root document that you trust (version {pin.version} of {pin.origin}) is not among these, or a later one is left out"
        )
    present = first(documents[at], pin)
    for document in documents[at + 1 :]:
        present = follow(document, present)
    return present


# ---- checkpoints -------------------------------------------------------------------------------------


def open_head(
    signed: bytes, root: Root, witnesses: Iterable[Verifier] = (), shown: Callable[[Checkpoint, int, bytes], bool] | None = None
) -> Opened:
    """A checkpoint that the root's keys vouch for.

    Args:
        signed: the note.
        root: whom to believe.
        witnesses: whose cosignatures to look at, too.
        shown: whether the tree of a checkpoint was shown to be a beginning of the tree of that size and root hash; needed for what a
            stolen key signed before.

    Raises:
        SteleError: `trust.bad-note`, `trust.unknown-signer`, `trust.bad-signature`, `trust.missing-signature`, `trust.stolen-key`.
    """
    text, lines = note.split_note(signed)
    checkpoint = note.parse_body(text)
    keys = root.ledger_keys(checkpoint.size)
    identities = {(name, identity) for name, identity, _ in lines}

    def signs(key: Verifier) -> bool:
        return key.algorithm == note.ED25519 and (key.name, key.key_id) in identities

    if any(signs(key) for key in keys) or not any(signs(item.verifier) for item in root.stolen):
        return note.open_note(signed, keys, witnesses)
    for item in root.stolen_keys(checkpoint.size):
        good = (checkpoint.size, checkpoint.root) == (item.size, item.root)
        if signs(item.verifier) and (good or (shown is not None and shown(checkpoint, item.size, item.root))):
            return note.open_note(signed, (item.verifier, *keys), witnesses)
    raise SteleError(
        f"the checkpoint of size {checkpoint.size} is signed with a stolen key of {root.origin}",
        remedy="get a newer checkpoint or proof from the ledger itself; if this came from there, ask its operator",
        code="trust.stolen-key",
    )


def open_past(signed: bytes, trusted: Sequence[Verifier] | Root, witnesses: Iterable[Verifier] = ()) -> Opened:
    """A checkpoint by trusted keys, or by those of a root. For whoever has a log that `open_newest` believes, and compares
    this checkpoint with it: what a stolen key signed before the good head is believed for now. Raises like `open_newest`.
    """
    if isinstance(trusted, Root):
        return open_head(signed, trusted, witnesses, shown=lambda *_: True)
    return note.open_note(signed, trusted, witnesses)


def open_checkpoint(signed: bytes, trusted: Sequence[Verifier] | Root) -> Checkpoint:
    """What `open_past` says of the log, without who signed it."""
    return open_past(signed, trusted).checkpoint


def open_newest(signed: bytes, trusted: Sequence[Verifier] | Root, witnesses: Iterable[Verifier] = ()) -> Opened:
    """The head of a log by trusted keys, or by those of a root. A log that ends before the good head cannot show that it is its
    beginning: there, what a stolen key signed is not believed. Raises like `note.open_note` and `open_head`.
    """
    if isinstance(trusted, Root):
        return open_head(signed, trusted, witnesses)
    return note.open_note(signed, trusted, witnesses)


def good_heads(trusted: Sequence[Verifier] | Root) -> dict[int, bytes]:
    """Size and root hash of the heads that a log must contain because its root names them as good."""
    return {item.size: item.root for item in trusted.stolen} if isinstance(trusted, Root) else {}


def beginning(path: Sequence[bytes]) -> Callable[[Checkpoint, int, bytes], bool]:
    """`shown` of `open_head`, by a consistency proof from the checkpoint to the good head."""
    return lambda head, size, good: merkle.is_consistent(head.size, size, head.root, good, path)


def logged(root: Root, before: Root | None, index: int) -> str:
    """Why a document must not be entry `index` of its ledger (docs/spec/root.md, Log before use); "" if it may."""
    known = {key.verifier for key in before.logs} if before else set()
    early = [key for key in root.logs if key.verifier not in known and key.start <= index]
    if before is not None and early:
        return f"its new ledger key is valid from size {early[0].start} on, and the document is entry {index}: it must be logged before"
    if any(item.size > index for item in root.stolen):
        return "the good head that it names is larger than the log"
    return ""
