"""Proofs: what they say is what was logged, and whatever was changed in one does not hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.ledger.reader import LedgerReader
from stele.model.event import Event
from stele.prove import proof
from stele.prove.proof import ReleaseEvidence
from stele.prove.verify import Verdict, verify
from stele.trust import canonical, cosign, dsse, trust_keys
from stele.trust.digest import sha256
from stele.trust.errors import SteleError
from stele.trust.release_key import PrivateKey
from tests.ledgers import KEY, OTHER, SECOND, SIGNER, START, TRUST, Clock, event, opened, sealed
from tests.vectors.make_ledger import demo, resum

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "proof.json").read_text())


def t(seconds: float) -> int:
    return START + int(seconds * SECOND)


def code(call, *args) -> str:
    with pytest.raises(SteleError) as raised:
        call(*args)
    return raised.value.code


def evidence(digest: str) -> ReleaseEvidence:
    for content in (b"one", b"two"):
        found, material = sealed(content=content)
        if found == digest:
            return material
    raise AssertionError(digest)


def built(folder: Path, at_ns: int = 0, workload: str = "shop") -> bytes:
    return proof.build(LedgerReader(folder), workload, at_ns, evidence)


def ledger_of(folder: Path, events: list[Event], clock: int = START + 1000 * SECOND) -> Path:
    with opened(folder, clock=Clock(clock)) as ledger:
        for item in events:
            ledger.append([item])
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("proof") / "ledger"
    demo(made)
    return made


@pytest.fixture(scope="module")
def data(folder) -> bytes:
    return built(folder, t(4))


@pytest.mark.parametrize("vector", VECTORS["proofs"], ids=lambda vector: vector["why"])
def test_vectors(vector):
    trust = trust_keys.parse(VECTORS["trust"].encode())
    if vector["code"]:
        assert code(verify, vector["proof"].encode(), trust) == vector["code"]
    else:
        assert verify(vector["proof"].encode(), trust).state.frozen["shop-i1"].instance == "shop-aaaaaa"


# ---- what it says ------------------------------------------------------------------------------------


def test_every_line_of_the_verdict(folder):
    digest, _ = sealed()
    verdict = verify(built(folder, t(6)), TRUST)
    assert verdict.says == (
        f"At 2027-01-15T08:00:06.000000000Z the workload 'shop' was served by release {digest}",
        "  as instance shop-bbbbbb, serving since 2027-01-15T08:00:06.000000000Z.",
        f"  Frozen as evidence: instance shop-aaaaaa of release {digest}, incident shop-i1, since 2027-01-15T08:00:04.000000000Z.",
    )
    size = LedgerReader(folder).size
    assert verdict.checked == (
        f"the signature of the ledger 'test.example/ledger' over its head of {size} entries",
        "all 7 entries of this workload are in it, in an unbroken chain from the first to the last",
        "the ledger's own commitment says that there are no others",
        "the signatures of the releases named above (1), by keys that you trust",
    )
    assert [line if line.startswith("anything") else line.partition(":")[0] for line in verdict.not_covered] == [
        "the time",
        "whether the operator, who holds the ledger's key, committed to all that it did",
        "whether the operator showed somebody else another ledger",
        "anything after 2027-01-15T08:01:41.000000000Z, when this ledger's head was signed",
        "what the code did while it ran; and code that ran outside Stele's care",
    ]
    assert verdict.at_ns == t(6)


def test_the_state_at_every_instant(folder):
    def said(seconds: float) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        state = verify(built(folder, t(seconds)), TRUST).state
        return state.active_instance, tuple(state.running), tuple(state.frozen)

    assert said(-1000) == said(0.5) == said(1) == ("", (), ())
    assert said(2) == said(2.9) == ("", ("shop-aaaaaa",), ())
    assert said(3) == said(3.999) == ("shop-aaaaaa", ("shop-aaaaaa",), ())
    assert said(4) == ("", (), ("shop-i1",))
    assert said(5.5) == ("", ("shop-bbbbbb",), ("shop-i1",))
    assert said(6) == said(101) == ("shop-bbbbbb", ("shop-bbbbbb",), ("shop-i1",))


def test_nothing_served_is_said_so(folder):
    verdict = verify(built(folder, t(4)), TRUST)
    assert verdict.says[0] == "At 2027-01-15T08:00:04.000000000Z nothing served the workload 'shop'."
    assert "Frozen as evidence" in verdict.says[1]
    started = verify(built(folder, t(2)), TRUST)
    assert "Also started and not yet stopped: instance shop-aaaaaa" in started.says[1]


def test_a_return_to_an_earlier_release(tmp_path):
    first, second = sealed()[0], sealed(content=b"two")[0]
    one, two = {"instance": "shop-1", "release": first}, {"instance": "shop-2", "release": second}
    back = {"instance": "shop-3", "release": first}
    steps: list[tuple[str, dict[str, Any]]] = [
        ("instance.starting", one), ("instance.active", one), ("deploy.confirmed", {"release": first}),
        ("instance.starting", two), ("instance.active", two), ("instance.stopped", one),
        ("instance.failed", two), ("release.quarantined", {"release": second, "reason": "failed"}), ("rollback.decided", {"to": first}),
        ("instance.starting", back), ("instance.active", back),
    ]  # fmt: skip
    made = ledger_of(tmp_path / "l", [event(number * SECOND, kind=kind, **data) for number, (kind, data) in enumerate(steps)])
    during = verify(built(made, t(4.5)), TRUST)
    assert (during.state.active_release, set(during.state.running)) == (second, {"shop-1", "shop-2"})
    after = verify(built(made), TRUST)
    assert (after.state.active_release, after.state.active_instance) == (first, "shop-3")
    assert after.state.quarantined == {second: ""}  # why is private: the log only commits to it
    between = verify(built(made, t(7)), TRUST)
    assert between.says[0].endswith("nothing served the workload 'shop'.")


def test_a_clock_that_was_set_back(tmp_path):
    """Entries count from the latest stamp before them on; the newest instant covers them all, and the verdict says it."""
    digest, _ = sealed()
    one = {"instance": "shop-1", "release": digest}
    events = [
        event(10 * SECOND, kind="instance.starting", **one),
        event(5000 * SECOND, kind="instance.active", **one),  # the clock was far ahead
        event(11 * SECOND, kind="instance.stopped", **one),
    ]
    made = ledger_of(tmp_path / "l", events, clock=t(12))
    assert tuple(verify(built(made, t(4999)), TRUST).state.running) == ("shop-1",)
    newest = verify(built(made), TRUST)
    assert (newest.at_ns, newest.state.running) == (t(5000) + 1, {})
    assert newest.not_covered[0].startswith("1 entries are stamped earlier than one before them")
    assert code(built, made, t(5001)) == "prove.not-covered"


def test_what_cannot_be_proved(folder):
    assert code(built, folder, 0, "nobody") == "prove.unknown-workload"
    assert code(built, folder, 0, "") == "prove.unknown-workload"  # the host itself
    assert code(built, folder, t(10_000)) == "prove.not-covered"


def test_a_damaged_ledger_gives_no_proof(tmp_path):
    made = ledger_of(tmp_path / "l", [event(1, kind="instance.healthy")])
    path = made / "tile/entries/000.p/2"
    path.write_bytes(path.read_bytes().replace(b'"actor":"test"', b'"actor":"evil"'))
    assert code(built, made) == "ledger.damaged"


# ---- what it refuses ---------------------------------------------------------------------------------


def test_no_keys_and_other_keys(data):
    assert code(verify, data, None) == "prove.no-keys"
    assert code(verify, data, TRUST._replace(ledgers=())) == "prove.no-keys"
    assert code(verify, data, TRUST._replace(ledgers=(OTHER.verifier,))) == "trust.unknown-signer"
    assert code(verify, data, TRUST._replace(releases=())) == "prove.invalid"
    assert code(verify, data, TRUST._replace(releases=(PrivateKey.generate().public,))) == "prove.invalid"
    assert verify(data, TRUST._replace(ledgers=(OTHER.verifier, SIGNER.verifier)))


def test_every_byte_matters(data):
    """Each byte flipped, deleted, doubled: the proof does not hold, and nothing but SteleError comes out."""
    verify(data, TRUST)
    for at in range(len(data)):
        for changed in (
            data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :],
            data[:at] + data[at + 1 :],
            data[: at + 1] + data[at:],
        ):
            if changed != data:
                with pytest.raises(SteleError):
                    verify(changed, TRUST)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [found for key in value for found in leaves(value[key], (*path, key))]
    if isinstance(value, list):
        return [found for key, item in enumerate(value) for found in leaves(item, (*path, key))]
    return [path]


def changed_at(value: Any, path: tuple[Any, ...], change: Any) -> Any:
    value = json.loads(json.dumps(value))
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = change(inner[path[-1]])
    return value


CHANGES = [
    lambda old: old + 1 if isinstance(old, int) else old[:-1] + ("0" if old[-1:] != "0" else "1"),
    lambda old: -old if isinstance(old, int) and old else None,
    lambda old: [old],
    lambda old: {} if old != {} else 1,
    lambda old: str(old) if isinstance(old, int) else old + " ",
    lambda old: True,
    lambda old: old.upper() if isinstance(old, str) and old.upper() != old else 2**63 - 1,
]


@pytest.mark.parametrize("change", CHANGES)
def test_every_field_matters_even_where_the_sum_is_made_to_fit(data, change):
    """A forger can compute the sum anew. Only the instant may change then: another question, truly answered."""
    value = canonical.decode(data[:-1])
    for path in leaves(value):
        if path == ("sum",):
            continue
        altered = changed_at(value, path, change)
        try:
            verdict = verify(resum(altered), TRUST)
        except SteleError:
            continue
        assert path == ("claim", "at_ns"), path
        assert verdict.at_ns == altered["claim"]["at_ns"]


def test_entries_left_out_repeated_or_exchanged(folder, data):
    value = canonical.decode(data[:-1])
    entries = value["entries"]
    for wrong in (
        entries[1:],
        entries[:-1],
        entries[:2] + entries[3:],
        [*entries, entries[-1]],
        entries[::-1],
        [],
        entries[:1] * len(entries),
    ):
        assert code(verify, resum({**value, "entries": wrong}), TRUST) == "prove.invalid"
    # and with the map claiming fewer
    short = {
        **value,
        "entries": entries[:-1],
        "map": {**value["map"], "count": len(entries) - 1, "head": sha256(entries[-2]["entry"].encode())},
    }
    assert code(verify, resum(short), TRUST) == "prove.invalid"
    for name, wrong in (("epoch", entries[0]), ("releases", []), ("releases", value["releases"] * 2)):
        assert code(verify, resum({**value, name: wrong}), TRUST) == "prove.invalid"


def test_a_head_of_before_with_the_entries_of_now(folder, data):
    older = canonical.decode(data[:-1])
    for path in sorted((folder / "checkpoints").iterdir()):
        text = path.read_text("utf-8")
        if text != older["checkpoint"]:
            with pytest.raises(SteleError):
                verify(resum({**older, "checkpoint": text}), TRUST)


def test_a_release_of_another_workload_is_refused(tmp_path):
    digest, material = sealed(name="other")
    one = {"instance": "shop-1", "release": digest}
    made = ledger_of(tmp_path / "l", [event(1, kind="instance.starting", **one), event(2, kind="instance.active", **one)])
    assert code(verify, proof.build(LedgerReader(made), "shop", 0, lambda _: material), TRUST) == "prove.invalid"


def test_a_release_that_is_not_what_was_signed_is_refused(folder):
    digest, good = sealed()
    _, other = sealed(content=b"two")
    for wrong in (
        other,
        good._replace(config=other.config),
        good._replace(payload=other.payload),
        good._replace(signature=other.signature),
        good._replace(signature=b""),
        good._replace(payload=good.payload.replace(b"in-toto", b"in-TOTO")),
        good._replace(manifest=good.manifest + b" "),
    ):
        with pytest.raises(SteleError):
            verify(proof.build(LedgerReader(folder), "shop", t(6), lambda _, w=wrong: w), TRUST)
    statement = canonical.decode(good.payload)
    for altered in ({**statement, "predicateType": "x"}, {**statement, "subject": []}, {**statement, "_type": "x"}):
        payload = canonical.encode(altered)
        signed = good._replace(payload=payload, signature=KEY.sign(dsse.pae(cosign.PAYLOAD_TYPE, payload)))
        assert code(verify, proof.build(LedgerReader(folder), "shop", t(6), lambda _, w=signed: w), TRUST) == "prove.invalid"
    assert digest


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace") + b"\n"))
def test_anything_else_is_refused(data):
    with pytest.raises(SteleError):
        verify(data, TRUST)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["claim", "checkpoint", "epoch", "map", "entries", "releases", "format"]), plain)
def test_any_value_in_any_field_is_refused_in_good_order(name, value):
    whole = canonical.decode(VECTORS["proofs"][0]["proof"].encode()[:-1])
    if whole[name] != value:
        with pytest.raises(SteleError):
            verify(resum({**whole, name: value}), TRUST)


def test_hostile_shapes_cost_little():
    for data in (b"[" * 200_000 + b"\n", b'{"a":' * 50_000 + b"\n", b"9" * 100_000 + b"\n", b'"' + b"x" * (65 << 20) + b'"\n'):
        with pytest.raises(SteleError):
            verify(data, TRUST)


def test_verdicts_compare(data):
    assert isinstance(verify(data, TRUST), Verdict)
    assert verify(data, TRUST) == verify(data, TRUST)
