"""Proofs for a verifier who trusts a root document: which keys are the ledger's, and who signs releases, the documents say."""

from __future__ import annotations

import base64
import contextlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from stele.ledger.past import PastLedger
from stele.prove import build
from stele.prove.standalone import stele_verify
from stele.trust import canonical, note, root
from stele.trust import policy as policies
from stele.trust.digest import sha256
from stele.trust.errors import SteleError
from stele.trust.release_key import PrivateKey
from stele.trust.root import LogKey, Pin, Stolen
from stele.trust.trust_keys import Trust
from tests.ledgers import KEY, OTHER, SIGNER
from tests.proofs import built, check, evidence, resum, state
from tests.refusals import code
from tests.roots import ALWAYS, HOLDERS, RELEASE, RULES, document, pinned

SEVENTH = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)


def proof(folder: Path, *documents: bytes) -> bytes:
    return built(folder, state(8.5), roots=documents)


def test_a_root_is_all_that_a_verifier_brings(folder):
    first = document()
    verdict = check(proof(folder, first), pinned(first))
    assert verdict.answer["entries"] == 5
    assert "that these are the ledger's keys: root documents from the one that you trust to version 1" in verdict.checked
    assert "the signatures of the releases named above (1), so many and by those as the root says for this workload" in verdict.checked
    assert any(line.startswith("when the releases were signed: ") for line in verdict.not_checked)
    second = document(2)
    assert "to version 2" in " ".join(check(proof(folder, first, second), pinned(first)).checked)
    assert "to version 2" in " ".join(check(proof(folder, first, second), pinned(second)).checked)


def test_documents_that_do_not_lead_on(folder):
    first, second, third = document(), document(2), document(3)
    trust = pinned(first)
    assert code(check, proof(folder), trust) == "trust.root-order"
    assert code(check, proof(folder, second), trust) == "trust.root-order"
    assert code(check, proof(folder, first, third), trust) == "trust.root-order"
    assert code(check, proof(folder, second, first), trust) == "trust.root-order"
    assert code(check, proof(folder, document(signers=(0,))), trust) == "trust.root-unsigned"
    assert code(check, proof(folder, first, document(2, signers=(2,))), trust) == "trust.root-unsigned"
    assert code(check, proof(folder, first.replace(b"threshold 2", b"threshold 1")), trust) == "trust.root-order"
    value = canonical.decode(proof(folder, first)[:-1])
    assert code(check, resum({**value, "roots": ["stele-root v0\n"]}), trust) == "trust.bad-root"


def test_keys_are_those_of_the_size(folder):
    """Heads of 9 and 14 entries."""
    rotated = [*(LogKey(0, 14, key) for key in SIGNER.verifiers), *(LogKey(14, None, key) for key in OTHER.verifiers)]
    first, late = document(), document(2, logs=rotated)
    assert code(check, proof(folder, first, late), pinned(first)) == "trust.unknown-signer"
    later = [*(LogKey(0, 15, key) for key in SIGNER.verifiers), *(LogKey(15, None, key) for key in OTHER.verifiers)]
    assert check(proof(folder, first, document(2, logs=later)), pinned(first))


def test_what_a_stolen_key_signed(folder):
    stolen = [Stolen(24, bytes(32), key) for key in SIGNER.verifiers]
    logs = [*ALWAYS, *(LogKey(20, None, key) for key in OTHER.verifiers)]
    first = document()
    assert code(check, proof(folder, first, document(2, logs=logs, stolen=stolen)), pinned(first)) == "trust.stolen-key"


def test_releases_are_signed_by_whom_the_root_says(folder):
    key_id = root.parse(document()).policy.keys[0].id
    for policy, expected in (
        (RULES, ""),
        ((), "prove.invalid"),  # no rules: the release keys of the trust file, and there is none
        ((RELEASE, "rule other 1 release"), "prove.invalid"),
        ((RELEASE, f"revoke {key_id} 99 stolen", "rule * 1 release"), "prove.invalid"),
    ):
        first = document(policy=policy)
        data = proof(folder, first)
        if expected:
            assert code(check, data, pinned(first)) == expected
        else:
            assert check(data, pinned(first))


def test_documents_mean_nothing_to_who_trusts_keys(folder):
    keys = Trust(SIGNER.verifiers, (KEY.public,))
    value = canonical.decode(proof(folder, document())[:-1])
    assert check(resum({**value, "roots": ["anything"]}), keys).answer == check(proof(folder), keys).answer


def test_a_later_checkpoint_in_place_of_one_that_is_doubted(folder):
    """As `stele prove` does it where a key was stolen: both epochs under the newest checkpoint."""
    with PastLedger(folder, lambda _: True) as log:
        data = build.build(log, state(8.5), "light", evidence)
    verdict = check(data)
    assert verdict.answer == check(built(folder, state(8.5))).answer
    value = canonical.decode(data[:-1])
    assert [head["checkpoint"].split("\n")[1] for head in value["heads"]] == ["24", "24"]
    stolen = [Stolen(14, bytes(32), key) for key in OTHER.verifiers]
    logs = [*(LogKey(0, 14, key) for key in OTHER.verifiers), *(LogKey(14, None, key) for key in SIGNER.verifiers)]
    first = document(logs=logs, stolen=stolen)
    assert check(resum({**value, "roots": [first.decode()]}), pinned(first)).answer == verdict.answer


LOG = f"log 0 - {SIGNER.verifier.encode()}"
IMPOSSIBLE = [
    ("version 1\n", "version 0\n"),
    ("version 1\n", "version 1000000000\n"),
    ("threshold 2", "threshold 0"),
    ("threshold 2", "threshold 4"),
    (f"holder {HOLDERS[1].verifier.encode()}", f"holder {HOLDERS[0].verifier.encode()}"),
    (f"holder {HOLDERS[1].verifier.encode()}", f"holder {note.Key('alice', SEVENTH).verifier.encode()}"),
    (LOG, LOG.replace("log 0 -", "log 5 5")),
    (LOG, f"{LOG}\n{LOG}"),
    (LOG, f"log 0 - {note.Key('test.example/other', SEVENTH).verifier.encode()}"),
    (RELEASE, RELEASE.replace("release 0 -", "release 9 3")),
    (RELEASE, f"{RELEASE}\n{RELEASE.replace('key release', 'key alice')}"),
    (RELEASE, f"{RELEASE}\nrevoke {'0' * 64} 0 not named"),
    (RELEASE, RELEASE[:-6] + "AAAA=="),  # no point of the curve
    ("rule * 1 release", "rule * 0 release"),
    ("rule * 1 release", "rule * 2 release"),
    ("rule * 1 release", "rule * 1 release release"),
    ("rule * 1 release", "rule * 1 nobody"),
    ("rule * 1 release", "rule * 1 release\nrunning stop\nrunning stop"),
]


@pytest.mark.parametrize("place", range(len(IMPOSSIBLE)))
def test_a_document_that_is_not_possible_is_none_whoever_signs_it(folder, place):
    text = root.parse(document()).text
    changed = text.replace(*(part.encode() for part in IMPOSSIBLE[place]), 1)
    assert changed != text
    trust = Trust((), (KEY.public,), roots=(Pin(SIGNER.name, 1, sha256(changed)),))
    signed = changed + b"\n" + HOLDERS[0].line(changed) + HOLDERS[1].line(changed)
    value = canonical.decode(proof(folder)[:-1])
    assert code(check, resum({**value, "roots": [signed.decode()]}), trust) == "trust.bad-root"


VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "root.json").read_text())


@pytest.mark.parametrize("case", VECTORS, ids=[case["name"] for case in VECTORS])
def test_chains_of_documents_lead_the_standalone_verifier_to_the_same(case):
    origin, version, digest = case["trusted"]
    trust = stele_verify.Trust(f"stele-trust v1\nroot {origin} {version} {digest[7:]}\n".encode())
    if case["expect"]:
        with pytest.raises(ValueError) as raised:
            trust.root(origin, case["documents"])
        assert str(raised.value).startswith(f"[{case['expect']}] ")
    else:
        assert (
            trust.root(origin, case["documents"]).version
            == root.from_pin([text.encode() for text in case["documents"]], Pin(*case["trusted"])).version
        )


SECOND = PrivateKey.generate().public
RICH = (
    RELEASE,
    f"key bob 3 90 {base64.b64encode(SECOND.der).decode()}",
    f"revoke {policies.key_id(SECOND)} 40 it was lost",
    "rule sh*p 1 bob release",
    "rule * 2 release bob",
    "running stop",
)
LATER = tuple(LogKey(20, None, key) for key in OTHER.verifiers[:1])
GONE = tuple(Stolen(30, bytes(32), key) for key in OTHER.verifiers[:1])
WORDS = [
    "0",
    "1",
    "2",
    "3",
    "20",
    "-",
    "9" * 18,
    "1" + "0" * 18,
    "bob",
    "alice",
    "release",
    "*",
    "sh*p",
    "x",
    "",
    SIGNER.name,
    "version",
    "key",
    "01",
]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_both_verifiers_say_the_same_of_any_root_documents(folder, data):
    """Lines of good documents removed, doubled, exchanged, words replaced, signed by some of the holders, in any order."""
    texts = [root.parse(document(version, logs=(*ALWAYS[:1], *LATER), stolen=GONE, policy=RICH)).text for version in (1, 2, 3)]
    made = []
    for text in texts:
        lines = text.decode().splitlines()
        for _ in range(data.draw(st.sampled_from([0, 0, 1, 2]))):
            place = data.draw(st.integers(0, len(lines) - 1))
            how = data.draw(st.sampled_from(["drop", "double", "exchange", "word", "word", "other"]))
            if how == "word":
                words = lines[place].split(" ")
                words[data.draw(st.integers(0, len(words) - 1))] = data.draw(st.sampled_from(WORDS))
                lines[place] = " ".join(words)
            elif how == "exchange":
                lines.insert(data.draw(st.integers(0, len(lines) - 1)), lines.pop(place))
            else:
                lines[place : place + 1] = {"drop": [], "double": [lines[place]] * 2, "other": [data.draw(st.text(max_size=9))]}[how]
            lines = lines or [""]
        body = ("\n".join(lines) + "\n").encode()
        signers = data.draw(st.sampled_from([(0, 1), (0, 1), (1, 2), (0, 1, 2), (0,), (1, 1, 0), ()]))
        made.append(body + b"\n" + b"".join(HOLDERS[number].line(body) for number in signers) if signers else body)
    pinned_to = data.draw(st.sampled_from(made))
    documents = data.draw(st.sampled_from([made, made, made[1:], made[:2], made[::-1], [made[0], *made], []]))
    digest = sha256(pinned_to.rpartition(b"\n\n")[0] + b"\n" if b"\n\n" in pinned_to else pinned_to)
    trust = Trust((), (KEY.public,), roots=(Pin(SIGNER.name, data.draw(st.sampled_from([1, 1, 1, 2, 3])), digest),))
    value = canonical.decode(proof(folder)[:-1])
    with contextlib.suppress(SteleError):
        check(resum({**value, "roots": [text.decode() for text in documents]}), trust)


def test_what_is_said_of_a_stolen_keys_head_is_the_same_whatever_its_signatures_are(folder):
    """Also of the good head itself: a later one must be brought."""
    value = canonical.decode(proof(folder, document())[:-1])
    last = value["heads"][-1]["checkpoint"]
    good = note.unverified(last.encode())
    stolen = [Stolen(good.size, good.root, key) for key in SIGNER.verifiers]
    first, second = document(), document(2, logs=[*ALWAYS, *(LogKey(99, None, key) for key in OTHER.verifiers)], stolen=stolen)
    lines = last.partition("\n\n")[2].split("\n")
    false = last.replace(lines[0], lines[0][:-20] + ("A" if lines[0][-20] != "A" else "B") + lines[0][-19:])
    for text in (last, last.rpartition("\u2014")[0], false):
        heads = [{**head, "checkpoint": text} for head in value["heads"]]
        changed = resum({**value, "heads": heads, "roots": [first.decode(), second.decode()]})
        assert code(check, changed, pinned(first)) == "trust.stolen-key"
