"""Root documents of the ledgers of tests, and trust files that name one."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stele.trust import note, root, trust_keys
from stele.trust.root import LogKey, Stolen
from stele.trust.trust_keys import Trust
from tests.ledgers import KEY, SIGNER

HOLDERS = [
    note.Key(name, Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)) for number, name in enumerate(("alice", "bob", "carol"))
]
RELEASE = f"key release 0 - {base64.b64encode(KEY.public.der).decode()}"
RULES = (RELEASE, "rule * 1 release")
ALWAYS = tuple(LogKey(0, None, key) for key in SIGNER.verifiers)


def document(
    version: int = 1,
    logs: Iterable[LogKey] = ALWAYS,
    stolen: Iterable[Stolen] = (),
    policy: Iterable[str] = RULES,
    signers: Sequence[int] = (0, 1),
) -> bytes:
    text = root.encode(SIGNER.name, version, 2, [key.verifier for key in HOLDERS], logs, stolen, policy)
    lines = b"".join(HOLDERS[number].line(text) for number in signers)
    return text + b"\n" + lines if lines else text


def pinned(first: bytes) -> Trust:
    pin = root.parse(first).pin
    return trust_keys.parse(f"stele-trust v1\nroot {pin.origin} {pin.version} {pin.digest[7:]}\n".encode())
