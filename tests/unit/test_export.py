"""Exports: read back by csv, by JSON, and by the CloudEvents SDK; private values stay at home; no cell is a formula."""

from __future__ import annotations

import csv
import io
import json

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from stele.flow import export, proving
from stele.flow.places import Places
from stele.model.event import Entry, Event
from stele.trust import trust_keys
from tests.ledgers import SECOND, START, TRUST, opened
from tests.unit.test_log_view import run


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    found = Places(tmp_path_factory.mktemp("data"))
    found.keys.mkdir()
    found.trust.write_bytes(trust_keys.encode(TRUST))
    secret = {"path": "/tmp/.x", "person": "alice"}
    with opened(found.ledger) as ledger:
        for number in range(5):
            data = {"kind": 'exec-unsealed, "quoted"\n', "release": "sha256:" + "ab" * 32, "number": number}
            time_ns = START + number * SECOND + 7
            ledger.append([Event(workload="shop", kind="violation", time_ns=time_ns, actor="operator", data=data, private=secret)])
        ledger.append([Event(workload="", kind="agent.stopped", time_ns=START + 9 * SECOND, actor="agent", data={"removed": False})])
        ledger.publish()
    return found


def exported(places, *argv):
    return run("--data", str(places.data), "log", "export", *argv).output


def test_json_lines_leave_private_values_out_unless_asked(places):
    found = [json.loads(line) for line in exported(places).splitlines()]
    assert [item["data"].get("number") for item in found] == [0, 1, 2, 3, 4, None]
    assert found[0]["sealed"] == ["path", "person"]
    for form in ("jsonl", "csv", "cloudevents", "cloudevents-batch"):
        text = exported(places, "--format", form)
        assert "alice" not in text
        assert "/tmp/.x" not in text
        assert "alice" in exported(places, "--format", form, "--private")
        # who is looked for is not told either
        assert "alice" not in exported(places, "--format", form, "--person", "alice")


def test_a_file_with_private_values_is_for_its_owner_alone(places, tmp_path):
    for private, mode in ((("--private",), 0o600), ((), 0o644)):
        exported(places, "-o", str(tmp_path / "out"), *private)
        assert (tmp_path / "out").stat().st_mode & 0o777 == mode
    for asked, mode in (({"reveal": True}, 0o600), ({}, 0o644)):
        proving.prove(places, proving.Question("shop", **asked), "light", tmp_path / "a.proof")
        assert (tmp_path / "a.proof").stat().st_mode & 0o777 == mode


def test_csv_is_read_back(places):
    text = exported(places, "--format", "csv", "-w", "shop")
    assert text.replace("\r\n", "").count("\r") == 0
    rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    assert len(rows) == 5
    assert tuple(rows[0]) == export.COLUMNS
    assert rows[2]["time"] == "2027-01-15T08:00:02.000000007Z"
    assert json.loads(rows[3]["data"])["number"] == 3
    assert rows[0]["sealed"] == "path person"


def test_the_cloudevents_sdk_reads_them(places):
    lines = exported(places, "--format", "cloudevents").splitlines()
    batch = json.loads(exported(places, "--format", "cloudevents-batch"))
    assert [json.loads(line) for line in lines] == batch
    for line in lines:
        found = JSONFormat().read(CloudEvent, line)  # validates every attribute
        data = found.get_data()
        assert found.get_specversion() == "1.0"
        assert found.get_source() == "//test.example/ledger"
        assert found.get_id() == str(data["index"])
        assert found.get_type() == "stele." + data["kind"]
        assert found.get_time().timestamp() == pytest.approx(data["time_ns"] / 1e9, abs=1e-5)
        assert found.get_subject() == (data["workload"] or None)
        assert found.get_extension("sequence").isdigit()
    assert json.loads(exported(places, "--format", "cloudevents-batch", "-w", "nobody")) == []


def test_a_file_is_written_whole_or_not_at_all(places, tmp_path):
    target = tmp_path / "out.jsonl"
    exported(places, "-o", str(target))
    assert target.read_text() == exported(places)
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


texts = st.text(max_size=12) | st.sampled_from(["=1+1", "+x", "-1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''", "a,b", 'q"', "x\r\ny"])


@given(st.lists(st.tuples(texts, texts, texts), max_size=5))
def test_no_cell_begins_a_formula_and_all_come_back(rows):
    entries = [
        (number, Entry(event=Event(workload=a, kind="violation", time_ns=START, actor=b, data={"incident": c}), seq=0, prev=""))
        for number, (a, b, c) in enumerate(rows)
    ]
    text = "".join(export.write(entries, "csv", origin="x"))
    found = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    for (a, b, c), row in zip(rows, found, strict=True):
        for said, cell in ((a, row["workload"]), (b, row["actor"]), (c, row["incident"])):
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
            assert cell == said or cell[1:] == said


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40))
def test_any_name_of_a_ledger_is_a_source(origin):
    found = export.source(origin)
    assert not set(found) & set('<>"{}|\\^` #?%' if "%" not in found else '<>"{}|\\^` #?')
    assert found.startswith("//")
