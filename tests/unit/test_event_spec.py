"""The specs of events and of the formats around them say what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from stele.ledger import wal
from stele.model.event import KINDS, Entry, decode_entry, from_plain
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
    header, record = bytes.fromhex(blocks("ledger")[-1].replace("|", "").replace("\n", "")), wal._frames([b"one"], wal._seed(1, 0))[0]
    assert header == wal._header(1, 0, 0) + record
    vector = json.loads((Path(__file__).parents[1] / "vectors" / "ledger.json").read_text())
    assert "".join(blocks("event")[0].split())[:60] == "".join(vector["entries"][2].split())[:60]


def test_entries_read_back():
    entry = Entry(event=event(1), seq=3, prev="sha256:" + "0" * 64)
    assert decode_entry(entry.encode()) == entry == from_plain(entry.plain())


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
