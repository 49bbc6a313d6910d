"""Witness policies as C2SP tlog-policy has them: what reads, what is refused, and when a quorum is there."""

from __future__ import annotations

import itertools

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from stele.trust import note, quorum, trust_keys
from stele.trust.errors import SteleError
from tests.ledgers import TRUST


def key(number: int, name: str = "") -> note.Verifier:
    private = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    return note.Key(name or f"witness.example/{number}", private, cosigner=True).verifier


X, Y = [key(number) for number in (1, 2, 3)], [key(number) for number in (4, 5, 6)]
LOG = note.Key("log.example/one", Ed25519PrivateKey.from_private_bytes(bytes(32))).verifier
# the example of the specification
TEXT = f"""log {LOG.encode()}

witness X1 {X[0].encode()}
witness X2 {X[1].encode()}
witness X3 {X[2].encode()}
group X-witnesses 2 X1 X2 X3

witness Y1 {Y[0].encode()}
witness Y2 {Y[1].encode()}
witness Y3 {Y[2].encode()}
group Y-witnesses any Y1 Y2 Y3

group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
"""


def code(text: str | bytes) -> str:
    with pytest.raises(SteleError) as raised:
        quorum.parse(text if isinstance(text, bytes) else text.encode())
    return raised.value.code


def test_the_example_of_the_specification():
    policy = quorum.parse(TEXT.encode())
    for chosen in itertools.chain.from_iterable(itertools.combinations([*X, *Y], count) for count in range(7)):
        wanted = len(set(chosen) & set(X)) >= 2 and bool(set(chosen) & set(Y))
        assert policy.met(chosen) == wanted
    assert quorum.missing(policy, X) == "Y1, Y2, Y3"


def test_the_quorum_of_nobody_and_of_one():
    assert quorum.parse(b"quorum none\n").met([])
    one = quorum.parse(f"witness a {X[0].encode()} https://w.example/\nquorum a\n".encode())
    assert one.witnesses[0].url == "https://w.example/"
    assert not one.met([])
    assert not one.met([X[1]])
    assert one.met([X[0]])


def test_blanks_tabs_and_comments_mean_nothing():
    spaced = "".join(f"\t {line.replace(' ', '  	 ')} \n" for line in TEXT.split("\n") if line) + "  # group\n#\n\n"
    assert quorum.parse(spaced.encode()) == quorum.parse(TEXT.encode())
    # a number sign within a line is none
    assert quorum.parse(f"witness a#b {X[0].encode()} http://w/#x\nquorum a#b\n".encode()).witnesses[0].name == "a#b"


def test_names_are_octets():
    kelvin, latin = "\u212a".encode(), b"\xe9"
    text = b"".join(b"witness %s %s\n" % (name, each.encode().encode()) for name, each in zip((b"K", kelvin, latin), X, strict=True))
    policy = quorum.parse(text + b"group g 2 K " + kelvin + b" " + latin + b"\nquorum g\n")
    assert policy.met(X[1:])
    assert not policy.met(X[:1])


@pytest.mark.parametrize(
    "text",
    [
        "", "quorum\n", "quorum none", "quorum a\n", "quorum none\nquorum none\n", "quorum none\r\n", "quorum none\n\x00\n",
        "quorum none\n\x7f\n",
        f"witness a {X[0].encode()}\n",
        f"witness none {X[0].encode()}\nquorum none\n",
        f"witness a {X[0].encode()}\nwitness a {X[1].encode()}\nquorum a\n",
        f"witness a {X[0].encode()}\nwitness b {key(1, 'another.name').encode()}\nquorum a\n",
        f"witness a {X[0].encode()} http://w extra\nquorum a\n",
        f"witness a {LOG.encode()}\nquorum a\n",
        f"log {X[0].encode()}\nquorum none\n",
        f"log {LOG.encode()}\nlog {LOG.encode()}\nquorum none\n",
        f"quorum a\nwitness a {X[0].encode()}\n",
        f"group g any a\nwitness a {X[0].encode()}\nquorum g\n",
        f"witness a {X[0].encode()}\ngroup g any a a\nquorum g\n",
        f"witness a {X[0].encode()}\ngroup g any a\ngroup h any a\nquorum g\n",
        f"witness a {X[0].encode()}\ngroup g any none\nquorum g\n",
        f"witness a {X[0].encode()}\ngroup g any\nquorum g\n",
        *(f"witness a {X[0].encode()}\ngroup g {count} a\nquorum g\n" for count in ("0", "2", "01", "+1", "-1", "1_0", "\u0661", "Any")),
        "witnesses a b\nquorum none\n",
    ],
)  # fmt: skip
def test_what_is_no_policy(text):
    assert code(text) == "witness.bad-policy"


def test_a_key_that_is_none():
    assert code("witness a b\nquorum a\n") == "trust.bad-note"


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(data):
    try:
        quorum.parse(data)
    except SteleError as error:
        assert error.code in {"witness.bad-policy", "trust.bad-note"}


@given(
    st.lists(
        st.sampled_from(["witness", "group", "quorum", "log", "a", "b", "any", "all", "2", "none", X[0].encode(), "\n", "\n"]), max_size=20
    )
)
def test_no_words_break_the_parser(words):
    try:
        policy = quorum.parse((" ".join(words) + "\n").encode())
    except SteleError as error:
        assert error.code in {"witness.bad-policy", "trust.bad-note"}
    else:
        assert policy.met(X)  # X[0] is the only key that there can be


def test_a_trust_file_holds_both_kinds_of_keys():
    pq = note.Key("witness.example/1", MLDSA44PrivateKey.from_seed_bytes(bytes(32))).verifier
    text = f"witness a {X[0].encode()}\nwitness b {pq.encode()}\ngroup w all a b\nquorum w\n"
    trust = TRUST._replace(policy=quorum.parse(text.encode()))
    assert trust_keys.parse(trust_keys.encode(trust)) == trust


def test_in_a_trust_file_a_policy_has_one_spelling():
    policy = quorum.parse(TEXT.encode())._replace(logs=())
    trust = TRUST._replace(policy=policy)
    data = trust_keys.encode(trust)
    assert trust_keys.parse(data).policy == policy
    assert trust_keys.parse(data).witnesses == (*X, *Y)
    for old, new in (
        (b"group Y-witnesses 1", b"group Y-witnesses any"), (b"group Y-witnesses 1", b"group Y-witnesses  1"),
        (b"quorum X-and-Y\n", b""),
        (b"quorum X-and-Y\n", b"quorum X-and-Y\nquorum X1\n"), (b"witness X1 ", b"witness X1\t"),
        (b"quorum X-and-Y\n", b"quorum X-and-Y \n"),
    ):  # fmt: skip
        assert old in data
        with pytest.raises(SteleError) as raised:
            trust_keys.parse(data.replace(old, new))
        assert raised.value.code in {"trust.bad-trust-file", "witness.bad-policy", "trust.bad-note"}
    with pytest.raises(SteleError):
        trust_keys.parse(trust_keys.encode(TRUST) + b"quorum none\n")
