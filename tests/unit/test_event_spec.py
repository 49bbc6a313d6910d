"""The specs of events and of the formats around them say what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stele.model.event import KINDS, Entry, Event, decode_entry, from_plain
from stele.trust import canonical, note, trust_keys
from stele.trust.errors import SteleError
from tests.ledgers import TRUST, event

DOCS = Path(__file__).parents[2] / "docs" / "spec"


def blocks(name: str) -> list[str]:
    return re.findall(r"^```\n(.*?)^```", (DOCS / f"{name}.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_every_kind_is_in_the_spec_and_no_other():
    table = (DOCS / "event.md").read_text("utf-8").partition("| kind | data |")[2].partition("\n\n")[0]
    named = {kind for line in table.splitlines() if line.startswith("| `") for kind in re.findall(r"`([a-z.]+)`", line.split("|")[1])}
    assert named == set(KINDS)


def test_the_examples_of_the_specs():
    assert blocks("trust-keys")[0].encode() == trust_keys.encode(TRUST)
    assert note.open_checkpoint(next(text for text in blocks("ledger") if "—" in text).encode(), TRUST.ledgers).size == 10
    spelled, shown = blocks("canonical")[0].splitlines()
    assert bytes.fromhex(spelled) == shown.encode() == canonical.encode({"b": [1, True, None], "a": "é"})
    vector = json.loads((Path(__file__).parents[1] / "vectors" / "ledger.json").read_text())
    assert "".join(blocks("event")[0].split())[:60] == "".join(vector["entries"][2].split())[:60]


def test_entries_read_back():
    entry = Entry(event=event(1), seq=3, prev="sha256:" + "0" * 64)
    assert decode_entry(entry.encode()) == entry == from_plain(entry.plain())


TEXTS = st.text(max_size=4) | st.sampled_from(["\x7f", "\ud800", "é", '"\\', "w1"])
VALUES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXTS | st.just(b"x")


@given(
    st.fixed_dictionaries({"workload": TEXTS | st.just(5), "kind": st.sampled_from(sorted(KINDS)), "actor": TEXTS, "prev": TEXTS}),
    st.dictionaries(TEXTS, VALUES | st.lists(VALUES, max_size=2) | st.dictionaries(TEXTS, VALUES, max_size=2), max_size=3),
    st.integers(-1, 2**64),
    st.integers(-1, 2**64),
)
@example({"workload": "", "kind": "epoch", "actor": "a", "prev": ""}, {"a": {"b": ["c", 1]}}, 2**63 - 1, 2**63 - 1)
def test_the_short_way_spells_and_reads_what_the_general_way_does(texts, data, seq, time_ns):
    entry = Entry(
        event=Event(workload=texts["workload"], kind=texts["kind"], time_ns=time_ns, actor=texts["actor"], data=data),
        seq=seq,
        prev=texts["prev"],
    )
    try:
        expected = canonical.encode(entry.plain())
    except SteleError as error:
        with pytest.raises(SteleError) as raised:
            entry.encode()
        assert raised.value.code == error.code
        return
    assert entry.encode() == expected
    try:
        again = from_plain(canonical.decode(expected))
    except SteleError as error:
        with pytest.raises(SteleError) as raised:
            decode_entry(expected)
        assert raised.value.code == error.code
    else:
        assert decode_entry(expected) == again == entry


@pytest.mark.parametrize("inner", [{}, [], "x"])
def test_how_deep_an_entry_may_be_nested_is_the_same_both_ways(inner):
    """What the writer takes, every reader must be able to read."""
    deepest = 0
    for depth in range(60, 70):
        data = {"a": inner}
        for _ in range(depth):
            data = {"a": data}
        entry = Entry(event=Event(workload="w", kind="violation", time_ns=1, actor="a", data=data), seq=0, prev="")
        raw = canonical._FAST.encode(entry.plain())
        try:
            expected = canonical.encode(entry.plain())
        except SteleError:
            for judge in (entry.encode, lambda raw=raw: decode_entry(raw), lambda raw=raw: canonical.decode(raw)):
                with pytest.raises(SteleError, match="nested deeper"):
                    judge()
        else:
            assert entry.encode() == expected == raw
            assert decode_entry(raw) == entry
            deepest = depth
    assert 60 <= deepest < 69


@given(st.data())
def test_bytes_of_an_entry_that_were_altered_are_judged_the_same_both_ways(data):
    raw = bytearray(Entry(event=event(1, detail={"a": [1, "x"]}, n=-5), seq=3, prev="sha256:" + "0" * 64).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw)))
        raw[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b"", b"1", b".0", b" ", b'"', b",", b"e3", b"\\", b"{}", b"\x7f"])
        )

    def judged(read):
        try:
            return read(bytes(raw))
        except SteleError as error:
            return error.code

    assert judged(decode_entry) == judged(lambda given: from_plain(canonical.decode(given)))


@pytest.mark.parametrize(
    "change",
    [
        {"v": 0}, {"v": True}, {"v": None}, {"seq": -1}, {"seq": True}, {"seq": "1"}, {"time_ns": -1}, {"time_ns": None},
        {"workload": 1}, {"prev": None}, {"actor": []}, {"kind": "no.such"}, {"kind": 1}, {"data": []}, {"more": 1},
        {"sealed": None}, {"sealed": []}, {"sealed": {"number": "0" * 64}}, {"sealed": {"path": "0" * 63}}, {"sealed": {"path": "A" * 64}},
        {"sealed": {"Path": "0" * 64}}, {"sealed": {"": "0" * 64}}, {"sealed": {"a" * 65: "0" * 64}}, {"sealed": {"path": 1}},
        {"sealed": {"path": "0" * 64 + "\n"}}, {"sealed": {"path\n": "0" * 64}},
    ],
)  # fmt: skip
def test_entries_of_another_shape_are_refused(change):
    plain = {**Entry(event=event(1), seq=3, prev="").plain(), **change}
    with pytest.raises(SteleError) as raised:
        decode_entry(canonical.encode(plain))
    assert raised.value.code == "ledger.bad-entry"
