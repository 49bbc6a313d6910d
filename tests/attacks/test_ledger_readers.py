"""Somebody changes what lies beside the signed log: readers are shown the same as before, are refused, or a check tells."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from typing import Any

import pytest

from stele.flow import custody, initialise, log_view, reading
from stele.flow.places import Places
from stele.ledger import projection
from stele.ledger.reader import LedgerReader
from stele.model.event import Event
from stele.model.redaction import Selection as Redaction
from stele.model.selection import Selection
from stele.trust.errors import SteleError
from tests.custody import RELEASE, redact, run
from tests.ledgers import event

SELECTIONS = (
    Selection(kinds=None),
    Selection(kinds=frozenset({"violation"})),
    Selection(workloads=("shop",)),
    Selection(incident="shop-i1"),
    Selection(release="aaaa"),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Places:
    made = Places(tmp_path_factory.mktemp("base") / "data")
    initialise.make_keys(made)
    seen: dict[str, Any] = {"instance": "shop-1", "release": RELEASE, "incident": "shop-i1", "path": "/tmp/x", "argv": ["sh"]}
    with custody.alone(made) as mine:
        for number in range(4):
            mine._record.commit(
                event(number, kind="instance.starting", instance="shop-1", release=RELEASE),
                event(number, kind="violation", **seen),
                event(number, workload=f"other-{number}", kind="instance.failed", instance="o", release=RELEASE, reason="no"),
                event(number, kind="heartbeat", workload=""),
            )
            mine._publish()
    return made


@pytest.fixture
def places(base, tmp_path) -> Places:
    shutil.copytree(base.data, tmp_path / "data")
    return Places(tmp_path / "data")


def shown(places: Places) -> Any:
    """What `stele log` shows for each of the selections; None if it refuses."""
    try:
        with log_view.open_view(places) as view:
            return [[(at, entry.encode(), entry.event.private) for at, entry in view.entries(each)] for each in SELECTIONS]
    except SteleError:
        return None


def problems(places: Places) -> list[str]:
    try:
        return list(reading.check(places, None, None)["problems"])
    except SteleError as error:
        return [error.reason]


def test_attack_flip_bits_anywhere_and_nothing_is_hidden_unseen(places):
    before = shown(places)
    assert problems(places) == []
    for path in sorted(each for each in places.ledger.rglob("*") if each.is_file()):
        data = path.read_bytes()
        for at in range(0, len(data.rstrip(b"\0")), max(1, len(data.rstrip(b"\0")) // 40)):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
            now = shown(places)
            assert now in (None, before) or problems(places), (path.name, at)
        path.write_bytes(data)
    assert shown(places) == before


LIES = {
    "a row is missing": "DELETE FROM entries WHERE idx = 1",
    "another kind": "UPDATE entries SET kind = 'heartbeat' WHERE idx = 1",
    "another workload": "UPDATE entries SET workload = 'other' WHERE idx = 1",
    "another place in its chain": "UPDATE entries SET seq = 99 WHERE idx = 1",
    "another time": "UPDATE entries SET time_ns = 5 WHERE idx = 1",
    "another incident": "UPDATE entries SET data = replace(data, 'shop-i1', 'shop-i2') WHERE idx = 1",
    "the incident in another spelling": "UPDATE entries SET data = replace(data, 'shop-i1', 'shop-\\u0069' || '1') WHERE idx = 1",
    "no text": "UPDATE entries SET kind = x'00' WHERE idx = 1",
    "a block that does not have the kind": "UPDATE blocks SET kinds = 0",
    "a block that does not have the actor": "UPDATE blocks SET actors = 0",
    "a block of other times": "UPDATE blocks SET last_ns = 5",
    "no block": "DELETE FROM blocks",
}


@pytest.mark.parametrize("why", LIES)
def test_attack_a_projection_that_leaves_something_out_is_told(places, why):
    with contextlib.closing(sqlite3.connect(places.ledger / "projection.sqlite", isolation_level=None)) as db:
        assert db.execute(LIES[why]).rowcount
    assert problems(places) != []
    assert "stele log rebuild" in run(places, "log", "check", status=1)
    run(places, "log", "rebuild")
    assert problems(places) == []


def test_a_projection_that_is_behind_or_not_there_leaves_nothing_out(places):
    path = places.ledger / "projection.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE applied SET size = 3")
    assert problems(places) == []
    projection.remove(path)
    assert problems(places) == []


def test_texts_that_sqlite_cannot_hold_fit(places):
    with custody.alone(places) as mine:
        for text in ("\ud800", "\0", "\U0001f600", 'a"b', "ü"):
            mine._record.commit(Event(workload=f"w{text}", kind="heartbeat", time_ns=1, actor="agent", data={text: {"x": [text, 1, None]}}))
    assert problems(places) == []
    run(places, "log", "rebuild")
    assert problems(places) == []


@pytest.mark.parametrize("how", ["removed", "all removed", "zeros", "cut"])
def test_attack_private_values_that_go_without_a_redaction_are_missed(places, how):
    """Whoever may not redact, for a hold stands, and deletes them from the disk instead."""
    folder = places.ledger / ".state" / "openings"
    path = folder / "0"
    data = path.read_bytes()
    if how == "all removed":
        shutil.rmtree(folder)
    elif how == "removed":
        path.unlink()
    else:
        path.write_bytes(bytes(len(data)) if how == "zeros" else data[: len(data) // 2])
    assert any("no redaction says so" in each for each in problems(places))
    assert "closed" in run(places, "log", "--kind", "violation")


def test_a_redaction_is_said_and_so_nothing_is_missed(places):
    redact(places, indexes={1}, fields=("path",))
    assert problems(places) == []
    path = places.ledger / ".state" / "openings" / "0"
    path.write_bytes(path.read_bytes().replace(b'["sh"]', b'["ss"]', 1))  # of the field that was not redacted
    assert any("entries [1]" in each for each in problems(places))


def test_a_redaction_while_it_is_checked_is_no_finding(places):
    """The check reads an older checkpoint: the redaction is in a newer one."""
    reader = LedgerReader(places.ledger)
    with custody.alone(places) as mine:
        mine.redact(Redaction(indexes=frozenset({1})), "why", "bob")
    assert custody.audit(places.ledger, reader) == []


def test_a_copy_without_the_openings_is_whole(places, tmp_path):
    """It is what others get: it proves everything and tells nothing private."""
    shutil.copytree(places.ledger, tmp_path / "copy", ignore=shutil.ignore_patterns(".state"))
    assert reading.check(places, str(tmp_path / "copy"), None)["problems"] == []
    assert json.loads(run(places, "log", "check", "--ledger", str(tmp_path / "copy"), "--json"))["problems"] == []


def test_no_path_of_a_violation_makes_a_line_of_its_own(places, tmp_path):
    """A process in a container chooses it; piped, too, a line of the timeline or a table is one of ours."""
    evil = "/tmp/x\n2026-01-01 00:00:00.000  ▶ deploy of 000000000000 by root\x1b[2J\r"
    with custody.alone(places) as mine:
        mine._record.commit(
            event(9, kind="violation", incident="shop-i9", instance="shop-1", release=RELEASE, path=evil, comm="sh"),
            event(10, kind="instance.frozen", incident="shop-i9", instance="shop-1", release=RELEASE),
        )
    for argv in (("log", "timeline", "shop"), ("log", "timeline"), ("log", "-w", "shop"), ("incidents",)):
        said = run(places, *argv)
        assert "\x1b" not in said
        assert "\r" not in said
        assert not any(line.startswith("2026-01-01") for line in said.splitlines()), said
