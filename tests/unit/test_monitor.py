"""Following a ledger: growth is verified, restarts lose nothing, two histories are told apart, and what should not be is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.flow import monitoring
from stele.flow.log_view import LogView
from stele.ledger import unsigned
from stele.ledger.monitor import Monitor
from stele.ledger.published import Published
from stele.ledger.source import FolderSource
from stele.model import expectations
from stele.trust import note
from stele.trust.errors import SteleError
from stele.trust.root import Pin
from stele.trust.trust_keys import Trust
from tests.ledgers import OTHER, SECOND, START, TRUST, Clock, event, opened
from tests.refusals import code


class Now:
    def __init__(self):
        self.ns = START + 1000 * SECOND

    def __call__(self):
        return self.ns


def grow(folder, *counts, signer=None, clock=None, **kind):
    """Append and publish batches of so many events."""
    with opened(folder, **({"signer": signer} if signer else {}), clock=clock) as ledger:
        for number, count in enumerate(counts):
            ledger.append([event(number * 1000 + each, **kind) for each in range(count)])
            ledger.publish()


def monitor(state, folder, now=None, **options):
    options = {"expected": None, "stale_ns": 0, **options}
    return Monitor(state, FolderSource(folder), TRUST, clock=now or Now(), **options)


def look(state, folder, *, told=True, **options):
    following = monitor(state, folder, **options)
    try:
        found = following.look()
        if told:
            following.told()
        return found
    finally:
        following.close()


def kinds(found):
    return [alarm.kind for alarm in found.alarms]


def test_growth_is_verified_look_by_look(tmp_path):
    grow(tmp_path / "l", 5)
    following = monitor(tmp_path / "m", tmp_path / "l")
    assert (first := following.look()).alarms == ()
    assert (first.size, first.fresh) == (6, 6)
    assert following.look() == first._replace(fresh=0)
    for count in (1, 200, 400):
        grow(tmp_path / "l", count)
        found = following.look()
        assert (found.alarms, found.fresh) == ((), count + 1)
    following.close()


def test_a_restart_goes_on_where_it_was(tmp_path, caplog):
    for count in (5, 249, 255, 256, 1, 700):  # the second ends at 256: a bundle's boundary
        grow(tmp_path / "l", count)
        found = look(tmp_path / "m", tmp_path / "l")
        assert (found.alarms, found.fresh) == ((), count + 1)
    assert "read again" not in caplog.text
    # only the edge is kept
    assert sum(path.is_file() for path in (tmp_path / "m" / "tile").rglob("*")) <= 4


def test_what_was_kept_and_is_damaged_is_read_again(tmp_path, caplog):
    grow(tmp_path / "l", 300)
    look(tmp_path / "m", tmp_path / "l")
    for path in (tmp_path / "m" / "tile").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    grow(tmp_path / "l", 10)
    found = look(tmp_path / "m", tmp_path / "l")
    assert (found.alarms, found.fresh) == ((), 11)
    assert "read again" in caplog.text
    (tmp_path / "m" / "map" / "nodes").write_bytes(b"")
    grow(tmp_path / "l", 10)
    assert look(tmp_path / "m", tmp_path / "l").alarms == ()


def test_a_kept_checkpoint_that_was_altered_is_not_believed(tmp_path):
    grow(tmp_path / "l", 3)
    look(tmp_path / "m", tmp_path / "l")
    path = tmp_path / "m" / "checkpoint"
    path.write_bytes(path.read_bytes().replace(b"\n4\n", b"\n3\n"))
    with pytest.raises(SteleError) as raised:
        monitor(tmp_path / "m", tmp_path / "l")
    assert raised.value.code == "trust.bad-signature"


@pytest.mark.parametrize("counts", [(5,), (9,), (300,)])
def test_a_split_view_with_the_same_key_is_caught_and_kept(tmp_path, counts):
    """Two ledgers with one key: what the monitor saw, and what it is shown then."""
    grow(tmp_path / "l", 5)
    first = look(tmp_path / "m", tmp_path / "l")
    grow(tmp_path / "fork", *counts, clock=Clock(START + 7 * SECOND))
    for _ in range(2):  # and again: it stays with the first
        found = look(tmp_path / "m", tmp_path / "fork")
        assert kinds(found) == ["split-view"]
        assert (found.size, found.is_fatal) == (first.size, True)
    notes = [note.open_note(Path(path).read_bytes(), TRUST.ledgers) for path in found.alarms[0].evidence[:2]]
    assert notes[0].checkpoint.size == 6
    assert notes[1].checkpoint.size == counts[0] + 1
    assert notes[0].checkpoint.root != notes[1].checkpoint.root
    grow(tmp_path / "l", 1)
    assert look(tmp_path / "m", tmp_path / "l").alarms == ()


def test_a_head_that_was_set_back_is_caught(tmp_path):
    grow(tmp_path / "l", 5)
    shutil.copytree(tmp_path / "l", tmp_path / "old")
    grow(tmp_path / "l", 5)
    look(tmp_path / "m", tmp_path / "l")
    found = look(tmp_path / "m", tmp_path / "old")
    assert kinds(found) == ["rolled-back"]
    assert len(found.alarms[0].evidence) == 2


def test_another_key_is_not_believed(tmp_path):
    grow(tmp_path / "l", 5)
    look(tmp_path / "m", tmp_path / "l")
    grow(tmp_path / "x", 9, signer=OTHER)
    assert kinds(look(tmp_path / "m", tmp_path / "x")) == ["bad-checkpoint"]
    assert kinds(look(tmp_path / "m2", tmp_path / "x")) == ["bad-checkpoint"]


def test_altered_entries_and_tiles_are_caught(tmp_path):
    grow(tmp_path / "l", 300)
    for name, expected in (("tile/entries/000", "bad-entry"), ("tile/0/000", "bad-entry"), ("tile/0/001.p/45", "bad-entry")):
        shutil.copytree(tmp_path / "l", tmp_path / "x", dirs_exist_ok=True)
        path = tmp_path / "x" / name
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
        found = look(tmp_path / f"m-{name.replace('/', '-')}", tmp_path / "x")
        assert kinds(found) == [expected], name
        assert found.size == 0


def test_entries_that_are_not_expected_are_told_once(tmp_path):
    rules = b"- {workloads: [shop], kinds: [instance.*], actors: [test]}\n- {kinds: [epoch], actors: [ledger]}\n"
    expected = expectations.parse(b"stele_expectations: 0\nexpected:\n" + rules)
    grow(tmp_path / "l", 5)
    assert look(tmp_path / "m", tmp_path / "l", expected=expected).alarms == ()
    grow(tmp_path / "l", 1, kind="release.pardoned")
    grow(tmp_path / "l", 1, workload="bank")
    found = look(tmp_path / "m", tmp_path / "l", expected=expected)
    assert kinds(found) == ["unexpected-entry", "unexpected-entry"]
    assert "entry 6 is not expected: release.pardoned of shop by 'test'" in found.alarms[0].reason
    assert b"release.pardoned" in Path(found.alarms[0].evidence[0]).read_bytes()
    assert not found.is_fatal
    assert look(tmp_path / "m", tmp_path / "l", expected=expected).alarms == ()


def test_an_alarm_about_an_entry_outlives_a_monitor_that_was_killed_before_it_told(tmp_path):
    expected = expectations.parse(b"stele_expectations: 0\nexpected:\n- kinds: [epoch]\n")
    grow(tmp_path / "l", 2, kind="instance.healthy")
    first = look(tmp_path / "m", tmp_path / "l", told=False, expected=expected)
    assert kinds(first) == ["unexpected-entry"] * 2
    grow(tmp_path / "l", 1, kind="instance.healthy")
    again = look(tmp_path / "m", tmp_path / "l", told=False, expected=expected)
    assert again.alarms[:2] == first.alarms
    assert len(again.alarms) == 3
    following = monitor(tmp_path / "m", tmp_path / "l", expected=expected)
    said: list[dict] = []
    assert not monitoring.follow(following, once=True, wait=lambda: True, tell=said.append, command=())
    assert [alarm["reason"] for alarm in said[0]["alarms"]] == [alarm.reason for alarm in again.alarms]
    following.close()
    assert look(tmp_path / "m", tmp_path / "l", expected=expected).alarms == ()


def test_a_flood_of_them_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("stele.ledger.monitor.MAX_UNEXPECTED", 3)
    grow(tmp_path / "l", 10)
    found = look(tmp_path / "m", tmp_path / "l", expected=expectations.parse(b"stele_expectations: 0\nexpected:\n- kinds: [epoch]\n"))
    assert [alarm.reason for alarm in found.alarms][3:] == ["and 7 more"]


def test_a_ledger_that_does_not_grow_is_stale(tmp_path):
    now = Now()
    grow(tmp_path / "l", 5, clock=Clock(now.ns))
    options = {"now": now, "stale_ns": 60 * SECOND}
    assert look(tmp_path / "m", tmp_path / "l", **options).alarms == ()
    now.ns += 50 * SECOND
    assert look(tmp_path / "m", tmp_path / "l", **options).alarms == ()
    now.ns += 20 * SECOND
    assert kinds(look(tmp_path / "m", tmp_path / "l", **options)) == ["stale"]
    grow(tmp_path / "l", 1, clock=Clock(now.ns))
    assert look(tmp_path / "m", tmp_path / "l", **options).alarms == ()


def test_a_dead_ledger_is_stale_at_the_first_look(tmp_path):
    now = Now()
    grow(tmp_path / "l", 5, clock=Clock(now.ns - 1000 * SECOND))
    assert kinds(look(tmp_path / "m", tmp_path / "l", now=now, stale_ns=60 * SECOND)) == ["stale"]


def test_there_is_one_process_for_a_folder(tmp_path):
    grow(tmp_path / "l", 1)
    first = monitor(tmp_path / "m", tmp_path / "l")
    with pytest.raises(SteleError) as raised:
        monitor(tmp_path / "m", tmp_path / "l")
    assert raised.value.code == "monitor.locked"
    first.close()


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "stele_expectations: 1\nexpected: [{}]\n", "stele_expectations: 0\nexpected: []\n", "stele_expectations: 0\n",
        "stele_expectations: 0\nexpected: [{kind: [epoch]}]\n", "stele_expectations: 0\nexpected: [{kinds: [ephoc]}]\n",
        "stele_expectations: 0\nexpected: [{kinds: epoch}]\n", "stele_expectations: 0\nexpected: [{workloads: ['a*b']}]\n",
        "stele_expectations: 0\nexpected: [{}]\nexpected: [{}]\n", "stele_expectations: 0\nexpected: [&a {}, *a]\n",
    ],
)  # fmt: skip
def test_other_texts_are_no_expectations(text):
    with pytest.raises(SteleError) as raised:
        expectations.parse(text.encode())
    assert raised.value.code == "monitor.bad-expectations"


@given(st.binary(max_size=200) | st.text(alphabet="stele_xpcaion: 0[]{}*&-kindsworlm\n", max_size=80).map(str.encode))
def test_no_bytes_break_the_parser(data):
    try:
        expectations.parse(data)
    except SteleError as error:
        assert error.code == "monitor.bad-expectations"


def test_a_log_that_nobody_trusted_signed_is_not_read_without_end(tmp_path, monkeypatch):
    """Only a root is trusted, and nothing in the log leads from it: a hostile server could go on for ever."""
    grow(tmp_path / "l", 300)
    trust = Trust((), (), roots=(Pin("test.example/ledger", 1, "sha256:" + "0" * 64),))
    read = []
    real = FolderSource.read
    monkeypatch.setattr(FolderSource, "read", lambda self, name: read.append(name) or real(self, name))
    for limit in ("MOST_ENTRIES", "MOST_BYTES"):
        monkeypatch.setattr(unsigned, limit, 10)
        following = Monitor(tmp_path / limit, FolderSource(tmp_path / "l"), trust, clock=Now(), expected=None, stale_ns=0)
        (alarm,) = following.look().alarms
        following.close()
        assert alarm.kind == "bad-checkpoint"
        assert "nothing leads from the root" in alarm.reason
        assert code(LogView, FolderSource(tmp_path / "l"), trust, None, read_all=True, own=False) == "trust.endless"
        monkeypatch.setattr(unsigned, limit, 1 << 30)
    assert not any(name.startswith("tile/entries/001") for name in read)  # of the second bundle nothing was asked
    published = Published(FolderSource(tmp_path / "l"), note.open_checkpoint((tmp_path / "l" / "checkpoint").read_bytes(), TRUST.ledgers))
    monkeypatch.setattr(unsigned, "MOST_ENTRIES", 10)
    assert len(list(unsigned.entries(published, 0, lambda: True))) == 301  # signed by whom one trusts: no bound
    answers = iter([False, True])
    assert len(list(unsigned.entries(published, 0, lambda: next(answers)))) == 301


def test_root_documents_are_not_kept_without_end(tmp_path, monkeypatch):
    with opened(tmp_path / "l") as ledger:
        ledger.append([event(number, workload="", kind="trust.root", document="x" * 100) for number in range(20)])
    monkeypatch.setattr(unsigned, "MOST_KEPT", 1000)
    trust = Trust((), (), roots=(Pin("test.example/ledger", 1, "sha256:" + "0" * 64),))
    assert code(LogView, FolderSource(tmp_path / "l"), trust, None, read_all=True, own=False) == "trust.endless"
