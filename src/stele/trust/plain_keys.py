"""Keys in the one spelling in which Stele writes them: PEM of fixed shape around PKCS#8 and SPKI DER of fixed shape. Pure.

The library's own readers take every spelling, and load SSH, ciphers and more with themselves, which takes longer than a signature. What is
spelled in another way is theirs; what is read here they read as the same key (tests/unit/test_plain_keys.py).
"""

from __future__ import annotations

import base64
import binascii

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

# RFC 5915 in RFC 5958: the private number stands between the first two, the point (RFC 5480, uncompressed) after them
_P256_HEAD = bytes.fromhex("308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420")
_P256_POINT = bytes.fromhex("a144034200")
_P256_PUBLIC = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
_ED25519 = bytes.fromhex("302e020100300506032b657004220420")  # RFC 8410; then the seed
_ML_DSA_44 = bytes.fromhex("3034020100300b060960864801650304031104228020")  # RFC 9881; then the seed
_NUMBER, _POINT, _SEED = 32, 65, 32  # bytes


def encode(label: str, der: bytes) -> bytes:
    """PEM as OpenSSL writes it."""
    text = base64.b64encode(der).decode("ascii")
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode("ascii")


def decode(label: str, data: bytes) -> bytes | None:
    """The DER in a PEM as `encode` writes it; None: it is spelled in another way."""
    try:
        der = base64.b64decode(b"".join(data.split(b"\n")[1:-2]), validate=True)
    except binascii.Error:
        return None
    return der if encode(label, der) == data else None


def p256_private(pem: bytes) -> ec.EllipticCurvePrivateKey | None:
    """A P-256 key in PKCS#8 PEM; None: it is something else, or spelled in another way."""
    der = decode("PRIVATE KEY", pem) or b""
    number, rest = der[len(_P256_HEAD) :][:_NUMBER], der[len(_P256_HEAD) + _NUMBER :]
    if not der.startswith(_P256_HEAD) or not rest.startswith(_P256_POINT) or len(rest) != len(_P256_POINT) + _POINT:
        return None
    try:
        key = ec.derive_private_key(int.from_bytes(number, "big"), ec.SECP256R1())
    except ValueError:
        return None
    return key if p256_spki(key.public_key()) == _P256_PUBLIC + rest[len(_P256_POINT) :] else None


def p256_public(der: bytes) -> ec.EllipticCurvePublicKey | None:
    """A P-256 key in SPKI DER; None: it is something else, or spelled in another way."""
    if not der.startswith(_P256_PUBLIC) or len(der) != len(_P256_PUBLIC) + _POINT or der[len(_P256_PUBLIC)] != 4:
        return None
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), der[len(_P256_PUBLIC) :])
    except ValueError:
        return None


def p256_spki(key: ec.EllipticCurvePublicKey) -> bytes:
    """The SPKI DER of a P-256 key."""
    numbers = key.public_numbers()
    return _P256_PUBLIC + b"\4" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def ed25519_private(pem: bytes) -> Ed25519PrivateKey | None:
    """An Ed25519 key in PKCS#8 PEM; None: it is something else, or spelled in another way."""
    seed = _seed(pem, _ED25519)
    return Ed25519PrivateKey.from_private_bytes(seed) if seed else None


def ml_dsa_44_private(pem: bytes) -> MLDSA44PrivateKey | None:
    """An ML-DSA-44 key in PKCS#8 PEM; None: it is something else, or spelled in another way."""
    seed = _seed(pem, _ML_DSA_44)
    return MLDSA44PrivateKey.from_seed_bytes(seed) if seed else None


def _seed(pem: bytes, head: bytes) -> bytes | None:
    der = decode("PRIVATE KEY", pem) or b""
    return der[len(head) :] if der.startswith(head) and len(der) == len(head) + _SEED else None
