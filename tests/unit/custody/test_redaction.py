"""Redactions: what is erased is gone, all of it is on record, and no proof changes."""

from __future__ import annotations

import json
import os
import threading

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.flow import custody, reading
from stele.ledger import openings, sequencer
from stele.ledger.openings import Openings
from stele.ledger.reader import LedgerReader
from stele.model import private, redaction
from stele.model.event import Event, decode_entry
from stele.model.hold import On
from stele.model.redaction import Selection
from stele.trust import merkle, trust_keys
from stele.trust.errors import SteleError
from tests.custody import JSON, OTHER, RELEASE, SECRET, holding, place, problems, redact, run, shown
from tests.ledgers import START, event, rows
from tests.refusals import code

TARGETS = st.dictionaries(
    st.integers(0, 50), st.sets(st.sampled_from(["argv", "path", "exe"]), min_size=1).map(lambda found: tuple(sorted(found))), min_size=1
)


def test_what_is_redacted_is_in_no_file_any_more(places):
    assert holding(places, SECRET) == {"ledger/.state/wal.0", "ledger/.state/openings/0"}
    found = redact(places, kind="violation", workload="shop")
    found = redact(places, indexes={3, 4})
    assert found["recorded"] == 2, "one for each workload"
    assert holding(places, SECRET) == set()
    assert holding(places, b"/home/alice") == set()
    assert problems(places) == []
    entries = shown(places)
    assert private.closed(entries[1]) == ["argv", "path"]
    assert private.closed(entries[3]) == ["how"]


def test_only_the_named_field_is_erased(places):
    redact(places, indexes={1}, fields=("argv",))
    assert holding(places, SECRET) == {"ledger/.state/openings/0"}, "other entries keep theirs"
    entry = shown(places)[1]
    assert (private.closed(entry), entry.event.private) == (["argv"], {"path": "/home/alice"})


def test_salt_and_value_are_erased_and_the_commitment_stays(places):
    before = LedgerReader(places.ledger)
    raw = list(before.raw_entries(0, before.size))
    salts = [item.salt for item in Openings(places.ledger).of(1, decode_entry(raw[1])).values()]
    assert len(salts) == 2
    redact(places, indexes={1})
    assert all(holding(places, salt) == set() for salt in salts)
    after = LedgerReader(places.ledger)
    assert list(after.raw_entries(0, before.size)) == raw


def test_the_log_and_every_proof_are_the_same_before_and_after(places):
    before = LedgerReader(places.ledger)
    (raw,) = before.raw_entries(1, 2)
    old = before.inclusion(1)
    redact(places, indexes={1})
    after = LedgerReader(places.ledger)
    assert list(after.raw_entries(1, 2)) == [raw]
    for head, path in ((before, old), (after, after.inclusion(1))):
        assert merkle.root_from_inclusion(1, head.size, merkle.leaf_hash(raw), path) == head.checkpoint.root
    assert merkle.is_consistent(before.size, after.size, before.checkpoint.root, after.checkpoint.root, after.consistency(before.size))
    assert after.check(trust_keys.parse(places.trust.read_bytes()).ledgers) == []


def test_proof_files_of_before_and_after_say_the_same(places, tmp_path):
    """Of a redacted entry, too; only one that is asked for private values, and was made before, has them."""
    for name in ("before", "after"):
        for form in ((), ("--full",), ("--full", "--open"), ("--whole-log",)):
            file = str(tmp_path / "-".join((name, *form)))
            run(places, "prove", "other", "--at", "2027-01-15T08:00:00.000000004Z", *form, "-o", file)
        if name == "before":
            redact(places, indexes={4})
    found = {}
    for path in tmp_path.iterdir():
        if path.is_file():
            found[path.name] = json.loads(run(places, "verify", str(path), "--trust", str(places.trust), "--json"))["says"]
    assert len(found) == 8
    for name, says in found.items():
        if name.startswith("after") and "open" not in name:
            assert says == found[name.replace("after", "before")]
    assert [path.name for path in tmp_path.iterdir() if path.is_file() and SECRET in path.read_bytes()] == ["before---full---open"]


def test_an_opening_that_somebody_kept_still_fits_after_the_redaction(places):
    """It cannot be taken back: what was handed out stays true. It also cannot be forged afterwards."""
    entry = shown(places)[1]
    kept = Openings(places.ledger).of(1, entry)["argv"]
    redact(places, indexes={1})
    (raw,) = LedgerReader(places.ledger).raw_entries(1, 2)
    assert private.check_opening(decode_entry(raw), *kept)
    assert not private.check_opening(decode_entry(raw), kept.field, kept.salt, ["--key", "other"])


def test_a_redaction_is_on_record_with_who_and_why(places):
    size = LedgerReader(places.ledger).size
    redact(places, indexes={1}, fields=("argv",), reason="a password")
    (entry,) = [entry for index, entry in shown(places).items() if index >= size and entry.event.kind == "log.redacted"]
    assert (entry.event.workload, entry.event.actor) == ("shop", "operator")
    assert entry.event.data == {"erased": [{"entries": [1], "fields": ["argv"]}]}
    assert entry.event.private == {"reason": "a password", "person": "bob as root"}


def test_who_redacted_can_be_redacted_too(places):
    size = LedgerReader(places.ledger).size
    redact(places, indexes={1}, reason="asked for by alice")
    redact(places, indexes={size})
    assert holding(places, b"asked for by alice") == set()
    assert problems(places) == []


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"indexes": {99}}, "redact.no-such-entry"), ({"indexes": {0}}, "redact.nothing"),
        ({"indexes": {0}, "fields": ("instance",)}, "redact.not-private"),
        ({"indexes": {1}, "fields": ("comm",)}, "redact.not-private"), ({"indexes": {1}, "fields": ("pid",)}, "redact.not-private"),
        ({"kind": "heartbeat"}, "redact.nothing"), ({"workload": "nobody"}, "redact.nothing"), ({}, "redact.too-much"),
        ({"fields": ("path",)}, "redact.too-much"), ({"incident": "shop-i9"}, "redact.nothing"),
        ({"indexes": {1}, "workload": "other"}, "redact.nothing"),
    ],
)  # fmt: skip
def test_what_cannot_be_redacted_changes_nothing(places, selection, expected):
    size = LedgerReader(places.ledger).size
    assert code(redact, places, **selection) == expected
    assert LedgerReader(places.ledger).size == size
    assert private.closed(shown(places)[1]) == []


def test_redacting_twice_is_refused_and_says_which_entry_did_it(places):
    size = LedgerReader(places.ledger).size
    redact(places, indexes={1}, fields=("argv",))
    with pytest.raises(SteleError, match=rf"argv of entry 1 by entry {size}") as raised:
        redact(places, indexes={1}, fields=("argv",))
    assert raised.value.code == "redact.nothing"
    assert redact(places, indexes={1})["fields"] == 1, "what is left of the entry"


def test_a_selection_by_incident_takes_all_of_its_entries(places):
    found = redact(places, incident="shop-i1")
    assert [(entry["index"], entry["fields"]) for entry in found["entries"]] == [(1, ["argv", "path"]), (3, ["how"])]
    assert holding(places, SECRET) == {"ledger/.state/openings/0"}, "that of the other workload"


def test_more_entries_than_one_redaction_names(places, monkeypatch):
    monkeypatch.setattr(redaction, "MAX_INDEXES", 3)
    with custody.alone(places) as mine:
        mine._record.commit(*(event(10 + number, kind="violation", path=f"/p{number}", argv=["x"]) for number in range(8)))
    found = redact(places, workload="shop", kind="violation")
    assert (len(found["entries"]), found["recorded"]) == (9, 3)
    assert problems(places) == []


def test_a_redaction_under_a_hold_is_a_finding(places):
    """An operator who goes around the decider writes it into the log."""
    name = place(places, release=RELEASE)
    with custody.alone(places) as mine:
        mine._record("shop", "log.redacted", erased=[{"entries": [1], "fields": ["argv"]}, {"entries": [3, 4], "fields": ["how"]}])
    found = problems(places)
    at = next(index for index, entry in shown(places).items() if entry.event.kind == "log.redacted")
    assert found == [
        f"entry {at} redacts entry 1, on which {name} stood",
        f"entry {at} redacts entry 3, on which {name} stood",
        f"entry {at} redacts entry 4 of another workload",
        f"entry {at} redacts how of entry 4, which has no such private field",
    ]


def test_an_opening_that_comes_back_from_a_backup_is_a_finding(places):
    path = places.ledger / ".state/openings/0"
    backup = path.read_bytes()
    redact(places, indexes={1})
    at = next(index for index, entry in shown(places).items() if entry.event.kind == "log.redacted")
    path.write_bytes(backup)
    assert problems(places) == [
        f"argv of entry 1 can still be opened, though entry {at} redacts it",
        f"path of entry 1 can still be opened, though entry {at} redacts it",
        f"private values of entries [{at}] cannot be opened, and no redaction says so: they were damaged or removed",  # not in the backup
    ]


def test_what_cannot_be_published_is_erased_later(places, monkeypatch):
    real, calls = openings.erase, []

    def failing(*args):
        calls.append(args)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(openings, "erase", failing)
    assert code(redact, places, indexes={1, 3, 4}) == "redact.unfinished"
    assert calls
    assert SECRET in (places.ledger / ".state/openings/0").read_bytes()
    assert len(problems(places)) == 4
    monkeypatch.setattr(openings, "erase", real)
    with custody.alone(places):
        pass
    assert holding(places, SECRET) == set()
    assert problems(places) == []


def test_no_hold_comes_between_looking_for_holds_and_recording_what_they_forbid(places):
    with custody.alone(places) as mine:
        placing = threading.Thread(target=mine.place, args=(On(incident="shop-i1"), "a case", ""))
        with mine.undisturbed():
            mine.keep("the frozen instance", "shop-i1")
            placing.start()
            for _ in range(5):
                mine._publish()
            mine._record.commit(event(9, kind="quarantine.released", incident="shop-i1", instance="shop-1", release=RELEASE))
        placing.join()
        assert code(mine.keep, "it", "shop-i1") == "hold.forbids"
    kinds = [entry.event.kind for entry in shown(places).values()]
    assert kinds.index("quarantine.released") < kinds.index("hold.placed")


@pytest.mark.parametrize("harmed", ["magic", "first", "own"])
def test_damage_hides_nothing_from_erasing_and_costs_no_other_opening(places, harmed, monkeypatch):
    path = places.ledger / ".state/openings/0"
    monkeypatch.setattr(sequencer, "RECYCLE_BYTES", 0)
    with custody.alone(places) as mine:
        mine._record.commit(event(8, kind="heartbeat", workload=""))  # from here on the openings are in this file alone
    data = bytearray(path.read_bytes())
    records = list(openings._records(bytes(data)))
    which = {"first": 0, "own": [index for index, _, _ in records].index(3)}
    at = 0 if harmed == "magic" else records[which[harmed]][1] - 2  # of its checksum
    data[at] ^= 1
    path.write_bytes(data)
    with custody.alone(places) as mine:
        mine._record.commit(event(9, workload="other", kind="instance.failed", instance="o", release=OTHER, reason="kept"))
    assert b"hunter2 is wrong" in path.read_bytes()  # of another entry: what is written later takes nothing away
    redact(places, indexes={3})
    assert path.read_bytes().count(b'"hunter2"') == bytes(data).count(b'"hunter2"') - 1
    kept = Openings(places.ledger)
    found = {index: kept.open(index, entry).event.private for index, entry in LedgerReader(places.ledger).entries()}
    assert found[3] == {}
    assert found[4]["reason"] == "hunter2 is wrong"
    assert ("argv" in found[1]) == (harmed != "first")


def test_a_redaction_is_not_called_finished_while_the_write_ahead_log_has_its_bytes(places):
    """No room for the other file of the write-ahead log: what is erased elsewhere is still there."""
    with custody.alone(places) as mine:
        blocked = places.ledger / ".state/wal.1"
        blocked.mkdir()
        assert code(mine.redact, Selection(indexes=frozenset({1, 3, 4})), "a password", "") == "redact.unfinished"
        assert SECRET in (places.ledger / ".state/wal.0").read_bytes()
        blocked.rmdir()
        # again, with nothing left that can be opened: it is the ledger that goes on
    with custody.alone(places):
        pass
    assert holding(places, SECRET) == set()
    assert problems(places) == []


@pytest.mark.parametrize(
    "data",
    [
        {}, {"erased": []}, {"erased": {}}, {"erased": [{"entries": [], "fields": ["argv"]}]}, {"erased": [{"entries": [1], "fields": []}]},
        {"erased": [{"entries": [1, 1], "fields": ["argv"]}]}, {"erased": [{"entries": [2, 1], "fields": ["argv"]}]},
        {"erased": [{"entries": [1], "fields": ["path", "argv"]}]}, {"erased": [{"entries": [True], "fields": ["argv"]}]},
        {"erased": [{"entries": [-1], "fields": ["argv"]}]}, {"erased": [{"entries": [1], "fields": ["Argv"]}]},
        {"erased": [{"entries": [1], "fields": ["argv"], "more": 1}]}, {"erased": [{"entries": [1], "fields": ["argv"]}], "more": 1},
        {"erased": [{"entries": [1], "fields": ["argv"]}, {"entries": [1], "fields": ["path"]}]},
        {"erased": [{"entries": [99], "fields": ["argv"]}]},
        {"erased": [{"entries": "1", "fields": ["argv"]}]}, {"erased": [[1], ["argv"]]},
    ],
)  # fmt: skip
def test_a_malformed_redaction_is_refused_by_the_ledger(places, data):
    with custody.alone(places) as mine:
        assert (
            code(mine._record.commit, Event(workload="shop", kind="log.redacted", time_ns=START, actor="operator", data=data))
            == "ledger.bad-entry"
        )
    assert private.closed(shown(places)[1]) == []


@given(st.dictionaries(st.sampled_from(["erased", "x"]), JSON))
def test_only_redactions_in_the_one_spelling_are_read(data):
    redacted = Event(workload="w", kind="log.redacted", time_ns=0, actor="operator", data=data)
    try:
        targets = redaction.erased(redacted)
    except SteleError as error:
        assert error.code == "ledger.bad-entry"
        return
    assert {index for group in data["erased"] for index in group["entries"]} == set(targets)


@given(TARGETS)
def test_redactions_read_back(targets):
    found = {}
    for data in redaction.data_of(targets):
        found |= redaction.erased(Event(workload="w", kind="log.redacted", time_ns=0, actor="operator", data=data))
    assert found == targets


def test_many_workloads_many_files_of_openings(places, monkeypatch):
    monkeypatch.setattr(sequencer, "RECYCLE_BYTES", 2000)
    with custody.alone(places) as mine:
        for number in range(0, 2400, 100):
            mine._record.commit(
                *(event(n, workload=f"w{n % 3}", kind="violation", path=f"/secret/{n}", argv=["x"]) for n in range(number, number + 100))
            )
            mine._publish()
    redact(places, workload="w1")
    text = b"".join((places.ledger / f".state/openings/{number}").read_bytes() for number in range(3))
    assert all((f'"/secret/{n}"'.encode() in text) == (n % 3 != 1) for n in range(2400))
    assert problems(places) == []


def test_the_slots_that_are_left_tell_no_more_than_a_length_in_blocks():
    for value in ("a", "b" * 20, "c" * 28):
        _, made = private.seal({"path": value}, os.urandom(32))
        slot = next(private.slots(made))
        blank = made[: slot.at] + bytes(slot.length)
        assert (len(made), private.opening(slot, blank)) == (3 + 4 + 64, None)


def test_the_plain_forms_say_no_value(places):
    found = json.dumps(custody.plan(places, Selection(indexes=frozenset({1}))).plain())
    assert "hunter2" not in found
    assert msgspec.json.decode(found)["fields"] == 2


def test_a_listing_without_the_openings_says_so(places):
    place(places, incident="shop-i1")
    for path in (places.ledger / ".state/openings").iterdir():
        path.unlink()
    (row,) = custody.listing(places, ended=False)
    assert (row["reason"], row["person"]) == ("", "")
    assert "closed" in run(places, "hold", "list")


def test_redactions_while_others_append(places):
    with custody.alone(places) as mine:

        def work() -> None:
            for number in range(1000):
                mine._record.commit(event(number, workload="busy", kind="violation", path=f"/busy/{number}", argv=["x"]))

        thread = threading.Thread(target=work)
        thread.start()
        for index in (1, 3, 4):
            mine.redact(Selection(indexes=frozenset({index})), "r", "bob")
        thread.join()
    assert holding(places, SECRET) == set()
    assert problems(places) == []
    busy = [entry for entry in shown(places).values() if entry.event.workload == "busy"]
    assert len(busy) == 1000
    assert all(not private.closed(entry) for entry in busy)


def test_a_rebuilt_projection_is_whole_also_where_an_opening_would_leave_it_for_later(places, monkeypatch):
    monkeypatch.setattr(sequencer, "PROJECTED_AT_ONCE", 0)
    assert reading.rebuild(places) == len(rows(places.ledger)) > 5
