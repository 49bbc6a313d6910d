"""Checkpoints and keys: one spelling each, whatever a lax parser elsewhere would accept."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from stele.trust import dsse, note
from stele.trust.errors import SteleError
from stele.trust.release_key import PrivateKey, PublicKey
from tests.ledgers import KEY, OTHER, SIGNER, signer
from tests.refusals import code

BODY = note.Checkpoint(SIGNER.verifier.name, 1234, bytes(range(32))).body()
NOTE = SIGNER.sign(BODY)
OTHERS = json.loads((Path(__file__).parents[1] / "vectors" / "note_others.json").read_text())["notes"]
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "note.json").read_text())


def read(data: bytes) -> note.Checkpoint:
    return note.open_checkpoint(data, SIGNER.verifiers)


def by_a_hand_that_signs_anything(body: bytes) -> bytes:
    return body + b"\n" + note.Key(SIGNER.name, Ed25519PrivateKey.from_private_bytes(bytes(range(32)))).line(body)


@pytest.mark.parametrize("vector", VECTORS["notes"], ids=lambda vector: vector["why"])
def test_vectors(vector):
    keys = {name: note.parse_vkey(text) for name, text in VECTORS["keys"].items()}
    ledgers, witnesses = ([keys[name] for name in vector[kind]] for kind in ("ledgers", "witnesses"))
    if vector["code"] == "":
        found = note.open_note(vector["note"].encode(), ledgers, witnesses)
        assert [found.checkpoint.origin, found.checkpoint.size, found.checkpoint.root.hex()] == vector["checkpoint"]
        assert [[each.verifier.name, each.verifier.algorithm, each.seconds] for each in found.signatures] == vector["signatures"]
    else:
        assert code(note.open_note, vector["note"].encode(), ledgers, witnesses) == vector["code"]


@pytest.mark.parametrize("vector", OTHERS, ids=lambda vector: vector["from"])
def test_what_others_signed(vector):
    """Notes that other implementations made."""
    verifier = note.parse_vkey(vector["vkey"])
    body, lines = note.split_note(vector["note"].encode())
    (signature,) = [rest for name, identity, rest in lines if (name, identity) == (verifier.name, verifier.key_id)]
    assert verifier.encode() == vector["vkey"]
    assert verifier.verify(body, signature)
    for at in (0, 7, 8, 40, len(signature) - 1):
        assert not verifier.verify(body, signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :])
    assert not verifier.verify(body.replace(b"\n", b"0\n", 2), signature)
    assert not verifier._replace(name="x").verify(body, signature) or verifier.algorithm != note.ML_DSA_44


def test_a_signed_checkpoint_opens_and_says_what_was_signed():
    assert read(NOTE) == note.Checkpoint(SIGNER.verifier.name, 1234, bytes(range(32)))
    assert read(NOTE).body() == BODY


@pytest.mark.parametrize(
    "size",
    ["01", "+1", "-1", "1_0", " 1", "1 ", "٣", "", "0x1", "1e3", "9" * 30, "1\r", "¹"],
)
def test_sizes_have_one_spelling(size):
    body = f"{SIGNER.verifier.name}\n{size}\n{base64.b64encode(bytes(32)).decode()}\n".encode()
    assert code(read, by_a_hand_that_signs_anything(body)) == "trust.bad-note"


@pytest.mark.parametrize(
    "root", ["A" * 43 + "B=", "A" * 43, "A" * 43 + "=\r", "A" * 40, " " + "A" * 43 + "=", "A" * 21 + "!" + "A" * 22 + "=", ""]
)
def test_roots_have_one_spelling(root):
    body = f"{SIGNER.verifier.name}\n5\n{root}\n".encode()
    assert code(read, by_a_hand_that_signs_anything(body)) == "trust.bad-note"


def test_extension_lines_and_other_shapes_are_refused():
    for body in (BODY + b"extra\n", b"\n" + BODY, BODY[:-1], b"", BODY.replace(b"\n", b"\r\n")):
        assert code(read, by_a_hand_that_signs_anything(body)).startswith("trust.")
        assert code(SIGNER.sign, body) == "trust.bad-note"


def test_every_flip_deletion_and_insertion_is_refused():
    refusals = {"trust.bad-note", "trust.bad-signature", "trust.unknown-signer", "trust.missing-signature"}
    for at in range(0, len(NOTE), 1 if len(NOTE) < 400 else 7):
        for changed in (NOTE[:at] + bytes([NOTE[at] ^ 1]) + NOTE[at + 1 :], NOTE[:at] + NOTE[at + 1 :], NOTE[:at] + b"A" + NOTE[at:]):
            if changed != NOTE:
                assert code(read, changed) in refusals


def lines(signed: bytes) -> list[bytes]:
    return signed.rpartition(b"\n\n")[2].splitlines(keepends=True)


def test_a_note_by_another_key_of_the_same_name_is_refused():
    assert code(read, OTHER.sign(BODY)) == "trust.unknown-signer"
    assert code(note.open_checkpoint, NOTE, []) == "trust.unknown-signer"
    assert code(note.open_checkpoint, NOTE, OTHER.verifiers) == "trust.unknown-signer"


def test_a_key_signs_for_its_own_ledger_only():
    elsewhere = signer(bytes(32), "test.example/other")
    assert code(note.open_checkpoint, elsewhere.sign(BODY), elsewhere.verifiers) == "trust.unknown-signer"


def test_no_line_of_a_known_key_may_fail_whatever_else_holds():
    assert code(read, NOTE.replace(b"1234", b"1235")) == "trust.bad-signature"
    other = lines(SIGNER.sign(BODY.replace(b"1234", b"1235")))
    one, two = lines(NOTE)
    for changed in (one + other[1], other[0] + two):
        assert code(read, BODY + b"\n" + changed) == "trust.bad-signature"
    cosigner = note.Key("w.example/1", Ed25519PrivateKey.from_private_bytes(bytes(32)), cosigner=True)
    wrong = NOTE + cosigner.line(BODY.replace(b"1234", b"1235"), 5)
    assert read(wrong)  # nobody that is known
    assert code(note.open_note, wrong, SIGNER.verifiers, [cosigner.verifier]) == "trust.bad-signature"


def test_a_line_twice_is_refused():
    for line in lines(NOTE):
        assert code(read, NOTE + line) == "trust.bad-note"
    again = lines(SIGNER.sign(BODY, 77))[1]  # the same key, another time
    assert code(read, NOTE + again) == "trust.bad-note"


def test_who_trusts_both_keys_is_not_content_with_one():
    one, two = lines(NOTE)
    assert code(read, BODY + b"\n" + one) == "trust.missing-signature"
    assert code(read, BODY + b"\n" + two) == "trust.unknown-signer"
    assert note.open_checkpoint(BODY + b"\n" + one, [SIGNER.verifier]).size == 1234
    assert note.open_checkpoint(BODY + b"\n" + one, [SIGNER.verifier, *signer(bytes(32), "test.example/other").verifiers]).size == 1234


def test_lines_of_unknown_keys_are_ignored_if_they_are_lines():
    one, two = lines(NOTE)
    stranger = "— jürgen/ß AAAAAAA=\n".encode()
    for at in (stranger + one + two, one + stranger + two, one + two + stranger + stranger):
        found = note.open_note(BODY + b"\n" + at, SIGNER.verifiers)
        assert [each.verifier for each in found.signatures] == list(SIGNER.verifiers)
    wrong = (
        "— AAAAAAA=\n",
        "— a AAAA\n",
        "— a+b AAAAAAA=\n",
        "— a b AAAAAAA=\n",
        "— a\u00a0b AAAAAAA=\n",
        "— a\tb AAAAAAA=\n",
        "\n",
        "x\n",
        "— a AAAAAAB=\n",
    )
    for bad in wrong:
        assert code(read, NOTE + bad.encode()) == "trust.bad-note"


def test_sixteen_signatures_of_the_largest_kind_fit():
    """As signed-note wants of every verifier; and there is an end to it."""
    keys = [note.Key(f"w.example/{number}", MLDSA44PrivateKey.from_seed_bytes(bytes([number]) * 32)) for number in range(14)]
    whole = NOTE + b"".join(key.line(BODY, number) for number, key in enumerate(keys))
    found = note.open_note(whole, SIGNER.verifiers, [key.verifier for key in keys])
    assert [each.seconds for each in found.signatures] == [None, 0, *range(14)]
    assert code(read, NOTE + keys[0].line(BODY) * 40) == "trust.bad-note"


@pytest.mark.parametrize("kind", [note.ED25519, note.COSIGNATURE, note.ML_DSA_44])
def test_a_signature_of_one_kind_is_none_of_another(kind):
    """The same private key under each type: neither its lines nor its bytes can be passed off as the other's."""
    seed = bytes(range(32))
    makers = {
        note.ED25519: note.Key("w.example/1", Ed25519PrivateKey.from_private_bytes(seed)),
        note.COSIGNATURE: note.Key("w.example/1", Ed25519PrivateKey.from_private_bytes(seed), cosigner=True),
        note.ML_DSA_44: note.Key("w.example/1", MLDSA44PrivateKey.from_seed_bytes(seed)),
    }
    blob = note.split_note(BODY + b"\n" + makers[kind].line(BODY, 1_700_000_000))[1][0][2]
    for other, maker in makers.items():
        assert maker.verifier.verify(BODY, blob) == (other == kind)
        assert not maker.verifier.verify(BODY, blob[8:])
        assert not maker.verifier.verify(BODY, blob + b"\0")
        assert not maker.verifier.verify(b"no checkpoint\n", blob)


@pytest.mark.parametrize("cosigner", [True, False])
def test_the_time_of_a_cosignature_is_signed_along(cosigner):
    private = Ed25519PrivateKey.generate() if cosigner else MLDSA44PrivateKey.generate()
    key = note.Key("w.example/1", private, cosigner=cosigner)
    blob = note.split_note(BODY + b"\n" + key.line(BODY, 1_700_000_000))[1][0][2]
    assert blob[:8] == (1_700_000_000).to_bytes(8, "big")
    assert key.verifier.verify(BODY, blob)
    assert not key.verifier.verify(BODY, (1_700_000_001).to_bytes(8, "big") + blob[8:])
    late = note.split_note(BODY + b"\n" + key.line(BODY, note.MAX_SECONDS))[1][0][2]
    assert key.verifier.verify(BODY, late)
    assert not key.verifier.verify(BODY, (2**63).to_bytes(8, "big") + late[8:])


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
    for key in SIGNER.verifiers:
        assert note.parse_vkey(key.encode()) == key
    vkey = SIGNER.verifier.encode()
    for at in range(len(vkey)):
        for changed in (vkey[:at] + vkey[at + 1 :], vkey[:at] + "x" + vkey[at + 1 :]):
            if changed != vkey:
                assert code(note.parse_vkey, changed) == "trust.bad-note"


def test_a_key_that_is_no_point_verifies_nothing():
    for public in (b"\xff" * 32, b"\x02" + bytes(31)):
        for kind in (note.ED25519, note.COSIGNATURE):
            verifier = note.Verifier("x", note.key_id("x", public, kind), public, kind)
            assert not verifier.verify(BODY, bytes(64))
            assert not verifier.verify(BODY, bytes(72))


def test_vkeys_of_other_kinds_and_sizes_are_refused():
    for kind, size in ((1, 31), (1, 1312), (2, 32), (4, 33), (5, 32), (6, 32), (6, 1311), (255, 32)):
        assert (
            code(note.parse_vkey, note.Verifier("x", note.key_id("x", bytes(size), kind), bytes(size), kind).encode()) == "trust.bad-note"
        )
    assert code(note.parse_vkey, "x+00000000+") == "trust.bad-note"


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u00a0b", "ü", "a" * 201, "a\x7f"])
def test_names_that_could_not_be_read_back_are_refused(name):
    assert code(note.Signer.generate, name) == "trust.bad-note"


def test_key_files_read_back_and_show_nothing():
    assert note.Signer.from_pem(SIGNER.pem()).verifiers == SIGNER.verifiers
    assert repr(SIGNER) == f"Signer({SIGNER.verifier.name})"
    pem = SIGNER.pem()
    head, one, two = re.fullmatch(rb"(#.*\n)(-----B[^#]*D PRIVATE KEY-----\n)(-----B[^#]*\n)", pem, re.DOTALL).groups()
    assert head + one + two == pem
    swapped = (head + one, head + two, head + two + one, pem + two, head + one + KEY.pem(), head + one + b"\n" + two)
    for bad in (
        b"",
        one + two,
        pem[:-40],
        head + KEY.pem(),
        pem.replace(b"stele", b"other", 1),
        b"# stele ledger keys: a b\n" + one + two,
        *swapped,
    ):
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
