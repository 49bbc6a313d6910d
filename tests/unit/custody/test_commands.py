"""The command lines of holds and redactions."""

from __future__ import annotations

import json

import pytest

from tests.custody import SECRET, holding, run


def test_the_commands(places):
    before = {path: path.read_bytes() for path in places.ledger.rglob("*") if path.is_file()}
    dry = json.loads(run(places, "log", "redact", "--entry", "1", "--entry", "3-4", "--json"))
    assert (dry["erased"], dry["fields"], [entry["index"] for entry in dry["entries"]]) == (False, 4, [1, 3, 4])
    assert {path: path.read_bytes() for path in places.ledger.rglob("*") if path.is_file()} == before, "a dry run changes nothing"
    assert "would be erased; nothing was changed" in run(places, "log", "redact", "--entry", "1")
    run(places, "log", "redact", "--entry", "1", "--yes", status=2)
    name = json.loads(run(places, "hold", "place", "--incident", "shop-i1", "--reason", "case 17", "--json"))["hold"]
    assert name in run(places, "hold", "list")
    assert name in run(places, "log", "redact", "--entry", "1"), "the dry run says who holds it"
    assert run(places, "log", "redact", "--entry", "1", "--reason", "r", "--yes", status=3) == "hold.forbids"
    assert name in run(places, "hold", "release", name, "--reason", "closed")
    found = json.loads(run(places, "log", "redact", "--entry", "1", "--entry", "3-4", "--reason", "r", "--yes", "--json"))
    assert (found["erased"], found["fields"], found["recorded"]) == (True, 4, 2)
    assert any("backups" in line for line in found["not_guaranteed"])
    assert holding(places, SECRET) == set()
    assert "closed" in run(places, "hold", "list", "--all")
    assert run(places, "hold", "list") == "no holds\n"
    lines = [json.loads(line) for line in run(places, "log", "--json").splitlines()]
    assert next(line for line in lines if line["index"] == 1)["sealed"] == ["argv", "path"]
    assert run(places, "log", "check").startswith("whole: ")


@pytest.mark.parametrize("text", ["", "-", "1-", "-1", "+1", "1_0", "٣", "3-1", " 1", "1-2-3", "0-99999999", "1" * 40])
def test_an_index_has_one_spelling(places, text):
    run(places, "log", "redact", "--entry", text, status=2)


@pytest.mark.parametrize("text", ["1", "2-1", "-2", "1-", "a-b", "1-٣", "1-2-3"])
def test_a_range_to_hold_has_one_spelling(places, text):
    assert run(places, "hold", "place", "--entries", text, "--reason", "r", status=3) == "hold.malformed"


@pytest.mark.parametrize("argv", [[], ["--workload", "a", "--incident", "b"], ["--release", "sha256:12"], ["--workload", "a\nb"]])
def test_a_hold_is_on_one_thing(places, argv):
    assert run(places, "hold", "place", *argv, "--reason", "r", status=3) in {"hold.malformed", "trust.bad-digest"}
