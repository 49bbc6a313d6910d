"""Keys of holders of the root of trust, as files (docs/spec/root.md, Holders' keys): a name, and an Ed25519 key as PKCS#8. Pure."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stele.trust import key_files, note
from stele.trust.errors import SteleError

HEAD = b"# stele holder key: "


def encode(key: note.Key, passphrase: bytes | None, random: bytes) -> bytes:
    """The file. `random`: see `key_files.encrypt`."""
    pem = key.pem() if passphrase is None else key_files.encrypt(key.der(), passphrase, random)
    return HEAD + key.verifier.name.encode() + b"\n" + pem


def load(data: bytes, passphrase: bytes | None) -> note.Key:
    """Read a holder's key.

    Raises:
        SteleError: `trust.bad-key`, `trust.wrong-passphrase`.
    """
    head, _, pem = data.partition(b"\n")
    try:
        if not head.startswith(HEAD) or len(data) > key_files.MAX_BYTES:
            raise ValueError
        private = serialization.load_pem_private_key(pem, passphrase)
        if not isinstance(private, Ed25519PrivateKey):
            raise TypeError
        return note.Key(head.removeprefix(HEAD).decode("ascii"), private)
    except (ValueError, TypeError, UnsupportedAlgorithm, SteleError) as error:
        if passphrase is not None and head.startswith(HEAD):
            raise key_files.wrong_passphrase() from error
        raise SteleError(
            "this is not a holder's key", remedy="name the file that `stele trust holder` made", code="trust.bad-key"
        ) from error
