"""Whose signatures count here: the policy together with what this data folder's ledger recorded."""

from __future__ import annotations

import base64

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


def required(places: Places, pattern: str, threshold: int, *signers: str) -> None:
    """As `stele key require` does it."""
    present = policy.parse(places.policy.read_bytes())
    places.policy.write_bytes(policy.with_rule(present, pattern, threshold, signers).encode())
    note_down(places, ("", "key.required", {"workloads": pattern, "threshold": threshold, "signers": list(signers), "policy": ""}))


def test_a_rule_that_was_lowered_by_hand_or_comes_from_a_backup_does_not_count(places):
    places.policy.write_bytes(policy.with_key(policy.parse(places.policy.read_bytes()), "alice", NEW, 0, "").encode())
    mine, lines = own(places), places.policy.read_text()
    required(places, "shop", 2, "release", "alice")
    good = places.policy.read_text()
    assert (code(places, mine), code(places, mine, NEW)) == ("trust.too-few-signers", "")
    for lowered in (
        lines,  # the backup: 1 of release for all workloads
        good.replace("rule shop 2 release alice", "rule shop 1 release alice"),
        good.replace("rule shop 2", "rule sh* 1 release\nrule shop 2"),  # a rule before it
        lines.replace("rule * 1 release", "rule * 2 release alice bob").replace("key alice", f"key bob 0 - {spki()}\nkey alice"),
    ):
        places.policy.write_text(lowered)
        assert code(places, mine, NEW) == "trust.policy-outdated", lowered
    # stricter by hand, and other workloads
    places.policy.write_text(good.replace("rule shop 2 release alice", "rule shop 2 alice release"))
    assert code(places, mine, NEW) == ""
    assert Authority(places).accept("other", RELEASE, [mine])
    # lowered so that it is recorded
    places.policy.write_text(good)
    required(places, "shop", 1, "release", "alice")
    assert code(places, mine) == ""
    # a later rule for more workloads comes before it, as in the file
    required(places, "*o*", 2, "release", "alice")
    assert (code(places, mine), code(places, mine, NEW)) == ("trust.too-few-signers", "")
    places.policy.write_text(good)
    assert code(places, mine, NEW) == ""
    places.policy.write_text(good.replace("rule shop 2", "rule shop 1"))
    assert code(places, mine, NEW) == "trust.policy-outdated"


def spki() -> str:
    return base64.b64encode(PrivateKey.generate().public.der).decode()


def test_a_data_folder_without_a_policy_trusts_its_own_key(places):
    places.policy.unlink()
    assert code(places, own(places)) == ""
    assert code(places, NEW) == "trust.too-few-signers"
