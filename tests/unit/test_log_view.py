"""Reading the ledger: what is selected is found by index, without it, and over HTTP alike; following; what is damaged or forked."""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stele.cli.app import cli
from stele.flow import following, log_view
from stele.flow.places import Places
from stele.flow.times import parse_when
from stele.host.inotify import Watch
from stele.ledger.index import Index
from stele.model.event import KINDS, Event
from stele.model.selection import GROUPS, Selection, parse_kinds, parse_release
from stele.trust import trust_keys
from stele.trust.errors import SteleError
from tests.ledgers import SECOND, START, TRUST, opened, quiet
from tests.unit.test_published import web

WORKLOADS = ("shop", "web-1", "web-2", "we[b]", "")
SOME = ("violation", "instance.active", "deploy.started", "heartbeat", "release.sealed")
RELEASES = ("sha256:" + "ab" * 32, "sha256:" + "cd" * 32)


def made_event(number):
    """One of a sequence in which the clock is set back now and then."""
    at = START + (number - 40 if number % 97 == 0 else number) * SECOND
    data = {"release": RELEASES[number % 2], "incident": f"shop-{number % 50:x}"} if number % 3 else {"n": number}
    return Event(
        workload=WORKLOADS[number * 7 % 5], kind=SOME[number * 11 % 13 % 5], time_ns=at, actor=("agent", "operator")[number % 2], data=data
    )


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    found = Places(tmp_path_factory.mktemp("data"))
    found.keys.mkdir()
    found.trust.write_bytes(trust_keys.encode(TRUST))
    with opened(found.ledger) as ledger:
        for begin in range(0, 1500, 300):
            ledger.append([made_event(number) for number in range(begin, begin + 300)])
            ledger.publish()
    return found


selections = st.builds(
    Selection,
    workloads=st.lists(st.sampled_from([*WORKLOADS[:4], "web-*", "w*", "nobody", "?hop", "we[b*"]), max_size=2).map(tuple),
    kinds=st.none() | st.frozensets(st.sampled_from([*SOME, "epoch"]), min_size=1, max_size=3),
    actors=st.sampled_from([(), ("agent",), ("oper*",), ("ledger", "agent")]),
    since_ns=st.just(0) | st.integers(-50, 1600).map(lambda n: START + n * SECOND),
    until_ns=st.just(1 << 63) | st.integers(-50, 1600).map(lambda n: START + n * SECOND),
    release=st.sampled_from(["", "abab", "cd" * 32, "ffff"]),
    incident=st.sampled_from(["", "", "shop-1", "shop-2f"]),
)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(selections, st.integers(1, 40), st.integers(0, 1505))
def test_index_and_reading_all_find_the_same(places, selection, last, begin):
    with log_view.open_view(places, read_all=True) as view:
        every = [(index, entry) for index, entry in view.entries(Selection()) if selection.matches(entry)]
    with log_view.open_view(places) as view:
        assert list(view.entries(selection)) == every
        assert list(view.entries(selection, newest_first=True)) == every[::-1]
        assert list(view.entries(selection, last=last)) == every[-last:]
        assert list(view.entries(selection, begin=begin)) == [item for item in every if item[0] >= begin]


def test_over_http_and_without_a_projection_the_same_is_found(places, tmp_path):
    selection = Selection(workloads=("shop",), since_ns=START + 700 * SECOND, until_ns=START + 900 * SECOND)
    with log_view.open_view(places) as view:
        expected = list(view.entries(selection))
    assert expected
    with web(places.ledger) as url, log_view.open_view(places, url) as view:
        assert list(view.entries(selection)) == expected
        assert list(view.entries(selection, last=3)) == expected[-3:]


def test_a_workload_is_found_without_reading_the_log(places, monkeypatch):
    with log_view.open_view(places) as view:
        read = []
        bundle = view.published.bundle
        monkeypatch.setattr(view.published, "bundle", lambda number: read.append(number) or bundle(number))
        assert len(list(view.entries(Selection(workloads=("shop",)), last=5))) == 5
        assert read == [5]
        read.clear()
        assert list(view.entries(Selection(since_ns=START + 100 * SECOND, until_ns=START + 110 * SECOND)))
        assert set(read) == {0}


def test_a_projection_that_is_damaged_or_behind_hides_nothing(places, tmp_path):
    with log_view.open_view(places, read_all=True) as view:
        expected = list(view.entries(Selection(workloads=("shop",))))
    path = places.ledger / "projection.sqlite"
    kept = path.read_bytes()
    try:
        with sqlite3.connect(path) as db:
            db.execute("UPDATE applied SET size = 600")
        db.close()
        with log_view.open_view(places) as view:
            assert list(view.entries(Selection(workloads=("shop",)))) == expected
        for damage in (b"not a database", kept[:5000] + bytes(len(kept) - 5000)):
            path.write_bytes(damage)
            with log_view.open_view(places) as view:
                assert list(view.entries(Selection(workloads=("shop",)))) == expected
        path.unlink()
        with log_view.open_view(places) as view:
            assert list(view.entries(Selection(workloads=("shop",)), last=7)) == expected[-7:]
    finally:
        path.write_bytes(kept)


def test_a_projection_that_lies_shows_nothing_that_is_not_in_the_log(places):
    path = places.ledger / "projection.sqlite"
    kept = path.read_bytes()
    try:
        with sqlite3.connect(path) as db:
            db.execute("UPDATE entries SET workload = 'shop', kind = 'violation' WHERE idx < 200")
        db.close()
        selection = Selection(workloads=("shop",), kinds=frozenset({"violation"}))
        with log_view.open_view(places) as view:
            assert all(selection.matches(entry) for _, entry in view.entries(selection))
    finally:
        path.write_bytes(kept)


def test_names_of_workloads_come_from_the_index(places):
    with Index.open(places.ledger / "projection.sqlite") as index:
        assert list(index.workloads()) == sorted(WORKLOADS)


def test_what_is_published_is_followed(tmp_path, monkeypatch):
    places = Places(tmp_path)
    places.keys.mkdir()
    places.trust.write_bytes(trust_keys.encode(TRUST))
    ledger = quiet(places.ledger, monkeypatch)
    try:
        ledger.append([made_event(0)])
        ledger.publish()
        with log_view.open_view(places) as view:
            found, seen = [], threading.Event()

            def read():
                for _, entry in following.follow(view, Selection(kinds=frozenset({"violation"}))):
                    found.append((entry.event.data["n"], entry.event.private.get("person")))
                    seen.set()
                    if len(found) == 3:
                        return

            reader = threading.Thread(target=read, daemon=True)
            reader.start()
            for number in range(3):
                seen.clear()
                who = {"person": f"p{number}"}
                ledger.append([Event(workload="shop", kind="violation", time_ns=START, actor="operator", data={"n": number}, private=who)])
                ledger.publish()
                assert seen.wait(20), "it was published, and not shown"
            reader.join(20)
            assert found == [(0, "p0"), (1, "p1"), (2, "p2")]
    finally:
        ledger.close()


def test_a_watch_wakes_when_a_file_is_moved_there(tmp_path):
    with Watch(tmp_path) as watch:
        assert not watch.wait(0)
        (tmp_path / "a").write_text("x")
        assert watch.wait(20)
        assert not watch.wait(0)
    with pytest.raises(OSError, match="not-there"):
        Watch(tmp_path / "not-there")


def test_a_ledger_that_no_longer_continues_what_was_read_is_refused(places, tmp_path):
    other = Places(tmp_path)
    with opened(other.ledger) as ledger:
        ledger.append([made_event(number + 1) for number in range(2000)])
        ledger.publish()
    with log_view.open_view(places) as view:
        view._source, mine = other_source(other.ledger), view._source
        with pytest.raises(SteleError) as raised:
            view.refresh()
        assert raised.value.code == "ledger.damaged"
        mine.close()


def other_source(folder):
    from stele.ledger.source import FolderSource

    return FolderSource(folder)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2h", 7200), ("90s", 90), ("3d", 3 * 86400), ("1w", 7 * 86400),
    ],
)  # fmt: skip
def test_how_long_ago(text, meant):
    assert parse_when(text, START) == START - meant * SECOND


def test_days_and_offsets():
    assert parse_when("2026-03-01", 0) == parse_when("2026-03-01T00:00:00Z", 0) == parse_when("2026-03-01T01:30:00+01:30", 0)
    assert parse_when("2026-02-28T22:00:00.5-02:00", 0) - parse_when("2026-03-01", 0) == SECOND // 2


@given(st.text(max_size=25))
def test_no_other_spelling_of_a_time(text):
    try:
        parse_when(text, START)
    except SteleError as error:
        assert error.code == "log.bad-time"
    else:
        assert text.isascii()
        assert text[0].isdigit()


@given(st.text(max_size=20))
def test_kinds_are_those_that_there_are(text):
    try:
        found = parse_kinds([text])
    except SteleError as error:
        assert error.code == "log.bad-filter"
    else:
        assert found
        assert found <= set(KINDS)


def test_groups_and_releases():
    assert all(set(kinds) <= set(KINDS) for kinds in GROUPS.values())
    assert parse_kinds(["instance."]) == parse_kinds(["instance.*"]) == parse_kinds(["instances"])
    assert parse_kinds([]) == parse_kinds([""]) == frozenset(KINDS) - {"epoch", "heartbeat"}
    assert parse_release("sha256:ABCD".lower()) == parse_release("abcd") == "abcd"
    for bad in ("abc", "sha512:abcd", "xyzw", "AB" * 32, "a" * 65):
        with pytest.raises(SteleError):
            parse_release(bad)


def run(*argv):
    return CliRunner().invoke(cli, list(argv), catch_exceptions=False)


def test_the_command_shows_lines_and_json(places):
    data = ("--data", str(places.data))
    done = run(*data, "log", "-w", "shop", "--kind", "incidents", "--last", "4")
    lines = done.output.splitlines()
    assert lines[0].split("\t") == ["INDEX", "TIME (UTC)", "WORKLOAD", "EVENT", "ACTOR", "WHAT"]
    assert len(lines) == 5
    assert all("\tshop\tviolation\t" in line for line in lines[1:])
    done = run(*data, "--json", "log", "-w", "shop", "--kind", "incidents", "--last", "4", "--reverse")
    found = [json.loads(line) for line in done.output.splitlines()]
    assert [str(item["index"]) for item in found] == [line.split("\t")[0] for line in lines[:0:-1]]
    assert run(*data, "log", "-w", "nobody").output == "no entry is like that\n"
    assert run("--data", str(Path(places.data) / "none"), "log").output == "the ledger is empty\n"


def test_what_is_private_is_shown_where_it_can_be_opened_and_said_to_be_redacted_elsewhere(tmp_path):
    places = Places(tmp_path / "data")
    places.keys.mkdir(parents=True)
    places.trust.write_bytes(trust_keys.encode(TRUST))
    with opened(places.ledger) as ledger:
        for number, person in enumerate(("alice", "bob")):
            secret = {"path": f"/tmp/.x{number}", "person": person}
            data = {"kind": "exec-unsealed", "instance": "shop-1"}
            ledger.append([Event(workload="shop", kind="violation", time_ns=START, actor="operator", data=data, private=secret)])
        ledger.publish()
    data = ("--data", str(places.data), "log", "-w", "shop")
    assert "/tmp/.x0 in shop-1" in run(*data).output
    done = run(*data, "--person", "al*", "--json").output
    assert [json.loads(line)["data"]["path"] for line in done.splitlines()] == ["/tmp/.x0"]
    with web(places.ledger) as url:
        elsewhere = run(*data, "--from", url, "--trust", str(places.trust)).output
        assert "exec-unsealed [closed] in shop-1" in elsewhere
        assert "alice" not in elsewhere
        assert "\toperator\t" in elsewhere
        assert run(*data, "--from", url, "--person", "alice").output == "no entry is like that\n"
