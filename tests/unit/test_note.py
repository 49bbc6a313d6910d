"""Signed notes, checkpoints, trust files: one spelling, a known signer, or an error."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from stele.trust import note, trust_keys
from stele.trust.errors import SteleError
from stele.trust.release_key import PrivateKey

KEY = note.Signer("example.org/log", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = note.Signer("example.org/log", Ed25519PrivateKey.from_private_bytes(bytes(32)))
NOTE = KEY.sign(note.Checkpoint(KEY.verifier.name, 7, bytes(32)).body())


def _code(data: bytes, *trusted: note.Verifier) -> str:
    with pytest.raises(SteleError) as caught:
        note.open_checkpoint(data, trusted or (KEY.verifier,))
    return caught.value.code


def test_a_signed_checkpoint_opens_with_its_key_only() -> None:
    assert note.open_checkpoint(NOTE, [KEY.verifier]).size == 7
    assert _code(NOTE, OTHER.verifier) == "trust.unknown-signer"
    forged = note.Verifier(KEY.verifier.name, KEY.verifier.key_id, OTHER.verifier.public)
    assert _code(NOTE, forged) == "trust.bad-signature"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\n7\n", b"\n07\n"),
        (b"\n7\n", b"\n+7\n"),
        (b"\n7\n", b"\n7_0\n"),
        (b"\n7\n", b"\n-7\n"),
        (b"\n7\n", "\n\u0667\n".encode()),
        (b"\n7\n", b"\n 7\n"),
        (b"\n7\n", b"\r\n7\n"),
        (b"\n\n", b"\n\n\n"),
        (b"\n\n", b"\nextension\n\n"),
        ("\u2014".encode(), b"-"),
        (b"AAAA", b"AAA A"),
    ],
)
def test_other_spellings_of_a_checkpoint_are_refused(old: bytes, new: bytes) -> None:
    assert _code(NOTE.replace(old, new, 1)) in {"trust.bad-note", "trust.bad-signature"}


def test_every_changed_byte_is_refused() -> None:
    for position in range(len(NOTE)):
        for bit in (1, 0x20, 0x80):
            changed = bytearray(NOTE)
            changed[position] ^= bit
            assert _code(bytes(changed)).startswith("trust.")


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_a_code(data: bytes) -> None:
    assert _code(data).startswith("trust.")


@given(st.text(max_size=120))
def test_any_text_as_a_key_is_refused_or_the_only_spelling(text: str) -> None:
    try:
        assert note.parse_vkey(text).encode() == text
    except SteleError as error:
        assert error.code == "trust.bad-note"


def test_keys_survive_their_files_and_their_repr_shows_nothing() -> None:
    assert note.Signer.from_pem(KEY.pem()).verifier == KEY.verifier
    assert note.parse_vkey(KEY.verifier.encode()) == KEY.verifier
    release = PrivateKey.generate()
    for shown in (repr(KEY), repr(release)):
        assert base64.b64encode(bytes(range(32))).decode() not in shown
    trust = trust_keys.Trust((KEY.verifier,), (release.public,))
    data = trust_keys.encode(trust)
    assert trust_keys.encode(trust_keys.parse(data)) == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"stele-trust v0\n",
        b"stele-trust v1\nledger x\n",
        b"stele-trust v0\nledger x\n",
        b"stele-trust v0\n\n",
        b"stele-trust v0\nfriend x\n",
        b"\xff\n",
    ],
)
def test_trust_files_of_another_spelling_or_without_a_ledger_are_refused(data: bytes) -> None:
    with pytest.raises(SteleError):
        trust_keys.parse(data)


@given(st.binary(max_size=200))
def test_any_bytes_as_a_trust_file_are_refused(data: bytes) -> None:
    with pytest.raises(SteleError):
        trust_keys.parse(b"stele-trust v0\n" + data)
