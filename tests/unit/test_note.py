"""Checkpoints and keys: one spelling each, whatever a lax parser elsewhere would accept."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from stele.trust import dsse, note
from stele.trust.errors import SteleError
from stele.trust.release_key import PrivateKey, PublicKey
from tests.ledgers import KEY, OTHER, SIGNER

BODY = note.Checkpoint(SIGNER.verifier.name, 1234, bytes(range(32))).body()
NOTE = SIGNER.sign(BODY)
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "note.json").read_text())


def code(call, *args) -> str:
    with pytest.raises(SteleError) as raised:
        call(*args)
    return raised.value.code


def read(data: bytes) -> note.Checkpoint:
    return note.open_checkpoint(data, [SIGNER.verifier])


@pytest.mark.parametrize("vector", VECTORS["notes"], ids=lambda vector: vector["why"])
def test_vectors(vector):
    trusted = [note.parse_vkey(VECTORS["vkey"])]
    if vector["code"] == "":
        found = note.open_checkpoint(vector["note"].encode(), trusted)
        assert [found.origin, found.size, found.root.hex()] == vector["checkpoint"]
    else:
        assert code(note.open_checkpoint, vector["note"].encode(), trusted) == vector["code"]


def test_a_signed_checkpoint_opens_and_says_what_was_signed():
    assert read(NOTE) == note.Checkpoint(SIGNER.verifier.name, 1234, bytes(range(32)))
    assert read(NOTE).body() == BODY


@pytest.mark.parametrize(
    "size",
    ["01", "+1", "-1", "1_0", " 1", "1 ", "٣", "", "0x1", "1e3", "9" * 30, "1\r", "¹"],
)
def test_sizes_have_one_spelling(size):
    body = f"{SIGNER.verifier.name}\n{size}\n{base64.b64encode(bytes(32)).decode()}\n".encode()
    assert code(read, SIGNER.sign(body)) == "trust.bad-note"


@pytest.mark.parametrize(
    "root", ["A" * 43 + "B=", "A" * 43, "A" * 43 + "=\r", "A" * 40, " " + "A" * 43 + "=", "A" * 21 + "!" + "A" * 22 + "=", ""]
)
def test_roots_have_one_spelling(root):
    body = f"{SIGNER.verifier.name}\n5\n{root}\n".encode()
    assert code(read, SIGNER.sign(body)) == "trust.bad-note"


def test_extension_lines_and_other_shapes_are_refused():
    for body in (BODY + b"extra\n", b"\n" + BODY, BODY[:-1], b"", BODY.replace(b"\n", b"\r\n")):
        assert code(read, SIGNER.sign(body)).startswith("trust.")


def test_every_flip_deletion_and_insertion_is_refused():
    for at in range(len(NOTE)):
        for changed in (NOTE[:at] + bytes([NOTE[at] ^ 1]) + NOTE[at + 1 :], NOTE[:at] + NOTE[at + 1 :], NOTE[:at] + b"A" + NOTE[at:]):
            if changed != NOTE:
                assert code(read, changed) in {"trust.bad-note", "trust.bad-signature", "trust.unknown-signer"}


def test_signatures_by_others_and_several_signatures():
    assert code(read, OTHER.sign(BODY)) == "trust.unknown-signer"  # same name, other key
    forged = NOTE.replace(b"1234", b"1235")
    assert code(read, forged) == "trust.bad-signature"
    assert code(read, NOTE + NOTE.partition(b"\n\n")[2]) == "trust.bad-note"
    assert code(note.open_checkpoint, NOTE, []) == "trust.unknown-signer"
    elsewhere = note.Signer("test.example/other", Ed25519PrivateKey.from_private_bytes(bytes(32)))
    assert code(note.open_checkpoint, elsewhere.sign(BODY), [elsewhere.verifier]) == "trust.bad-note"


@given(st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_anything_else_is_refused(data):
    assert code(read, data).startswith("trust.")


@given(st.text(max_size=60))
def test_base64_is_refused_or_the_only_spelling(text):
    try:
        raw = note.strict_base64(text)
    except SteleError as error:
        assert error.code == "trust.bad-note"
    else:
        assert base64.b64encode(raw).decode() == text


def test_vkeys_read_back_and_fit_their_hash():
    vkey = SIGNER.verifier.encode()
    assert note.parse_vkey(vkey) == SIGNER.verifier
    for at in range(len(vkey)):
        for changed in (vkey[:at] + vkey[at + 1 :], vkey[:at] + "x" + vkey[at + 1 :]):
            if changed != vkey:
                assert code(note.parse_vkey, changed) == "trust.bad-note"


def test_a_key_that_is_no_point_verifies_nothing():
    for public in (b"\xff" * 32, b"\x02" + bytes(31)):
        verifier = note.Verifier("x", note.key_id("x", public), public)
        assert not verifier.verify(BODY, bytes(64))


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u00a0b", "ü", "a" * 201, "a\x7f"])
def test_names_that_could_not_be_read_back_are_refused(name):
    assert code(note.Signer, name, Ed25519PrivateKey.generate()) == "trust.bad-note"


def test_key_files_read_back_and_show_nothing():
    assert note.Signer.from_pem(SIGNER.pem()).verifier == SIGNER.verifier
    assert repr(SIGNER) == f"Signer({SIGNER.verifier.name})"
    pem = SIGNER.pem()
    for bad in (b"", pem.partition(b"\n")[2], pem[:-40], b"# stele ledger key: x\n" + KEY.pem(), pem.replace(b"stele", b"other", 1)):
        assert code(note.Signer.from_pem, bad) == "trust.bad-key"


def test_release_keys_refuse_other_kinds_and_spellings():
    assert PublicKey.from_der(KEY.public.der).der == PublicKey.from_pem(KEY.public.pem()).der == KEY.public.der
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    ed25519 = Ed25519PrivateKey.generate().public_key()
    for bad in (b"", KEY.public.der + b"\0", KEY.public.der[:-1], ed25519.public_bytes(serialization.Encoding.DER, spki)):
        assert code(PublicKey.from_der, bad) == "trust.bad-key"
    assert code(PublicKey.from_pem, b"") == code(PrivateKey.from_pem, SIGNER.pem()) == "trust.bad-key"
    signature = KEY.sign(b"data")
    assert KEY.public.verify(b"data", signature)
    for bad in (b"", signature + b"\0", signature[:-1], bytes(len(signature)), bytes(64)):
        assert not KEY.public.verify(b"data", bad)
    assert not KEY.public.verify(b"dat", signature)
    assert "PrivateKey(" in repr(KEY)


def test_envelopes_read_back_in_both_alphabets_and_nothing_else_is_read():
    plain = dsse.sign("application/x", b"\xfb\xff\xfe{}", "key", KEY.sign)
    envelope = dsse.decode(plain)
    assert KEY.public.verify(dsse.pae(envelope.payload_type, envelope.payload), envelope.signature)
    assert dsse.decode({**plain, "payload": plain["payload"].replace("+", "-").replace("/", "_")}) == envelope
    for changed in (
        {**plain, "payload": "+-=="},
        {**plain, "payload": "AB=="},
        {**plain, "payload": "A A="},
        {**plain, "payload": 3},
        {**plain, "more": 1},
        {**plain, "signatures": []},
        {**plain, "signatures": plain["signatures"] * 2},
        {**plain, "signatures": [{"keyid": 1, "sig": ""}]},
        {**plain, "payloadType": None},
        [],
    ):
        assert code(dsse.decode, changed) == "trust.bad-envelope"
    doubled = json.dumps(plain)[:-1] + ',"payload":"AAAA"}'
    for data in (doubled.encode(), b"", b"[" * 100_000, b"\xff", b"9" * 5000):
        assert code(dsse.loads, data) == "trust.bad-envelope"
