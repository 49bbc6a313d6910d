"""The root of trust: who may change it, in which order, and whose checkpoints it vouches for. Tests are named by attack."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from stele.trust import merkle, policy
from stele.trust import root as roots
from stele.trust.errors import SteleError
from stele.trust.note import Checkpoint, Key
from stele.trust.root import LogKey, Pin, Root, Stolen
from tests.ledgers import KEY, OTHER, SIGNER

ORIGIN = SIGNER.verifier.name


def holder(name: str, seed: int) -> Key:
    return Key(name, Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32))


ALICE, BOB, CAROL, DAVE, ERIN = (holder(name, seed) for seed, name in enumerate(("alice", "bob", "carol", "dave", "erin"), 1))
OLD, NEW = SIGNER.verifiers, OTHER.verifiers
RELEASE = f"key release 0 - {base64.b64encode(KEY.public.der).decode()}"
KEY_ID = policy.key_id(KEY.public)


def text(version=1, threshold=2, holders=(ALICE, BOB, CAROL), logs=None, stolen=(), lines=(RELEASE, "rule * 1 release"), origin=ORIGIN):
    logs = [LogKey(0, None, key) for key in OLD] if logs is None else logs
    return roots.encode(origin, version, threshold, [key.verifier for key in holders], logs, stolen, lines)


def signed(body: bytes, *keys: Key) -> bytes:
    return body + b"\n" + b"".join(key.line(body) for key in keys)


V1 = signed(text(), ALICE, BOB)
ROOT1 = roots.parse(V1)


def code(call, *args, **more) -> str:
    try:
        call(*args, **more)
    except SteleError as error:
        assert error.remedy
        return error.code
    return ""


# ---- the first


def test_the_pinned_document_is_believed_and_no_other():
    assert roots.first(V1, ROOT1.pin) == ROOT1
    assert roots.from_pin([V1], ROOT1.pin) == ROOT1
    for other in (signed(text(threshold=1), ALICE, BOB), signed(text(holders=(ALICE, BOB, DAVE)), ALICE, BOB)):
        assert code(roots.first, other, ROOT1.pin) == "trust.root-order"
    assert code(roots.from_pin, [V1], Pin(ORIGIN, 2, ROOT1.pin.digest)) == "trust.root-order"
    assert code(roots.from_pin, [], ROOT1.pin) == "trust.root-order"


@pytest.mark.parametrize("keys", [(), (ALICE,), (ALICE, DAVE), (DAVE, ERIN)])
def test_too_few_holders_are_refused(keys):
    document = signed(text(), *keys) if keys else text()
    assert code(roots.first, document, ROOT1.pin) == "trust.root-unsigned"


def test_a_signature_counts_once_and_a_second_one_is_refused():
    assert code(roots.first, signed(text(), ALICE, ALICE), ROOT1.pin) == "trust.bad-root"
    line = ALICE.line(text())
    assert code(roots.first, text() + b"\n" + line + line, ROOT1.pin) == "trust.bad-root"


def test_a_key_under_two_names_is_no_second_holder():
    twin = Key("twin", ALICE._private)
    assert code(text, holders=(ALICE, twin)) == "trust.bad-root"
    # across documents: alice, renamed, is one signature for the threshold of each
    renamed = text(2, holders=(twin, BOB, CAROL))
    assert code(roots.follow, signed(renamed, ALICE, twin), ROOT1) == "trust.root-unsigned"
    assert code(roots.follow, signed(renamed, ALICE, twin, BOB), ROOT1) == ""


def test_a_false_signature_by_a_holder_spoils_a_document_that_would_have_enough():
    other = ALICE.line(text(version=9))
    document = signed(text(), BOB, CAROL) + other
    assert code(roots.first, document, ROOT1.pin) == "trust.bad-root"
    assert code(roots.first, signed(text(), BOB, CAROL, ERIN), ROOT1.pin) == ""  # strangers' lines mean nothing


# ---- the next one (TUF 5.3)


def test_old_and_new_thresholds_must_sign():
    body = text(2, holders=(CAROL, DAVE, ERIN))
    assert code(roots.follow, signed(body, ALICE, BOB), ROOT1) == "trust.root-unsigned"
    assert code(roots.follow, signed(body, DAVE, ERIN), ROOT1) == "trust.root-unsigned"
    assert code(roots.follow, signed(body, CAROL, DAVE), ROOT1) == "trust.root-unsigned"
    assert code(roots.follow, signed(body, BOB, CAROL, DAVE), ROOT1) == ""  # carol counts for both


def test_a_lowered_threshold_counts_only_for_the_new_side():
    body = text(2, threshold=1)
    assert code(roots.follow, signed(body, ALICE), ROOT1) == "trust.root-unsigned"
    root2 = roots.follow(signed(body, ALICE, BOB), ROOT1)
    assert code(roots.follow, signed(text(3, threshold=1), ALICE), root2) == ""


@pytest.mark.parametrize("version", [1, 3, 1000])
def test_versions_are_neither_skipped_nor_repeated(version):
    assert code(roots.follow, signed(text(version), ALICE, BOB), ROOT1) == "trust.root-order"


def test_a_document_of_another_ledger_is_refused():
    body = roots.encode("other.example/log", 2, 1, [ALICE.verifier], [])
    assert code(roots.follow, signed(body, ALICE, BOB), ROOT1) == "trust.root-order"


def chain() -> list[bytes]:
    two = signed(text(2, holders=(ALICE, BOB, DAVE)), ALICE, BOB)
    three = signed(text(3, holders=(ALICE, DAVE, ERIN)), ALICE, DAVE)
    return [V1, two, three]


def test_a_chain_leads_to_the_last_from_wherever_one_begins():
    documents = chain()
    last = roots.verify_chain(documents, ROOT1)
    assert last.version == 3
    middle = roots.parse(documents[1])
    assert roots.verify_chain(documents, middle) == roots.verify_chain(documents[2:], middle) == last
    assert roots.verify_chain(documents[:1], last) == last  # an old one is skipped: nobody goes back
    assert roots.from_pin(documents, middle.pin) == last


def test_missing_repeated_swapped_and_mixed_documents_are_refused():
    one, two, three = chain()
    rival = signed(text(2, threshold=1, holders=(ALICE, BOB, DAVE)), ALICE, BOB)
    for documents in ([one, three], [one, one, two], [two, one], [one, two, two], [one, two, rival]):
        found = code(roots.verify_chain, documents, ROOT1)
        assert found in {"trust.root-order", "trust.root-unsigned"}, documents
    assert code(roots.verify_chain, [one, rival], roots.parse(two)) == "trust.root-order"
    assert code(roots.verify_chain, [signed(text(threshold=3), ALICE, BOB)], ROOT1) == "trust.root-order"


def test_a_theft_and_a_revocation_are_not_taken_back():
    gone = Stolen(50, b"r" * 32, OLD[0])
    lines = (RELEASE, f"revoke {KEY_ID} 40 stolen", "rule * 1 release")
    logs = [LogKey(0, None, OLD[0]), LogKey(51, None, NEW[0])]
    present = roots.follow(signed(text(2, logs=logs, stolen=[gone], lines=lines), ALICE, BOB), ROOT1)

    def third(stolen, lines, logs=logs):
        return code(roots.follow, signed(text(3, logs=logs, stolen=stolen, lines=lines), ALICE, BOB), present)

    assert third([gone], lines) == ""
    assert third([msgspec.structs.replace(gone, size=49)], lines) == ""
    assert third([], lines) == "trust.bad-root"
    assert third([msgspec.structs.replace(gone, size=51)], lines) == "trust.bad-root"
    assert third([gone], (RELEASE, "rule * 1 release")) == "trust.bad-root"
    assert third([gone], (RELEASE, f"revoke {KEY_ID} 41 stolen", "rule * 1 release")) == "trust.bad-root"
    other = f"key release 0 - {base64.b64encode(type(KEY).generate().public.der).decode()}"
    assert third([], (other, "rule * 1 release"), logs[1:]) == ""  # keys that are not named count for nothing


# ---- checkpoints

TREE = [merkle.leaf_hash(bytes([number])) for number in range(64)]


def head(size: int, leaves=TREE) -> Checkpoint:
    return Checkpoint(ORIGIN, size, merkle.root(leaves[:size]))


def after_theft() -> Root:
    logs = [LogKey(10, None, key) for key in OLD] + [LogKey(41, 60, key) for key in NEW]
    stolen = [Stolen(40, head(40).root, key) for key in OLD]
    return roots.follow(signed(text(2, logs=logs, stolen=stolen), ALICE, BOB), ROOT1)


def test_keys_hold_from_and_until_by_size():
    logs = [LogKey(10, 20, OLD[0]), LogKey(20, None, NEW[0])]
    root = roots.parse(text(logs=logs))
    assert [root.ledger_keys(size) for size in (9, 10, 19, 20)] == [(), (OLD[0],), (OLD[0],), (NEW[0],)]
    for size, signer, expected in (
        (9, SIGNER, "trust.unknown-signer"), (10, SIGNER, ""), (20, SIGNER, "trust.unknown-signer"), (19, OTHER, "trust.unknown-signer"),
        (20, OTHER, ""),
    ):  # fmt: skip
        assert code(roots.open_head, signer.sign(head(size).body()), root) == expected


def test_both_kinds_of_key_must_sign():
    body = head(30).body()
    whole = SIGNER.sign(body)
    lines = whole[len(body) + 1 :].splitlines(keepends=True)
    assert code(roots.open_head, whole, ROOT1) == ""
    assert code(roots.open_head, body + b"\n" + lines[0], ROOT1) == "trust.missing-signature"


def test_a_thief_is_refused_beyond_the_good_head_and_with_a_fork_below_it():
    root = after_theft()
    forked = [merkle.leaf_hash(b"forged"), *TREE[1:]]
    assert roots.open_head(OTHER.sign(head(45).body()), root).checkpoint.size == 45
    assert roots.open_head(SIGNER.sign(head(40).body()), root).checkpoint.size == 40  # the good head itself
    for size, leaves in ((41, TREE), (50, TREE), (50, forked), (40, forked), (30, forked), (30, TREE)):
        thief = SIGNER.sign(head(size, leaves).body())
        assert code(roots.open_head, thief, root) == "trust.stolen-key", size

    def subtree(begin, end):
        return merkle.root(TREE[begin:end])

    shown = roots.beginning(merkle.consistency(30, 40, subtree))
    assert roots.open_head(SIGNER.sign(head(30).body()), root, shown=shown).checkpoint == head(30)
    assert code(roots.open_head, SIGNER.sign(head(30, forked).body()), root, shown=shown) == "trust.stolen-key"
    assert code(roots.open_head, SIGNER.sign(head(5).body()), root, shown=roots.beginning(merkle.consistency(5, 40, subtree))) != ""
    assert code(roots.open_head, OTHER.sign(head(60).body()), root) == "trust.unknown-signer"


def test_one_stolen_key_of_two_leaves_the_other_to_sign():
    logs = [LogKey(0, None, key) for key in OLD] + [LogKey(41, None, NEW[0])]
    root = roots.follow(signed(text(2, logs=logs, stolen=[Stolen(40, head(40).root, OLD[0])]), ALICE, BOB), ROOT1)
    assert code(roots.open_head, SIGNER.sign(head(40).body()), root) == ""
    assert code(roots.open_head, SIGNER.sign(head(45).body()), root) == "trust.stolen-key"


def test_a_document_is_logged_before_its_key_is_used():
    root = after_theft()
    assert roots.logged(root, ROOT1, 40) == ""
    assert "must be logged before" in roots.logged(root, ROOT1, 41)
    assert "larger than the log" in roots.logged(root, ROOT1, 39)
    assert roots.logged(ROOT1, None, 1000) == ""


# ---- one spelling


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0}, {"threshold": 4}, {"version": 0}, {"version": 10**9 + 1}, {"holders": ()}, {"holders": (ALICE, ALICE)},
        {"holders": (ALICE, Key("alice", BOB._private))}, {"holders": [holder(f"h{n}", n) for n in range(40, 73)]},
        {"holders": (ALICE, BOB, Key(ORIGIN, SIGNER._keys[0]._private))}, {"holders": (ALICE, BOB, SIGNER._keys[1])},
        {"holders": (ALICE, BOB, Key("w", CAROL._private, cosigner=True))},
        {"logs": [LogKey(0, None, ALICE.verifier)]}, {"logs": [LogKey(0, None, OLD[0]), LogKey(5, None, OLD[0])]},
        {"logs": [LogKey(5, 5, OLD[0])]}, {"logs": [LogKey(6, 5, OLD[0])]},
        {"logs": [LogKey(0, None, Key(ORIGIN, CAROL._private, cosigner=True).verifier)]},
        {"stolen": [Stolen(1, b"r" * 32, NEW[0])]}, {"stolen": [Stolen(1, b"r" * 31, OLD[0])]},
        {"stolen": [Stolen(1, b"r" * 32, OLD[0])] * 2},
        {"lines": ("rule * 1 nobody",)}, {"lines": (RELEASE, RELEASE)}, {"lines": ("key release 0 - AAAA",)}, {"origin": "a b"},
    ],
)  # fmt: skip
def test_what_cannot_be_a_root_is_refused(change):
    assert code(text, **change) == "trust.bad-root"


def test_other_spellings_are_refused():
    body = text()
    lines = body.decode().splitlines(keepends=True)
    spoiled = [
        b"", b"\n", body[:-1], body.replace(b"\n", b"\r\n"), body.replace(b"v0", b"v1"), b"\n" + body, body + b"# comment\n",
        body.replace(b"version 1", b"version 01"), body.replace(b"version 1", b"version  1"),
        body.replace(b"version 1", b"version \xd9\xa1"),
        body.replace(b"threshold 2", b"threshold +2"), body.replace(b"version 1\n", b"version 1\nversion 1\n"),
        "".join([lines[0], *lines[2:], lines[1]]).encode(), "".join([*lines[:5], *lines[6:], lines[5]]).encode(),
        body + b"x" * (33 << 10) + b"\n", body.replace(b"ledger ", b"ledger  "), body + b"\n", body + b"rule * 1 release extra!\n",
    ]  # fmt: skip
    for data in spoiled:
        assert code(roots.first, data, ROOT1.pin) != "", data[:80]
    assert code(roots.parse, "".join(lines[:4] + lines[5:]).encode()) == ""  # two of two holders are still a root


@given(st.integers(0, len(V1) - 1), st.integers(1, 255))
def test_no_changed_byte_is_believed(at, flip):
    data = bytearray(V1)
    data[at] ^= flip
    assert code(roots.first, bytes(data), ROOT1.pin) in {"trust.bad-root", "trust.root-order", "trust.root-unsigned"}


LIKE = st.text(alphabet="ledgrvsionthkup 0123-+\n", max_size=300).map(lambda text: f"{roots.HEADER}\n{text}\n".encode())


@given(st.binary(max_size=200) | LIKE)
def test_anything_else_is_refused(data):
    assert code(roots.parse, data) == "trust.bad-root"
    assert code(roots.signers, data, [ALICE.verifier]) in {"", "trust.bad-root"}


def test_what_is_parsed_is_what_was_written():
    root = after_theft()
    again = roots.encode(root.origin, root.version, root.threshold, root.holders, root.logs, root.stolen, root.policy.lines)
    assert again == root.text
    assert root.pin.digest == "sha256:" + hashlib.sha256(root.text).hexdigest()
    assert policy.decide(root.policy, "shop", [KEY_ID], {}, 5).rule.signers == ("release",)


def test_the_example_of_the_spec():
    page = (Path(__file__).parents[2] / "docs" / "spec" / "root.md").read_text()
    block = re.search(r"^```\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert block
    assert block[1].encode() == signed(text(logs=[LogKey(0, None, OLD[0])]), ALICE, BOB)


VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "root.json").read_text())


@pytest.mark.parametrize("case", VECTORS, ids=[case["name"] for case in VECTORS])
def test_vectors(case):
    documents = [document.encode() for document in case["documents"]]
    assert code(roots.from_pin, documents, Pin(*case["trusted"])) == case["expect"]
