"""Release keys: ECDSA P-256 with SHA-256, as cosign has them. PKCS#8 and SPKI PEM."""

from __future__ import annotations

import base64
import hashlib
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from stele.trust import plain_keys
from stele.trust.errors import SteleError


def unusable(reason: str) -> SteleError:
    """The error for a key that cannot be one of ours."""
    return SteleError(
        f"not a usable release key: {reason}", remedy="an ECDSA P-256 key in PEM is needed, as `stele init` makes it", code="trust.bad-key"
    )


class PublicKey:
    """A release key's public half."""

    def __init__(self, key: ec.EllipticCurvePublicKey) -> None:
        if not isinstance(key.curve, ec.SECP256R1):
            raise unusable(f"its curve is {key.curve.name}")
        self._key = key
        self.der = plain_keys.p256_spki(key)

    @classmethod
    def from_pem(cls, data: bytes) -> PublicKey:
        """Read SPKI PEM.

        Raises:
            SteleError: `trust.bad-key`.
        """
        if plain := plain_keys.p256_public(plain_keys.decode("PUBLIC KEY", data) or b""):
            return cls(plain)
        from cryptography.hazmat.primitives import serialization

        try:
            key = serialization.load_pem_public_key(data)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise unusable("not PEM") from error
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise unusable("not an elliptic curve key")
        return cls(key)

    @classmethod
    def from_der(cls, data: bytes) -> PublicKey:
        """Read SPKI DER; only its one canonical encoding.

        Raises:
            SteleError: `trust.bad-key`.
        """
        if plain := plain_keys.p256_public(data):
            return cls(plain)
        from cryptography.hazmat.primitives import serialization

        try:
            key = serialization.load_der_public_key(data)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise unusable("not DER") from error
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise unusable("not an elliptic curve key")
        made = cls(key)
        if made.der != data:
            raise unusable("another encoding of the same key")
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self.der == other.der

    def __hash__(self) -> int:
        return hash(self.der)

    @property
    def hint(self) -> str:
        """Cosign's hint and keyid: base64 of SHA-256 of the SPKI DER."""
        return base64.b64encode(hashlib.sha256(self.der).digest()).decode()

    def pem(self) -> bytes:
        """SPKI PEM."""
        return plain_keys.encode("PUBLIC KEY", self.der)

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Whether the DER signature over `data` holds."""
        try:
            self._key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


def raw_signature(der: bytes) -> bytes:
    """The 64 bytes of a DER signature's two numbers.

    Raises:
        SteleError: `trust.bad-signature-file`: it is no such signature, or not in the one spelling.
    """
    try:
        one, two = decode_dss_signature(der)
        raw = one.to_bytes(32, "big") + two.to_bytes(32, "big")
    except (ValueError, OverflowError) as error:
        raise _no_signature() from error
    if der_signature(raw) != der:
        raise _no_signature()
    return raw


def der_signature(raw: bytes) -> bytes:
    """The inverse of `raw_signature`."""
    return encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))


def _no_signature() -> SteleError:
    return SteleError(
        "the signature cannot be read: it is not ECDSA P-256 in DER",
        remedy="it is damaged or forged; get it again from its source, or sign the release again",
        code="trust.bad-signature-file",
    )


class ReleaseSigner(Protocol):
    """Signs releases: a key in a file, or one that a key service keeps."""

    @property
    def public(self) -> PublicKey:
        """Its public half."""

    def sign(self, data: bytes) -> bytes:
        """DER ECDSA signature over SHA-256 of `data`.

        Raises:
            SteleError: `trust.key-service`.
        """


class PrivateKey:
    """A release key. Its repr shows nothing of the private half."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key())

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.hint})"

    @classmethod
    def generate(cls) -> PrivateKey:
        """A new key."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, data: bytes, passphrase: bytes | None = None) -> PrivateKey:
        """Read PKCS#8 PEM, encrypted where there is a `passphrase`.

        Raises:
            SteleError: `trust.bad-key`.
        """
        if passphrase is None and (plain := plain_keys.p256_private(data)):
            return cls(plain)
        from cryptography.hazmat.primitives import serialization

        try:
            key = serialization.load_pem_private_key(data, passphrase)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise unusable("not an unencrypted PKCS#8 PEM") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise unusable("not an elliptic curve key")
        return cls(key)

    def pem(self) -> bytes:
        """PKCS#8 PEM, unencrypted."""
        return plain_keys.encode("PRIVATE KEY", self.der())

    def der(self) -> bytes:
        """PKCS#8 DER, unencrypted."""
        from cryptography.hazmat.primitives import serialization

        return self._key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

    def sign(self, data: bytes) -> bytes:
        """DER ECDSA signature over SHA-256 of `data`; the same each time where the library can (RFC 6979)."""
        try:
            return self._key.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        except UnsupportedAlgorithm:
            return self._key.sign(data, ec.ECDSA(hashes.SHA256()))
