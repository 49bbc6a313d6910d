"""Whose signatures count here: the policy together with what this data folder's ledger recorded."""

from __future__ import annotations

import pytest

from stele.flow import initialise
from stele.flow.authority import Authority
from stele.flow.places import Places
from stele.trust import policy
from stele.trust.errors import SteleError
from stele.trust.policy import key_id
from stele.trust.release_key import PrivateKey, PublicKey
from tests.ledgers import SIGNER, event, opened, signer

RELEASE = "sha256:" + "a" * 64
NEW = PrivateKey.generate().public


@pytest.fixture
def places(tmp_path):
    made = Places(tmp_path / "data")
    initialise.make_keys(made)
    return made


def own(places: Places) -> PublicKey:
    return PublicKey.from_pem(places.release_pub.read_bytes())


def note_down(places: Places, *events: tuple[str, str, dict], by=SIGNER) -> None:
    with opened(places.ledger, by) as ledger:
        ledger.append([event(1, workload=workload, kind=kind, **data) for workload, kind, data in events])
        ledger.publish()


def code(places: Places, *keys: PublicKey) -> str:
    try:
        Authority(places).accept("shop", RELEASE, keys)
    except SteleError as error:
        return error.code
    return ""


def rotate(places: Places, at: int) -> None:
    present = policy.parse(places.policy.read_bytes())
    turned = policy.rotated(present, present.keys[0], NEW, at, SIGNER.verifier.name)
    places.policy.write_bytes(turned.encode())


def test_what_the_ledger_recorded_before_a_rotation_counts_and_nothing_after(places):
    sealed = {"release": RELEASE, "tree": "", "keys": [key_id(own(places))]}
    note_down(places, ("", "heartbeat", {}), ("shop", "release.sealed", sealed), ("", "heartbeat", {}))
    rotate(places, 2)
    assert code(places, own(places)) == ""
    assert code(places, NEW) == ""
    with pytest.raises(SteleError) as raised:  # of another release, which nothing records: it would be recorded now
        Authority(places).accept("shop", "sha256:" + "b" * 64, [own(places)])
    assert raised.value.code == "trust.key-not-valid"


def test_a_record_of_another_workload_does_not_count(places):
    note_down(places, ("other", "release.sealed", {"release": RELEASE, "keys": [key_id(own(places))]}), ("", "heartbeat", {}))
    rotate(places, 1)
    assert code(places, own(places)) == "trust.key-not-valid"


def test_a_ledger_that_is_gone_or_another_makes_no_retired_key_valid(places):
    note_down(places, ("", "heartbeat", {}))
    rotate(places, 1)
    places.ledger.rename(places.data / "elsewhere")
    assert code(places, own(places)) == "trust.other-ledger"
    other = signer(bytes(range(1, 33)), "test.example/another")
    note_down(places, ("", "heartbeat", {}), by=other)
    assert code(places, own(places)) == "trust.other-ledger"


@pytest.mark.parametrize("kind", ["key.revoked", "key.rotated"])
def test_an_old_policy_brought_back_undoes_no_change_of_keys(places, kind):
    old = places.policy.read_bytes()
    key = key_id(own(places))
    present = policy.parse(old)
    if kind == "key.revoked":
        places.policy.write_bytes(policy.revoked(present, present.keys[0], 0, "stolen", SIGNER.verifier.name).encode())
        note_down(places, ("", kind, {"key": key, "signer": "release", "from": 0, "reason": "stolen", "policy": ""}))
        assert code(places, own(places)) == "trust.key-revoked"
    else:
        rotate(places, 1)
        note_down(places, ("", kind, {"key": key_id(NEW), "old": key, "signer": "release", "from": 1, "policy": ""}))
    places.policy.write_bytes(old)
    assert code(places, own(places)) == "trust.policy-outdated"
    places.policy.unlink()
    assert code(places, own(places)) == "trust.policy-missing"


def test_a_data_folder_without_a_policy_trusts_its_own_key(places):
    places.policy.unlink()
    assert code(places, own(places)) == ""
    assert code(places, NEW) == "trust.too-few-signers"
