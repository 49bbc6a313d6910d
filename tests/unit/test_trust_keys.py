"""The trust file: what a verifier brings reads in one spelling only."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from stele.trust import note, trust_keys
from stele.trust.errors import SteleError
from tests.ledgers import OTHER, SIGNER, TRUST

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
DATA = trust_keys.encode(TRUST)


def code(data: bytes) -> str:
    with pytest.raises(SteleError) as raised:
        trust_keys.parse(data)
    return raised.value.code


def test_it_reads_back():
    found = trust_keys.parse(DATA)
    assert found.ledgers == TRUST.ledgers
    assert [key.der for key in found.releases] == [key.der for key in TRUST.releases]
    assert trust_keys.encode(found) == DATA


def test_several_ledgers_may_be_trusted():
    assert trust_keys.parse(trust_keys.encode(trust_keys.Trust(SIGNER.verifiers + OTHER.verifiers, ()))).ledgers[2:] == OTHER.verifiers


def test_without_a_ledger_key_it_is_worth_nothing():
    assert code(trust_keys.encode(trust_keys.Trust(SIGNER.verifiers[1:], TRUST.releases))) == "prove.no-keys"
    assert code(trust_keys.encode(trust_keys.Trust((), TRUST.releases))) == "prove.no-keys"


def test_other_spellings_are_refused():
    lines = DATA.decode().splitlines(keepends=True)
    for data in (
        b"",
        b"\n" + DATA,
        DATA[:-1],
        DATA + b"\n",
        DATA + lines[1].encode(),  # twice
        DATA.replace(b"\n", b"\r\n"),
        DATA.replace(b"ledger ", b"ledger  "),
        DATA.replace(b"v1", b"v0"),
        DATA + b"root x\n",
        DATA + f"ledger {note.Key('w.example', KEY, cosigner=True).verifier.encode()}\n".encode(),
        DATA + "release é\n".encode(),
        DATA.replace(b"ledger", b"Ledger"),
        b"stele-trust v1\n" * 2,
        b"x" * (1 << 21),
    ):
        assert code(data) in {"trust.bad-trust-file", "trust.bad-note", "trust.bad-key"}


def test_every_flip_is_refused():
    for at in range(0, len(DATA), 3):
        changed = DATA[:at] + bytes([DATA[at] ^ 1]) + DATA[at + 1 :]
        try:
            found = trust_keys.parse(changed)
        except SteleError:
            continue
        # a flip inside a release key may make another key, never the same
        assert found.releases[0].der != TRUST.releases[0].der
        assert trust_keys.encode(found) == changed


@given(st.binary(max_size=200))
def test_anything_else_is_refused(data):
    assert code(data).startswith(("trust.", "prove."))
