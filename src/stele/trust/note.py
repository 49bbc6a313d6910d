"""Signed notes and checkpoints (C2SP signed-note, tlog-checkpoint). One spelling; bytes in, verdict out. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Sequence

ED25519 = 0x01
_NAME = re.compile(r"[!-*,-~]{1,200}\Z")  # printable ASCII without space and plus
_SIZE = re.compile(r"(0|[1-9][0-9]{0,17})\Z", re.ASCII)
_PEM_HEAD = b"# stele ledger key: "


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


class Verifier(NamedTuple):
    """A log's public key: name, 4-byte key id, Ed25519 public key (32 bytes)."""

    name: str
    key_id: bytes
    public: bytes

    def encode(self) -> str:
        """The vkey spelling `name+hex(id)+base64(type ‖ key)`."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(bytes([ED25519]) + self.public).decode()}"

    def verify(self, body: bytes, signature: bytes) -> bool:
        """Whether the Ed25519 signature holds."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, body)
        except (InvalidSignature, ValueError):  # ValueError: no point of the curve
            return False
        return True


def key_id(name: str, public: bytes) -> bytes:
    """First four bytes of SHA-256(name ‖ newline ‖ type ‖ key)."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([ED25519]) + public).digest()[:4]


def parse_vkey(text: str) -> Verifier:
    """Parse a vkey.

    Raises:
        SteleError: `trust.bad-note`.
    """
    parts = text.split("+", 2)
    if len(parts) != 3 or not _NAME.match(parts[0]) or not re.fullmatch(r"[0-9a-f]{8}", parts[1], re.ASCII):
        raise _bad("a key is not name+hash+base64")
    raw = strict_base64(parts[2])
    if len(raw) != 33 or raw[0] != ED25519 or key_id(parts[0], raw[1:]).hex() != parts[1]:
        raise _bad("a key's hash does not fit")
    return Verifier(parts[0], bytes.fromhex(parts[1]), raw[1:])


class Signer:
    """An Ed25519 log key with its name (the ledger's origin). The private part is never shown."""

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        if not _NAME.match(name):
            raise _bad(f"the name {name!r} has spaces or plus signs")
        self._private = private
        public = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.verifier = Verifier(name, key_id(name, public), public)

    def __repr__(self) -> str:
        return f"Signer({self.verifier.name})"

    def sign(self, body: bytes) -> bytes:
        """The signed note: body, blank line, one signature line."""
        blob = self.verifier.key_id + self._private.sign(body)
        return body + b"\n" + f"\u2014 {self.verifier.name} {base64.b64encode(blob).decode()}\n".encode()

    def pem(self) -> bytes:
        """The key file: a comment line with the name, then PKCS#8 PEM."""
        raw = self._private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return _PEM_HEAD + self.verifier.name.encode() + b"\n" + raw

    @classmethod
    def from_pem(cls, data: bytes) -> Signer:
        """Read what `pem` wrote.

        Raises:
            SteleError: `trust.bad-key`.
        """
        head, _, rest = data.partition(b"\n")
        try:
            if not head.startswith(_PEM_HEAD):
                raise ValueError
            private = serialization.load_pem_private_key(rest, None)
            name = head.removeprefix(_PEM_HEAD).decode("ascii")
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise SteleError(
                "this is not a ledger key", remedy="name the file that `stele init` made: keys/ledger.key", code="trust.bad-key"
            ) from error
        if not isinstance(private, Ed25519PrivateKey):
            raise SteleError(
                "the ledger key is not Ed25519", remedy="name the file that `stele init` made: keys/ledger.key", code="trust.bad-key"
            )
        return cls(name, private)


class Checkpoint(NamedTuple):
    """A signed head: origin, size, root."""

    origin: str
    size: int
    root: bytes

    def body(self) -> bytes:
        """What is signed."""
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


def open_checkpoint(note: bytes, trusted: Sequence[Verifier]) -> Checkpoint:
    """The checkpoint of a note that carries exactly one signature, by a trusted key whose name is its origin.

    Raises:
        SteleError: `trust.bad-note`, `trust.unknown-signer`, `trust.bad-signature`.
    """
    body, gap, tail = note.partition(b"\n\n")
    body += b"\n"
    if not gap or not tail.endswith(b"\n") or len(note) > 16384:
        raise _bad("no signature")
    try:
        line = tail[:-1].decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad("not UTF-8") from error
    parts = line.split(" ")
    if "\n" in line or len(parts) != 3 or parts[0] != "\u2014":
        raise _bad("exactly one signature line is expected")
    blob = strict_base64(parts[2])
    checkpoint = parse_body(body)
    for verifier in trusted:
        if verifier.name == parts[1] and verifier.key_id == blob[:4]:
            if checkpoint.origin != verifier.name:
                raise _bad("the checkpoint is of another log than its signer")
            if not verifier.verify(body, blob[4:]):
                raise SteleError(
                    "the checkpoint's signature does not hold",
                    remedy="the ledger or proof was altered; compare with another copy",
                    code="trust.bad-signature",
                )
            return checkpoint
    raise SteleError(
        f"the checkpoint is signed by {parts[1]!r}, which you do not trust",
        remedy="check which ledger it came from, and bring that ledger's key if you trust it",
        code="trust.unknown-signer",
    )
