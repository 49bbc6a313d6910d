"""Proofs: what they say, that any change breaks them, and that nothing is believed without keys."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from stele.ledger.reader import LedgerReader
from stele.ledger.sequencer import Ledger
from stele.model import history
from stele.model.event import Event
from stele.prove import proof, verify
from stele.trust import canonical, note, trust_keys
from stele.trust.digest import sha256
from stele.trust.errors import SteleError
from stele.trust.release_key import PrivateKey
from tests import ledgers

KEY = ledgers.SIGNER
TRUST = ledgers.TRUST
RELEASE_KEY = ledgers.KEY
END = 1000
ONE, TWO = ledgers.sealed("shop", b"one"), ledgers.sealed("shop", b"two")
STORE = dict([ONE, TWO])


def _event(time: int, kind: str, **data: Any) -> Event:
    return Event(workload="shop", kind=kind, time_ns=time, actor="test", data=data)


STORY = [
    _event(10, "release.sealed", release=ONE[0]),
    _event(20, "instance.starting", instance="i1", release=ONE[0]),
    _event(30, "instance.active", instance="i1", release=ONE[0]),
    _event(40, "instance.starting", instance="i2", release=TWO[0]),
    _event(50, "instance.active", instance="i2", release=TWO[0]),
    _event(60, "instance.stopped", instance="i1", release=ONE[0]),
    _event(70, "instance.frozen", instance="i2", release=TWO[0], incident="shop-x"),
    _event(80, "instance.starting", instance="i3", release=TWO[0]),
    _event(90, "instance.active", instance="i3", release=TWO[0]),
]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log")
    ledger = Ledger.open(folder, signer=KEY, clock=lambda: END)
    for event in STORY:
        ledger.append([event, Event(workload="other", kind="heartbeat", time_ns=event.time_ns, actor="x")])
    ledger.close()
    return folder


def _proof(log: Path, at: int = 0) -> bytes:
    return proof.build(LedgerReader(log), "shop", at, STORE.__getitem__)


@pytest.mark.parametrize(
    ("at", "serving", "running", "frozen"),
    [
        (5, "", set(), set()),
        (25, "", {"i1"}, set()),
        (30, "i1", {"i1"}, set()),
        (45, "i1", {"i1", "i2"}, set()),
        (55, "i2", {"i1", "i2"}, set()),
        (65, "i2", {"i2"}, set()),
        (75, "", set(), {"shop-x"}),
        (85, "", {"i3"}, {"shop-x"}),
        (95, "i3", {"i3"}, {"shop-x"}),
    ],
)
def test_the_state_at_an_instant_is_what_the_entries_say(log: Path, at: int, serving: str, running: set[str], frozen: set[str]) -> None:
    verdict = verify.verify(_proof(log, at), TRUST)
    assert verdict.state.active_instance == serving
    assert set(verdict.state.running) == running
    assert set(verdict.state.frozen) == frozen
    assert any(serving in line if serving else "nothing served" in line for line in verdict.says)
    assert any("operator's claim" in line for line in verdict.not_covered)


def test_without_keys_or_under_other_keys_nothing_is_believed(log: Path) -> None:
    data = _proof(log)
    other = note.Signer(KEY.verifier.name, Ed25519PrivateKey.from_private_bytes(bytes(32)))
    for trust, code in (
        (None, "prove.no-keys"),
        (trust_keys.Trust((other.verifier,), (RELEASE_KEY.public,)), "trust.unknown-signer"),
        (trust_keys.Trust((KEY.verifier,), (PrivateKey.generate().public,)), "prove.invalid"),
        (trust_keys.Trust((KEY.verifier,), ()), "prove.invalid"),
    ):
        with pytest.raises(SteleError) as caught:
            verify.verify(data, trust)
        assert caught.value.code == code


def test_every_changed_removed_or_added_byte_is_refused(log: Path) -> None:
    data = _proof(log, 55)
    for position in range(len(data)):
        byte = data[position : position + 1]
        other = b"0" if byte != b"0" else b"1"
        for changed in (
            data[:position] + other + data[position + 1 :],
            data[:position] + data[position + 1 :],
            data[:position] + b" " + data[position:],
        ):
            with pytest.raises(SteleError):
                verify.verify(changed, TRUST)


def _resummed(data: bytes, change: Any) -> bytes:
    """A proof that somebody altered with care: every sum right again, the signatures not theirs to make."""
    raw = canonical.decode(data[:-1])
    del raw["sum"]
    change(raw)
    return canonical.encode({**raw, "sum": sha256(canonical.encode(raw))}) + b"\n"


def _drop_last(raw: dict[str, Any]) -> None:
    raw["entries"].pop()


def _drop_last_and_count(raw: dict[str, Any]) -> None:
    raw["entries"].pop()
    raw["map"]["count"] -= 1


def _swap(raw: dict[str, Any]) -> None:
    raw["entries"][0], raw["entries"][1] = raw["entries"][1], raw["entries"][0]


def _rewrite(raw: dict[str, Any]) -> None:
    raw["entries"][4]["entry"] = raw["entries"][4]["entry"].replace("i2", "i9")


def _other_release(raw: dict[str, Any]) -> None:
    raw["releases"][0]["config"] += " "


def _no_releases(raw: dict[str, Any]) -> None:
    raw["releases"] = []


def _extra_release(raw: dict[str, Any]) -> None:
    raw["releases"].append(raw["releases"][0])


def _earlier_epoch(raw: dict[str, Any]) -> None:
    raw["epoch"]["entry"] = raw["entries"][0]["entry"]


def _other_workload(raw: dict[str, Any]) -> None:
    raw["claim"]["workload"] = "other"


def _later(raw: dict[str, Any]) -> None:
    raw["claim"]["at_ns"] = END + 1


def _malleated(raw: dict[str, Any]) -> None:
    raw["releases"][0]["signature"] = base64.b64encode(base64.b64decode(raw["releases"][0]["signature"]) + b"\0").decode()


FORGERIES = (
    _drop_last, _drop_last_and_count, _swap, _rewrite, _other_release, _no_releases, _extra_release,
    _earlier_epoch, _other_workload, _later, _malleated,
)  # fmt: skip


@pytest.mark.parametrize("change", FORGERIES)
def test_forgeries_with_right_sums_are_refused(log: Path, change: Any) -> None:
    with pytest.raises(SteleError):
        verify.verify(_resummed(_proof(log, 55), change), TRUST)


def test_an_unknown_workload_and_an_instant_to_come_are_refused(log: Path) -> None:
    for workload, at, code in (
        ("nobody", 0, "prove.unknown-workload"),
        ("", 0, "prove.unknown-workload"),
        ("shop", END + 1, "prove.not-covered"),
    ):
        with pytest.raises(SteleError) as caught:
            proof.build(LedgerReader(log), workload, at, STORE.__getitem__)
        assert caught.value.code == code


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_any_bytes_are_refused_with_a_code(data: bytes) -> None:
    with pytest.raises(SteleError):
        verify.verify(data, TRUST)


PLAIN = st.recursive(st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5), lambda x: st.lists(x, max_size=3), max_leaves=5)


@given(PLAIN, st.sampled_from(["format", "claim", "checkpoint", "epoch", "map", "entries", "releases"]))
@settings(max_examples=200, deadline=None)
def test_fields_of_other_types_are_refused(value: Any, field: str) -> None:
    raw: dict[str, Any] = {
        "format": verify.FORMAT, "claim": {"workload": "shop", "at_ns": 1}, "checkpoint": "",
        "epoch": {}, "map": {}, "entries": [], "releases": [],
    }  # fmt: skip
    raw[field] = value
    data = canonical.encode({**raw, "sum": sha256(canonical.encode(raw))}) + b"\n"
    with pytest.raises(SteleError):
        verify.verify(data, TRUST)


@given(st.lists(st.sampled_from(STORY), max_size=12), st.integers(0, 12))
def test_reducing_in_two_parts_is_reducing_at_once(events: list[Event], cut: int) -> None:
    whole = history.reduce("shop", events)
    part = history.reduce("shop", events[:cut])
    for event in events[cut:]:
        part = history.advance(part, event)
    assert part == whole
