"""Signed notes and checkpoints (C2SP signed-note, tlog-checkpoint, tlog-cosignature). One spelling; bytes in, verdict out. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from stele.trust import plain_keys
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

# C2SP signature types
ED25519 = 0x01  # over the text
COSIGNATURE = 0x04  # Ed25519 cosignature/v1: over a time and the text
ML_DSA_44 = 0x06  # ML-DSA-44: over the signer's name, a time, and what the text says
_PUBLIC_SIZE = {ED25519: 32, COSIGNATURE: 32, ML_DSA_44: 1312}
_SIGNATURE_SIZE = {ED25519: 64, COSIGNATURE: 8 + 64, ML_DSA_44: 8 + 2420}
MAX_NOTE = 1 << 17  # bytes: more than 16 signatures of any type, as the specification wants
MAX_SECONDS = 2**63 - 1
_NAME = re.compile(r"[!-*,-~]{1,200}\Z")  # printable ASCII without space and plus
_is_key_name = re.compile(r"[^\s+\x00-\x1f]+").fullmatch  # what others may be called: no white space, no plus, no control characters
_SIZE = re.compile(r"(0|[1-9][0-9]{0,17})\Z", re.ASCII)
_DASH = "\u2014"
_PEM_HEAD = b"# stele ledger keys: "


def _bad(reason: str) -> SteleError:
    return SteleError(
        f"not a valid signed note: {reason}", remedy="the checkpoint is damaged or forged; compare with another copy", code="trust.bad-note"
    )


def strict_base64(text: str) -> bytes:
    """Decode base64 of exactly one spelling.

    Raises:
        SteleError: `trust.bad-note`.
    """
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise _bad("bad base64") from error
    if base64.b64encode(raw).decode() != text:
        raise _bad("another spelling of base64")
    return raw


# ---- checkpoints -------------------------------------------------------------------------------------


class Checkpoint(msgspec.Struct, frozen=True):
    """What is signed of a log: origin, size, root."""

    origin: str
    size: int
    root: bytes

    def body(self) -> bytes:
        """The text of the note."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n".encode()


def parse_body(body: bytes) -> Checkpoint:
    """Parse a checkpoint body of exactly three lines.

    Raises:
        SteleError: `trust.bad-note`.
    """
    try:
        lines = body.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise _bad("not ASCII") from error
    if len(lines) != 4 or lines[3] or not _NAME.match(lines[0]) or not _SIZE.match(lines[1]):
        raise _bad("a checkpoint is origin, size and root, a line each")
    root = strict_base64(lines[2])
    if len(root) != 32:
        raise _bad("the root is not 32 bytes")
    return Checkpoint(lines[0], int(lines[1]), root)


# ---- keys --------------------------------------------------------------------------------------------


def _message(algorithm: int, name: str, body: bytes, seconds: int) -> bytes:
    """What a key of this type and name signs for a checkpoint (tlog-cosignature).

    Raises:
        SteleError: `trust.bad-note`: `body` is not a checkpoint.
    """
    if algorithm == ED25519:
        return body
    head = parse_body(body)
    if algorithm == COSIGNATURE:
        return f"cosignature/v1\ntime {seconds}\n".encode() + body
    return b"".join(
        (
            b"subtree/v1\n\0",
            bytes([len(name)]) + name.encode(),
            struct.pack(">Q", seconds),
            bytes([len(head.origin)]) + head.origin.encode(),
            struct.pack(">QQ", 0, head.size),
            head.root,
        )
    )


class Verifier(NamedTuple):
    """A public key: name, 4-byte key id, the key's bytes (32 of Ed25519, 1,312 of ML-DSA-44), signature type."""

    name: str
    key_id: bytes
    public: bytes
    algorithm: int = ED25519

    def encode(self) -> str:
        """The vkey spelling `name+hex(id)+base64(type ‖ key)`."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(bytes([self.algorithm]) + self.public).decode()}"

    @property
    def tells_time(self) -> bool:
        """Whether its signatures say when they were made."""
        return self.algorithm != ED25519

    def verify(self, body: bytes, signature: bytes) -> bool:
        """Whether a signature, as it stands behind the key id in a note, holds for a checkpoint's text."""
        if len(signature) != _SIGNATURE_SIZE[self.algorithm]:
            return False
        seconds = struct.unpack(">Q", signature[:8])[0] if self.tells_time else 0
        if seconds > MAX_SECONDS:
            return False
        key: Ed25519PublicKey | MLDSA44PublicKey
        try:
            message = _message(self.algorithm, self.name, body, seconds)
            if self.algorithm == ML_DSA_44:
                key = MLDSA44PublicKey.from_public_bytes(self.public)
            else:
                key = Ed25519PublicKey.from_public_bytes(self.public)
            key.verify(signature[8 if self.tells_time else 0 :], message)
        except (InvalidSignature, ValueError, SteleError):  # ValueError: no point of the curve; SteleError: no checkpoint
            return False
        return True


def key_id(name: str, public: bytes, algorithm: int = ED25519) -> bytes:
    """First four bytes of SHA-256(name ‖ newline ‖ type ‖ key)."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([algorithm]) + public).digest()[:4]


def parse_vkey(text: str) -> Verifier:
    """Parse a vkey of type 01, 04 or 06.

    Raises:
        SteleError: `trust.bad-note`.
    """
    parts = text.split("+", 2)
    if len(parts) != 3 or not _NAME.match(parts[0]) or not re.fullmatch(r"[0-9a-f]{8}", parts[1], re.ASCII):
        raise _bad("a key is not name+hash+base64")
    raw = strict_base64(parts[2])
    if not raw or _PUBLIC_SIZE.get(raw[0]) != len(raw) - 1:
        raise _bad("a key is of no known type")
    if key_id(parts[0], raw[1:], raw[0]).hex() != parts[1]:
        raise _bad("a key's hash does not fit")
    return Verifier(parts[0], bytes.fromhex(parts[1]), raw[1:], raw[0])


def line_size(verifier: Verifier) -> int:
    """Bytes of a signature line by a key."""
    blob = 4 + _SIGNATURE_SIZE[verifier.algorithm]
    return len(f"{_DASH} {verifier.name} \n".encode()) + -(-blob // 3) * 4


class Key:
    """A private key that signs checkpoints under a name. The private part is never shown."""

    def __init__(self, name: str, private: Ed25519PrivateKey | MLDSA44PrivateKey, *, cosigner: bool = False) -> None:
        """`cosigner`: an Ed25519 key that makes cosignature/v1; an ML-DSA-44 key makes the one kind that there is."""
        if not _NAME.match(name):
            raise _bad(f"the name {name!r} has spaces or plus signs")
        self._private = private
        ed25519 = COSIGNATURE if cosigner else ED25519
        algorithm = ML_DSA_44 if isinstance(private, MLDSA44PrivateKey) else ed25519
        public = private.public_key().public_bytes_raw()
        self.verifier = Verifier(name, key_id(name, public, algorithm), public, algorithm)

    def __repr__(self) -> str:
        return f"Key({self.verifier.name}, {self.verifier.algorithm})"

    def line(self, body: bytes, seconds: int = 0) -> bytes:
        """The signature line for a checkpoint's text. `seconds`: UTC since 1970, where the type tells a time.

        Raises:
            SteleError: `trust.bad-note`: the text is not a checkpoint and the type signs nothing else.
        """
        algorithm, name = self.verifier.algorithm, self.verifier.name
        stamp = struct.pack(">Q", min(seconds, MAX_SECONDS)) if self.verifier.tells_time else b""
        blob = self.verifier.key_id + stamp + self._private.sign(_message(algorithm, name, body, seconds))
        return f"{_DASH} {name} {base64.b64encode(blob).decode()}\n".encode()

    def pem(self) -> bytes:
        """PKCS#8 PEM, unencrypted."""
        return plain_keys.encode("PRIVATE KEY", self.der())

    def der(self) -> bytes:
        """PKCS#8 DER, unencrypted."""
        from cryptography.hazmat.primitives import serialization

        return self._private.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def two_keys(data: bytes, head: bytes) -> tuple[str, Ed25519PrivateKey, MLDSA44PrivateKey]:
    """Name and keys of a key file: `head` and the name in a line, then an Ed25519 and an ML-DSA-44 key, each as PKCS#8 PEM.

    Raises:
        ValueError, TypeError, UnsupportedAlgorithm: it is something else.
    """
    first, _, rest = data.partition(b"\n")
    blocks = re.findall(rb"-----BEGIN [^-]+-----\n[^-]*-----END [^-]+-----\n", rest)
    if not first.startswith(head) or b"".join(blocks) != rest:
        raise ValueError
    if len(blocks) == 2 and (one := plain_keys.ed25519_private(blocks[0])) and (other := plain_keys.ml_dsa_44_private(blocks[1])):
        return first.removeprefix(head).decode("ascii"), one, other
    from cryptography.hazmat.primitives import serialization

    ed25519, ml_dsa_44 = (serialization.load_pem_private_key(block, None) for block in blocks)
    if not isinstance(ed25519, Ed25519PrivateKey) or not isinstance(ml_dsa_44, MLDSA44PrivateKey):
        raise TypeError
    return first.removeprefix(head).decode("ascii"), ed25519, ml_dsa_44


class Signer:
    """The two keys of a ledger with its name, the origin: what it publishes carries a signature by each."""

    def __init__(self, name: str, ed25519: Ed25519PrivateKey, ml_dsa_44: MLDSA44PrivateKey) -> None:
        self._keys = (Key(name, ed25519), Key(name, ml_dsa_44))
        self.name = name
        self.verifiers = tuple(key.verifier for key in self._keys)
        self.verifier = self.verifiers[0]  # Ed25519: the one that every reader of signed notes knows

    @classmethod
    def generate(cls, name: str) -> Signer:
        """New keys."""
        return cls(name, Ed25519PrivateKey.generate(), MLDSA44PrivateKey.generate())

    def __repr__(self) -> str:
        return f"Signer({self.name})"

    def sign(self, body: bytes, seconds: int = 0) -> bytes:
        """The signed note: body, blank line, a signature line by each key. `seconds`: when, UTC since 1970; 0 says nothing of it.

        Raises:
            SteleError: `trust.bad-note`: `body` is not a checkpoint.
        """
        return body + b"\n" + b"".join(key.line(body, seconds) for key in self._keys)

    def pem(self) -> bytes:
        """The key file: a comment line with the name, then each key as PKCS#8 PEM."""
        return _PEM_HEAD + self.name.encode() + b"\n" + b"".join(key.pem() for key in self._keys)

    @classmethod
    def from_pem(cls, data: bytes) -> Signer:
        """Read what `pem` wrote.

        Raises:
            SteleError: `trust.bad-key`.
        """
        try:
            return cls(*two_keys(data, _PEM_HEAD))
        except (ValueError, TypeError, UnsupportedAlgorithm, SteleError) as error:
            raise SteleError(
                "this is not a ledger key: a name, an Ed25519 and an ML-DSA-44 key",
                remedy="name the file that `stele init` made: keys/ledger.key",
                code="trust.bad-key",
            ) from error


# ---- signed notes ------------------------------------------------------------------------------------


class Signature(msgspec.Struct, frozen=True):
    """A signature that held. `seconds`: when it says that it was made, UTC since 1970; None where its type tells no time."""

    verifier: Verifier
    seconds: int | None


class Opened(msgspec.Struct, frozen=True):
    """A note that was believed: its checkpoint, and every signature in it by a known key, in the order of the note."""

    checkpoint: Checkpoint
    signatures: tuple[Signature, ...]


def split_note(note: bytes) -> tuple[bytes, list[tuple[str, bytes, bytes]]]:
    """Text and signatures (name, key id, the rest) of a note; nothing is verified.

    Raises:
        SteleError: `trust.bad-note`.
    """
    body, gap, tail = note.rpartition(b"\n\n")
    if not gap or not tail.endswith(b"\n") or len(note) > MAX_NOTE:
        raise _bad("no signature, or too long")
    try:
        lines = tail[:-1].decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise _bad("not UTF-8") from error
    found = []
    for line in lines:
        parts = line.split(" ")
        if len(parts) != 3 or parts[0] != _DASH or not _is_key_name(parts[1]):
            raise _bad("a signature line is a dash, a name and base64")
        blob = strict_base64(parts[2])
        if len(blob) < 5:
            raise _bad("a signature is cut off")
        found.append((parts[1], blob[:4], blob[4:]))
    return body + b"\n", found


def unverified(note: bytes) -> Checkpoint:
    """What a note says, whoever signed it.

    Raises:
        SteleError: `trust.bad-note`.
    """
    return parse_body(split_note(note)[0])


def claimed(note: bytes) -> Checkpoint:
    """Like `unverified`, but signatures are not even read: for notes that whoever asks kept, or verifies later.

    Raises:
        SteleError: `trust.bad-note`.
    """
    return parse_body(note.partition(b"\n\n")[0] + b"\n")


def lines_of(note: bytes, wanted: Callable[[str, bytes], bool]) -> bytes:
    """The signature lines of a note by keys that are `wanted` (name, key id), as they stand there; nothing is verified.

    Raises:
        SteleError: `trust.bad-note`.
    """
    _, found = split_note(note)
    raw = note.rpartition(b"\n\n")[2].split(b"\n")
    return b"".join(raw[at] + b"\n" for at, (name, identity, _) in enumerate(found) if wanted(name, identity))


def open_note(note: bytes, ledgers: Sequence[Verifier], witnesses: Iterable[Verifier] = ()) -> Opened:
    """The checkpoint of a note, and who signed it.

    It must carry the Ed25519 signature of a trusted ledger key whose name is its origin, and its ML-DSA-44 signature, too, if such a
    key of that name is trusted: else whoever breaks one of the two could leave the other out. Every line by a known key must hold,
    and there is one at most by each. Lines by unknown keys are ignored.

    Raises:
        SteleError: `trust.bad-note`, `trust.unknown-signer`, `trust.bad-signature`, `trust.missing-signature`.
    """
    body, lines = split_note(note)
    checkpoint = parse_body(body)
    ledgers = [key for key in ledgers if key.name == checkpoint.origin]  # another ledger's key says nothing of this one
    known = {(key.name, key.key_id): key for key in (*witnesses, *ledgers)}
    held: list[Signature] = []
    for name, identity, signature in lines:
        verifier = known.pop((name, identity), None)
        if verifier is None:
            if any((each.verifier.name, each.verifier.key_id) == (name, identity) for each in held):
                raise _bad(f"two signatures by the same key of {name}")
            continue
        if not verifier.verify(body, signature):
            raise SteleError(
                f"the checkpoint's signature by {name} does not hold",
                remedy="the ledger or proof was altered; compare with another copy",
                code="trust.bad-signature",
            )
        held.append(Signature(verifier, struct.unpack(">Q", signature[:8])[0] if verifier.tells_time else None))
    own = {each.verifier.algorithm for each in held if each.verifier in ledgers}
    if ED25519 not in own:
        raise SteleError(
            f"the checkpoint is signed by {lines[0][0]!r}, with a key that you do not trust",
            remedy="check which ledger it came from, and bring that ledger's key if you trust it",
            code="trust.unknown-signer",
        )
    if ML_DSA_44 not in own and any(key.algorithm == ML_DSA_44 for key in ledgers):
        raise SteleError(
            f"the checkpoint lacks the ML-DSA-44 signature of {checkpoint.origin!r}",
            remedy="get the checkpoint whole; a ledger signs with both of its keys",
            code="trust.missing-signature",
        )
    return Opened(checkpoint, tuple(held))


def open_checkpoint(note: bytes, trusted: Sequence[Verifier]) -> Checkpoint:
    """The checkpoint of a note that `open_note` believes.

    Raises:
        SteleError: `trust.*`, as there.
    """
    return open_note(note, trusted).checkpoint
