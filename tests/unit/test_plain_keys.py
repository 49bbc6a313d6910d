"""Keys in our own spelling are the keys that the library reads; every other spelling is left to the library."""

from __future__ import annotations

import base64
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from stele.trust import plain_keys
from stele.trust.errors import SteleError
from stele.trust.release_key import PrivateKey, PublicKey

KINDS = {
    "p256": (lambda: ec.generate_private_key(ec.SECP256R1()), plain_keys.p256_private),
    "ed25519": (Ed25519PrivateKey.generate, plain_keys.ed25519_private),
    "ml-dsa-44": (MLDSA44PrivateKey.generate, plain_keys.ml_dsa_44_private),
}


def pem(key) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_library_writes_is_read_as_the_same_key(kind):
    make, read = KINDS[kind]
    for _ in range(20):
        written = pem(make())
        found = read(written)
        assert found is not None
        assert pem(found) == written


@pytest.mark.parametrize("kind", KINDS)
def test_another_spelling_is_not_ours(kind):
    make, read = KINDS[kind]
    written = pem(make())
    der = serialization.load_pem_private_key(written, None).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    line = b"-----BEGIN PRIVATE KEY-----\n" + base64.b64encode(der) + b"\n-----END PRIVATE KEY-----\n"
    for other in (written[:-1], b"\n" + written, written.replace(b"\n", b"\r\n"), written + b"\n", line.replace(b"=", b""), b"", b"\n\n\n"):
        assert other == written or read(other) is None, other
    assert all(read(written) is None for name, (_, read) in KINDS.items() if name != kind)


def test_a_private_number_with_another_point_is_left_to_the_library_which_refuses_it():
    one, other = (plain_keys.decode("PRIVATE KEY", PrivateKey.generate().pem()) or b"" for _ in range(2))
    mixed = plain_keys.encode("PRIVATE KEY", one[:-65] + other[-65:])
    assert plain_keys.p256_private(mixed) is None
    with pytest.raises(SteleError):
        PrivateKey.from_pem(mixed)


@settings(deadline=None)
@given(st.data())
def test_a_damaged_key_is_read_as_what_the_library_reads_or_not_at_all(data):
    der = bytearray(plain_keys.decode("PRIVATE KEY", PrivateKey.generate().pem()) or b"")
    at, value = data.draw(st.integers(0, len(der) - 1)), data.draw(st.integers(0, 255))
    der[at] = value
    text = plain_keys.encode("PRIVATE KEY", bytes(der))
    found = plain_keys.p256_private(text)
    if found is not None:
        assert pem(found) == pem(serialization.load_pem_private_key(text, None))


@settings(deadline=None)
@given(st.binary(min_size=64, max_size=64))
def test_a_public_key_is_a_point_of_the_curve_or_none(point):
    der = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004") + point
    found = plain_keys.p256_public(der)
    try:
        known = serialization.load_der_public_key(der)
    except ValueError:
        assert found is None
        return
    assert found is not None
    assert found.public_numbers() == known.public_numbers()


def test_public_keys_are_spelled_as_the_library_spells_them():
    for _ in range(20):
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        text = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        assert (PublicKey(key).der, PublicKey(key).pem()) == (der, text)
        assert PublicKey.from_der(der) == PublicKey.from_pem(text) == PublicKey(key)


@pytest.mark.needs("openssl")
def test_openssl_reads_what_is_written_and_writes_what_is_read(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(PrivateKey.generate().pem())
    written = subprocess.run(["openssl", "pkey", "-in", str(path)], check=True, capture_output=True).stdout
    assert plain_keys.p256_private(written) is not None
