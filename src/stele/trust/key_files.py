"""Private release keys as files (docs/spec/signature.md, Key files): PKCS#8, plain or under a passphrase, and cosign's own. Pure."""

from __future__ import annotations

import base64
import binascii
import importlib
import json
import re
from typing import Any

from stele.trust import der, plain_keys
from stele.trust.errors import SteleError
from stele.trust.release_key import PrivateKey, unusable

ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
_COSIGN = rb"-----BEGIN ENCRYPTED (SIGSTORE|COSIGN) PRIVATE KEY-----\n([A-Za-z0-9+/=\r\n]+)-----END ENCRYPTED \1 PRIVATE KEY-----\s*\Z"
MAX_BYTES = 1 << 16
# scrypt: 16 MiB and some 100 ms for each guess; OpenSSL reads no more than 32 MiB without being told to
COST, BLOCK, PARALLEL = 1 << 14, 8, 5
MAX_SCRYPT = 256 << 20  # bytes of memory that a foreign file may ask for
RANDOM_BYTES = 32  # what `encrypt` needs
_PBES2, _SCRYPT, _AES = (bytes.fromhex(text) for text in ("06092a864886f70d01050d", "06092b06010401da47040b", "060960864801650304012a"))


def is_encrypted(data: bytes) -> bool:
    """Whether a passphrase is needed to read a key file."""
    return b"ENCRYPTED" in data and (ENCRYPTED in data or re.match(_COSIGN, data) is not None)


def load(data: bytes, passphrase: bytes | None) -> PrivateKey:
    """Read a key file.

    Raises:
        SteleError: `trust.bad-key`, `trust.wrong-passphrase`, `trust.library-missing`.
    """
    if len(data) > MAX_BYTES:
        raise unusable("the file is larger than 64 KiB")
    if not is_encrypted(data):
        return PrivateKey.from_pem(data)
    if found := re.match(_COSIGN, data):
        return _cosign(found[2], passphrase or b"")
    try:
        return PrivateKey.from_pem(data, passphrase or b"")
    except SteleError as error:
        raise wrong_passphrase() from error


def encrypt(pkcs8: bytes, passphrase: bytes, random: bytes) -> bytes:
    """A PKCS#8 DER as PEM under a passphrase: PBES2 (RFC 8018) with scrypt (RFC 7914) and AES-256-CBC.

    Written here, because the library would derive the key with 2,048 rounds of PBKDF2. `random`: RANDOM_BYTES fresh random bytes.
    """
    from cryptography.hazmat.primitives import padding
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    assert len(random) == RANDOM_BYTES
    salt, iv = random[:16], random[16:]
    secret = Scrypt(salt=salt, length=32, n=COST, r=BLOCK, p=PARALLEL).derive(passphrase)
    padder = padding.PKCS7(128).padder()
    plain = padder.update(pkcs8) + padder.finalize()
    cipher = Cipher(algorithms.AES(secret), modes.CBC(iv)).encryptor()
    sealed = cipher.update(plain) + cipher.finalize()
    derivation = der.element(0x30, _SCRYPT, der.element(0x30, der.element(0x04, salt), *map(der.integer, (COST, BLOCK, PARALLEL))))
    scheme = der.element(0x30, _PBES2, der.element(0x30, derivation, der.element(0x30, _AES, der.element(0x04, iv))))
    return plain_keys.encode("ENCRYPTED PRIVATE KEY", der.element(0x30, scheme, der.element(0x04, sealed)))


def _cosign(text: bytes, passphrase: bytes) -> PrivateKey:
    """Cosign's own format: JSON with scrypt and NaCl's secretbox around PKCS#8 DER."""
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    try:
        plain = json.loads(base64.b64decode(b"".join(text.split()), validate=True))
        kdf, cipher = plain["kdf"], plain["cipher"]
        cost, block, parallel = (kdf["params"][name] for name in "Nrp")
        salt, nonce, sealed = (base64.b64decode(part, validate=True) for part in (kdf["salt"], cipher["nonce"], plain["ciphertext"]))
        if (kdf["name"], cipher["name"], len(nonce)) != ("scrypt", "nacl/secretbox", 24):
            raise ValueError("it is encrypted in another way")
        if not all(type(value) is int and value > 0 for value in (cost, block, parallel)) or 128 * cost * block * parallel > MAX_SCRYPT:
            raise ValueError("its scrypt parameters are out of range")
        secret = Scrypt(salt=salt, length=32, n=cost, r=block, p=parallel).derive(passphrase)
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error) as error:
        raise unusable(f"the cosign key cannot be read ({str(error)[:100]})") from error
    pkcs8 = _secretbox(secret, nonce, sealed)
    return PrivateKey.from_pem(b"-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(pkcs8) + b"-----END PRIVATE KEY-----\n")


def _secretbox(secret: bytes, nonce: bytes, sealed: bytes) -> bytes:
    try:
        exceptions, boxes = importlib.import_module("nacl.exceptions"), importlib.import_module("nacl.secret")
    except ImportError as error:
        raise SteleError(
            "cosign's own key files need the library PyNaCl, which is not installed",
            remedy="`pip install 'stele[cosign-keys]'`, or make the key with `stele key generate` and `cosign import-key-pair` it",
            code="trust.library-missing",
        ) from error
    box: Any = boxes.SecretBox(secret)
    try:
        return bytes(box.decrypt(sealed, nonce))
    except exceptions.CryptoError as error:
        raise wrong_passphrase() from error


def wrong_passphrase() -> SteleError:
    """The error for a passphrase that does not open a key."""
    return SteleError(
        "the passphrase does not open the key, or the key file is damaged",
        remedy="try again; without the passphrase the key is lost: `stele key rotate` and docs/guide/keys.md say what then",
        code="trust.wrong-passphrase",
    )
