"""Proofs for a verifier who trusts a root document: which keys are the ledger's, and who signs releases, the documents say."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stele.ledger.past import PastLedger
from stele.prove import build
from stele.prove.standalone import stele_verify
from stele.prove.verify import verify
from stele.trust import canonical, note, root, trust_keys
from stele.trust.root import LogKey, Stolen
from stele.trust.trust_keys import Trust
from tests.ledgers import KEY, OTHER, SIGNER
from tests.proofs import built, check, evidence, resum, state
from tests.refusals import code

HOLDERS = [
    note.Key(name, Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)) for number, name in enumerate(("alice", "bob", "carol"))
]
RELEASE = f"key release 0 - {base64.b64encode(KEY.public.der).decode()}"
RULES = (RELEASE, "rule * 1 release")
ALWAYS = tuple(LogKey(0, None, key) for key in SIGNER.verifiers)


def document(version: int = 1, logs=ALWAYS, stolen=(), policy=RULES, signers=(0, 1)) -> bytes:
    text = root.encode(SIGNER.name, version, 2, [key.verifier for key in HOLDERS], logs, stolen, policy)
    lines = b"".join(HOLDERS[number].line(text) for number in signers)
    return text + b"\n" + lines if lines else text


def pinned(first: bytes) -> Trust:
    pin = root.parse(first).pin
    return trust_keys.parse(f"stele-trust v1\nroot {pin.origin} {pin.version} {pin.digest[7:]}\n".encode())


def proof(folder: Path, *documents: bytes) -> bytes:
    return built(folder, state(8.5), roots=documents)


def test_a_root_is_all_that_a_verifier_brings(folder):
    first = document()
    verdict = verify(proof(folder, first), pinned(first))
    assert verdict.answer["entries"] == 5
    assert "that these are the ledger's keys: root documents from the one that you trust to version 1" in verdict.checked
    second = document(2)
    assert "to version 2" in " ".join(verify(proof(folder, first, second), pinned(first)).checked)
    assert "to version 2" in " ".join(verify(proof(folder, first, second), pinned(second)).checked)


def test_documents_that_do_not_lead_on(folder):
    first, second, third = document(), document(2), document(3)
    trust = pinned(first)
    assert code(verify, proof(folder), trust) == "trust.root-order"
    assert code(verify, proof(folder, second), trust) == "trust.root-order"
    assert code(verify, proof(folder, first, third), trust) == "trust.root-order"
    assert code(verify, proof(folder, second, first), trust) == "trust.root-order"
    assert code(verify, proof(folder, document(signers=(0,))), trust) == "trust.root-unsigned"
    assert code(verify, proof(folder, first, document(2, signers=(2,))), trust) == "trust.root-unsigned"
    assert code(verify, proof(folder, first.replace(b"threshold 2", b"threshold 1")), trust) == "trust.root-order"
    value = canonical.decode(proof(folder, first)[:-1])
    assert code(verify, resum({**value, "roots": ["stele-root v0\n"]}), trust) == "trust.bad-root"


def test_keys_are_those_of_the_size(folder):
    """Heads of 9 and 14 entries."""
    rotated = [*(LogKey(0, 14, key) for key in SIGNER.verifiers), *(LogKey(14, None, key) for key in OTHER.verifiers)]
    first, late = document(), document(2, logs=rotated)
    assert code(verify, proof(folder, first, late), pinned(first)) == "trust.unknown-signer"
    later = [*(LogKey(0, 15, key) for key in SIGNER.verifiers), *(LogKey(15, None, key) for key in OTHER.verifiers)]
    assert verify(proof(folder, first, document(2, logs=later)), pinned(first))


def test_what_a_stolen_key_signed(folder):
    stolen = [Stolen(24, bytes(32), key) for key in SIGNER.verifiers]
    logs = [*ALWAYS, *(LogKey(20, None, key) for key in OTHER.verifiers)]
    first = document()
    assert code(verify, proof(folder, first, document(2, logs=logs, stolen=stolen)), pinned(first)) == "trust.stolen-key"


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
            assert code(verify, data, pinned(first)) == expected
        else:
            assert verify(data, pinned(first))


def test_the_standalone_verifier_takes_keys_not_roots(folder):
    first = document()
    with pytest.raises(stele_verify.Refused, match="root"):
        stele_verify.Proof(proof(folder, first), trust_keys.encode(pinned(first))).verdict()
    keys = Trust(SIGNER.verifiers, (KEY.public,))
    answer = stele_verify.Proof(proof(folder, first), trust_keys.encode(keys)).verdict()["answer"]
    assert answer == verify(proof(folder, first), keys).answer


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
    assert verify(resum({**value, "roots": [first.decode()]}), pinned(first)).answer == verdict.answer
