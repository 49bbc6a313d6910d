"""Who else puts a name and a time to the heads of a proof."""

from __future__ import annotations

import base64
import datetime as dt
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from stele.trust import canonical, note, trust_keys
from tests.ledgers import SECOND, SIGNER, TRUST
from tests.proofs import check, of, other_says, resum, t
from tests.refusals import code

WITNESSES = [
    note.Key("witness.example/w1", Ed25519PrivateKey.from_private_bytes(bytes(range(2, 34))), cosigner=True),
    note.Key("witness.example/w2", MLDSA44PrivateKey.from_seed_bytes(bytes(range(3, 35)))),
]
WATCHED = trust_keys.parse(
    trust_keys.encode(TRUST)
    + b"".join(f"witness w{number} {key.verifier.encode()}\n".encode() for number, key in enumerate(WITNESSES))
    + b"group both 2 w0 w1\nquorum both\n"
)


def cosigned(value: dict[str, Any], *seconds: int) -> bytes:
    """The proof with cosignatures of both witnesses on its heads, made at these times."""
    heads = []
    for head, at in zip(value["heads"], seconds, strict=True):
        body = (head["checkpoint"].partition("\n\n")[0] + "\n").encode()
        heads.append({**head, "checkpoint": head["checkpoint"] + "".join(key.line(body, at).decode() for key in WITNESSES)})
    return resum({**value, "heads": heads})


def test_whose_word_the_time_is(kinds):
    value = of(kinds, "state light")
    second = t(8.5) // SECOND
    verdict = check(cosigned(value, second - 2, second + 2), WATCHED)
    assert [(each["who"], each["name"], each["holds"]) for each in verdict.times] == [
        ("operator", SIGNER.name, True),
        ("witness", "witness.example/w1", True),
        ("witness", "witness.example/w2", True),
    ]
    assert "witness witness.example/w1 saw the two heads around it" in verdict.time[1]
    assert not any("operator's word" in line for line in verdict.not_checked)
    assert not any("quorum" in line or "another ledger" in line for line in verdict.not_checked)
    late = check(cosigned(value, second + 5, second + 9), WATCHED)
    assert [each["holds"] for each in late.times] == [True, False, False]
    assert any("no younger than a witness saw them, it is the operator's word" in line for line in late.not_checked)
    assert "it is no younger" in late.time[1]
    assert other_says(cosigned(value, 1, second), WATCHED)["seen"] == [
        dict.fromkeys(("witness.example/w1", "witness.example/w2"), 1),
        dict.fromkeys(("witness.example/w1", "witness.example/w2"), second),
    ]
    # to who does not know the witnesses their lines mean nothing; a line of a known one that is false refuses the whole
    assert check(cosigned(value, 1, 2)).answer == verdict.answer
    swapped = canonical.decode(cosigned(value, 1, 2)[:-1])
    lines = [head["checkpoint"].rpartition("\u2014") for head in swapped["heads"]]
    swapped["heads"][0]["checkpoint"] = lines[0][0] + "\u2014" + lines[1][2]
    assert code(check, resum(swapped), WATCHED) == "trust.bad-signature"
    assert check(resum(swapped)).answer == verdict.answer
    twice = value["heads"][0]["checkpoint"] + canonical.decode(cosigned(value, 1, 2)[:-1])["heads"][0]["checkpoint"].partition("\n\n")[2]
    assert (
        code(check, resum({**value, "heads": [{**value["heads"][0], "checkpoint": twice}, value["heads"][1]]}), WATCHED) == "trust.bad-note"
    )


def test_one_witness_of_two_is_no_quorum(kinds):
    second = t(8.5) // SECOND
    both = canonical.decode(cosigned(of(kinds, "state light"), second - 2, second + 2)[:-1])
    note_, _, _ = both["heads"][1]["checkpoint"].rpartition("\u2014")
    verdict = check(resum({**both, "heads": [both["heads"][0], {**both["heads"][1], "checkpoint": note_}]}), WATCHED)
    assert any(each["who"] == "witness" and each["holds"] for each in verdict.times)
    assert any("lacks the quorum" in line for line in verdict.not_checked)
    assert any("another ledger" in line for line in verdict.not_checked)


def test_timestamps_decide_nothing(kinds):
    value = of(kinds, "newest light")
    for tokens in (["AAAA"], ["not base64"], ["MAMCAQA="] * 3):
        verdict = check(resum({**value, "heads": [{**value["heads"][0], "timestamps": tokens}]}))
        assert [each["holds"] for each in verdict.times] == [True] + [False] * len(tokens)
        assert any("the time: without a witness" in line for line in verdict.not_checked)
    value["heads"][0]["timestamps"] = ["AAAA"] * 5  # who has no key could bring any number: each costs, and makes a line
    assert code(check, resum(value)) == "prove.invalid"


def test_a_later_checkpoint_in_place_of_a_heads_own_says_nothing_of_then(kinds):
    """What a witness saw at last is no word on how little there was before the instant; the proof holds, by the operator's clock."""
    second = t(8.5) // SECOND
    value = canonical.decode(cosigned(of(kinds, "state light"), second - 2, second)[:-1])
    assert [each["holds"] for each in check(resum(value), WATCHED).times] == [True, True, True]
    value["heads"][0]["checkpoint"] = value["heads"][1]["checkpoint"]
    verdict = check(resum(value), WATCHED)
    assert [each["holds"] for each in verdict.times] == [True, False, False]
    assert not any("saw the two heads around it" in line for line in verdict.time)


def test_a_witness_may_say_any_time(kinds):
    value = of(kinds, "newest light")
    verdict = check(cosigned(value, (1 << 63) - 1), WATCHED)
    assert verdict.time[1].endswith(f"saw the head after it at {((1 << 63) - 1) * SECOND} ns: it is no younger")


def test_no_timestamp_makes_a_line_of_the_verdict(kinds, tsa_certificate):
    """Who has no key can bring a refusal of an authority, in words of his own."""
    said = b"x\nchecked:\n  + all"
    words = b"\x30" + bytes([len(said) + 2]) + b"\x0c" + bytes([len(said)]) + said
    status = b"\x02\x01\x02" + words
    token = b"\x30" + bytes([len(status) + 2]) + b"\x30" + bytes([len(status)]) + status
    value = of(kinds, "newest light")
    value["heads"][0]["timestamps"] = [base64.b64encode(token).decode()]
    verdict = check(resum(value), TRUST._replace(authorities=(tsa_certificate,)))
    assert "checked:" in verdict.time[1]
    assert verdict.time[1].isprintable()


@pytest.fixture
def tsa_certificate() -> bytes:
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tsa")])
    begin = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(begin).not_valid_after(begin + dt.timedelta(days=9999))
    return made.sign(key, None).public_bytes(Encoding.DER)
