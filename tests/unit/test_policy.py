"""The trust policy: one spelling, signers counted and not keys, and indexes that an attacker cannot choose."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from stele.prove import releases
from stele.prove.shape import Signed
from stele.trust import cosign, dsse, policy
from stele.trust.errors import SteleError
from stele.trust.policy import Accepted, Policy, Refused, Rule, decide, key_id, parse
from stele.trust.release_key import PrivateKey, PublicKey
from tests.ledgers import KEY, sealed

ORIGIN = "test.example/ledger"
A1, A2, B, C, STRANGER = (PrivateKey(ec.derive_private_key(number, ec.SECP256R1())).public for number in range(2, 7))


def line(signer: str, public, start: int = 0, end: str = "-") -> str:
    return f"key {signer} {start} {end} {base64.b64encode(public.der).decode()}"


def made(*lines: str) -> Policy:
    return parse("\n".join([policy.HEADER, *lines, ""]).encode())


KEYS = (line("alice", A1, 0, "100"), line("alice", A2, 100), line("bob", B), line("carol", C))
FULL = made(
    f"ledger {ORIGIN}", "# a comment  with spaces", "", *KEYS, f"revoke {key_id(C)} 50 the laptop was stolen",
    "rule shop 2 alice bob carol", "rule web-*-x* 1 bob", "rule open 1 alice",
)  # fmt: skip


def asked(workload: str, *keys, recorded: dict | None = None, size: int = 200, of: Policy = FULL) -> Accepted | Refused:
    return decide(of, workload, [key_id(key) for key in keys], {key_id(key): at for key, at in (recorded or {}).items()}, size)


def code(found: Accepted | Refused) -> str:
    assert isinstance(found, Refused)
    assert found.reason
    assert found.remedy
    return found.code


def test_enough_signers_are_accepted_and_named() -> None:
    found = asked("shop", A2, B)
    assert isinstance(found, Accepted)
    assert found.signers == ("alice", "bob")
    assert set(found.keys) == {key_id(A2), key_id(B)}
    assert found.rule.threshold == 2


def test_too_few_are_refused() -> None:
    for keys in ((), (A2,), (B,), (STRANGER,), (B, STRANGER)):
        assert code(asked("shop", *keys)) == "trust.too-few-signers"


def test_two_keys_of_one_signer_count_once() -> None:
    assert code(asked("shop", A1, A2, recorded={A1: 5})) == "trust.too-few-signers"
    assert isinstance(asked("shop", A1, A2, B, recorded={A1: 5}), Accepted)


def test_a_workload_without_a_rule_is_refused() -> None:
    assert code(asked("other", A2, B, C)) == "trust.no-rule"


def test_signers_whom_the_rule_does_not_name_do_not_count() -> None:
    assert code(asked("web-1-x", A2)) == "trust.signer-not-allowed"
    assert isinstance(asked("web-1-x9", A2, B), Accepted)


def test_a_retired_key_counts_only_where_it_was_recorded_before() -> None:
    assert isinstance(asked("open", A1, recorded={A1: 99}), Accepted)
    assert code(asked("open", A1, recorded={A1: 100})) == "trust.key-not-valid"
    assert code(asked("open", A1)) == "trust.key-not-valid"


def test_a_new_key_does_not_count_before_it_is_valid() -> None:
    assert code(asked("open", A2, recorded={A2: 99})) == "trust.key-not-valid"
    assert isinstance(asked("open", A2, recorded={A2: 100}), Accepted)
    assert code(asked("open", A2, size=99)) == "trust.key-not-valid"


def test_what_was_recorded_before_a_revocation_counts_and_nothing_later() -> None:
    assert isinstance(asked("shop", B, C, recorded={C: 49}), Accepted)
    assert code(asked("shop", B, C, recorded={C: 50})) == "trust.key-revoked"
    assert code(asked("shop", B, C)) == "trust.key-revoked"


def test_a_signature_added_to_an_old_release_with_a_stolen_key_is_not_as_old_as_the_release() -> None:
    # the release is from index 10, by bob alone; whoever stole carol's key adds their signature today
    assert code(asked("shop", B, C, recorded={B: 10})) == "trust.key-revoked"


def test_revoked_from_the_beginning_never_counts() -> None:
    never = policy.revoked(FULL, FULL.keys[3], 0, "it was never carol's", ORIGIN)
    assert code(asked("shop", B, C, recorded={C: 0}, of=never)) == "trust.key-revoked"


def test_a_revocation_is_never_weakened() -> None:
    later = policy.revoked(FULL, FULL.keys[3], 60, "later", ORIGIN)
    assert later == FULL
    earlier = policy.revoked(FULL, FULL.keys[3], 20, "earlier", ORIGIN)
    assert earlier.revoked[key_id(C)] == policy.Revocation(20, "earlier")
    assert len(earlier.lines) == len(FULL.lines)


def test_rotation_keeps_the_signer_the_rules_and_the_comments() -> None:
    turned = policy.rotated(FULL, FULL.keys[2], STRANGER, 150, ORIGIN)
    assert turned.rules == FULL.rules
    assert "# a comment  with spaces" in turned.lines
    assert isinstance(asked("web-1-x", B, recorded={B: 149}, of=turned), Accepted)
    assert code(asked("web-1-x", B, of=turned)) == "trust.key-not-valid"
    assert isinstance(asked("web-1-x", STRANGER, of=turned), Accepted)
    assert parse(turned.encode()).lines == turned.lines


def test_the_default_is_one_signature_by_the_own_key() -> None:
    own = policy.default(B)
    assert own.timeless
    assert isinstance(asked("anything-0", B, of=own), Accepted)
    assert code(asked("anything-0", A1, of=own)) == "trust.too-few-signers"
    first = policy.rotated(own, own.keys[0], A1, 7, ORIGIN)
    assert not first.timeless
    assert first.ledger == ORIGIN


@pytest.mark.parametrize(
    "lines",
    [
        ["rule * 1 nobody"], ["rule * 0 alice", *KEYS], ["rule * 5 alice bob", *KEYS], ["rule * 1 alice alice", *KEYS],
        ["rule Shop 1 alice", *KEYS], ["rule  * 1 alice", *KEYS], ["rule * 01 alice", *KEYS], ["rule * 1", *KEYS],
        [line("alice", A1), line("bob", A1)], [line("alice", A1, 5)], [line("Alice", A1)], [line("-a", A1)], [line("a" * 41, A1)],
        ["ledger x", line("alice", A1, 5, "5")], ["ledger x", line("alice", A1, 5, "4")], ["ledger x", "ledger y"], ["ledger x y"],
        [f"revoke {key_id(A1)} 0 gone"], [line("bob", B), f"revoke {key_id(B)} 0"], [line("bob", B), f"revoke {key_id(B)} 7 no ledger"],
        [line("bob", B), f"revoke {key_id(B)} 0 x", f"revoke {key_id(B)} 0 y"], [line("bob", B), f"revoke {key_id(B).upper()} 0 x"],
        [line("bob", B), f"revoke {key_id(B)} 0 " + "x" * 201], [line("bob", B, 1 << 63), "ledger x"], [line("bob", B)[:-2]],
        [line("bob", B) + " "], ["key bob 0 - AAAA"], ["unknown"], [" # indented"], ["\ttab"], ["#\x7f"], ["# \r"],
    ],
)  # fmt: skip
def test_other_spellings_are_refused(lines: list[str]) -> None:
    with pytest.raises(SteleError) as raised:
        made(*lines)
    assert raised.value.code == "trust.bad-policy"


def test_bytes_that_are_no_policy_are_refused() -> None:
    whole = FULL.encode()
    for data in (b"", b"\n", whole[:-1], b"\n" + whole, whole.replace(b"v0", b"v1"), whole.replace(b"\n", b"\r\n"), whole + b"\xff\n",
                 b"stele-policy v0\n#" + b"x" * (1 << 20) + b"\n"):  # fmt: skip
        with pytest.raises(SteleError) as raised:
            parse(data)
        assert raised.value.code == "trust.bad-policy"


@given(
    st.binary(max_size=300) | st.text(alphabet="key rulvo*0129-ab\n#", max_size=200).map(lambda text: f"{policy.HEADER}\n{text}\n".encode())
)
def test_anything_else_is_refused_or_reads_back(data: bytes) -> None:
    try:
        found = parse(data)
    except SteleError as error:
        assert error.code == "trust.bad-policy"
    else:
        assert found.encode() == data


@given(st.integers(0, len(FULL.encode()) - 1), st.integers(1, 255))
def test_every_changed_byte_is_refused_or_read_as_what_it_says(at: int, flip: int) -> None:
    data = bytearray(FULL.encode())
    data[at] ^= flip
    try:
        found = parse(bytes(data))
    except SteleError as error:
        assert error.code == "trust.bad-policy"
    else:
        assert found.encode() == bytes(data)


@given(st.text(alphabet="ab*", min_size=1, max_size=12), st.text(alphabet="ab", max_size=12))
def test_patterns_match_like_the_shell(pattern: str, name: str) -> None:
    expression = "".join(".*" if char == "*" else char for char in pattern)
    assert Rule(pattern, 1, ()).matches(name) == bool(re.fullmatch(expression, name))


INDEX = st.integers(0, 9)


@given(st.data())
def test_the_decision_is_the_one_of_the_spec(data: st.DataObject) -> None:
    """Against a second way of saying it: from the rule's signers to their keys, instead of from the signatures."""
    publics = (A1, A2, B, C)
    signers = [data.draw(st.sampled_from(["a", "b", "c"])) for _ in publics]
    spans = [(start, data.draw(st.none() | st.integers(start + 1, 10))) for start in (data.draw(INDEX) for _ in publics)]
    revoked = {key: data.draw(INDEX) for key in publics if data.draw(st.booleans())}
    named = sorted(set(signers))
    rule = data.draw(st.lists(st.sampled_from(named), min_size=1, unique=True))
    threshold = data.draw(st.integers(1, len(rule)))
    lines = [line(signer, key, span[0], str(span[1] or "-")) for signer, key, span in zip(signers, publics, spans, strict=True)]
    lines += [f"revoke {key_id(key)} {at} because" for key, at in revoked.items()]
    signed = [key for key in publics if data.draw(st.booleans())]
    recorded = {key: data.draw(INDEX) for key in signed if data.draw(st.booleans())}
    size = data.draw(INDEX)
    found = asked("x", *signed, recorded=recorded, size=size, of=made("ledger o", *lines, f"rule x {threshold} {' '.join(rule)}"))
    counted = {
        who
        for who in rule
        for key, signer, (start, end) in zip(publics, signers, spans, strict=True)
        if signer == who and key in signed
        for at in [recorded.get(key, size)]
        if start <= at and (end is None or at < end) and at < revoked.get(key, 1 << 62)
    }
    assert isinstance(found, Accepted) == (len(counted) >= threshold)
    if isinstance(found, Accepted):
        assert set(found.signers) == counted


def test_the_example_of_the_spec() -> None:
    text = (Path(__file__).parents[2] / "docs" / "spec" / "trust-policy.md").read_text()
    block = re.search(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block
    found = parse(block[1].encode())
    assert found.revoked[found.keys[0].id] == policy.Revocation(1100, "stolen")
    assert [rule.threshold for rule in found.rules] == [2, 1]


# ---- one signature, two keys

P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
B_CURVE = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)


def plus(one, two):
    if one is None or two is None:
        return one or two
    if one[0] == two[0] and (one[1] + two[1]) % P == 0:
        return None
    slope = (3 * one[0] ** 2 - 3) * pow(2 * one[1], -1, P) if one == two else (two[1] - one[1]) * pow(two[0] - one[0], -1, P)
    x = (slope**2 - one[0] - two[0]) % P
    return x, (slope * (one[0] - x) - one[1]) % P


def times(number, point):
    total = None
    while number:
        total, point, number = plus(total, point) if number & 1 else total, plus(point, point), number >> 1
    return total


def both_keys(message: bytes, signature: bytes) -> list[PublicKey]:
    """The two keys that an ECDSA signature holds with: the signer's, and one whose private half nobody knows."""
    r, s = decode_dss_signature(signature)
    e = int.from_bytes(hashlib.sha256(message).digest(), "big")
    y = pow(r**3 - 3 * r + B_CURVE, (P + 1) // 4, P)
    found = []
    for point in ((r, y), (r, P - y)):
        x, y2 = times(pow(r, -1, N), plus(times(s, point), times(N - e % N, G)))
        found.append(PublicKey(ec.EllipticCurvePublicNumbers(x, y2, ec.SECP256R1()).public_key()))
    return found


def test_a_signature_counts_for_one_key_also_where_it_holds_with_two():
    digest, shown = sealed()
    twins = both_keys(dsse.pae(cosign.PAYLOAD_TYPE, shown.payload), shown.signatures[0])
    assert KEY.public in twins
    assert len(set(twins)) == 2
    assert all(key.verify(dsse.pae(cosign.PAYLOAD_TYPE, shown.payload), shown.signatures[0]) for key in twins)
    r, s = decode_dss_signature(shown.signatures[0])
    mirrored = encode_dss_signature(r, N - s)
    assert all(key.verify(dsse.pae(cosign.PAYLOAD_TYPE, shown.payload), mirrored) for key in twins)
    one, two = (base64.b64encode(signature).decode() for signature in (shown.signatures[0], mirrored))
    for signatures in ([one], [one, one], [one, two], [two, one]):
        found = Signed(manifest="", config="", statement=shown.payload.decode(), signatures=signatures)
        releases.check([found], [digest], "shop", releases.Judge(twins, bool), light=True)
        with pytest.raises(SteleError):
            releases.check([found], [digest], "shop", releases.Judge(twins, lambda held: len(held) >= 2), light=True)
