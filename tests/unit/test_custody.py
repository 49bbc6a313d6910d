"""Holds and redactions: what is erased is gone, what is held stays, all of it is on record, and no proof changes."""

from __future__ import annotations

import json
import os
import threading

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from stele.cli.app import cli
from stele.flow import custody, initialise, reading
from stele.flow.places import Places
from stele.ledger import openings, sequencer
from stele.ledger.openings import Openings
from stele.ledger.reader import LedgerReader
from stele.model import hold, private, redaction
from stele.model.event import Entry, Event, decode_entry
from stele.model.hold import On
from stele.model.redaction import Selection
from stele.respond import decide
from stele.trust import merkle, trust_keys
from stele.trust.errors import SteleError
from tests.ledgers import START, event, rows
from tests.refusals import code

RELEASE, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
SECRET = b"hunter2"


@pytest.fixture
def places(tmp_path) -> Places:
    made = Places(tmp_path / "data")
    initialise.make_keys(made)
    with custody.alone(made) as mine:
        mine._record.commit(
            event(0, kind="instance.starting", instance="shop-1", release=RELEASE),
            event(
                1, kind="violation", instance="shop-1", release=RELEASE, incident="shop-i1", path="/home/alice", argv=["--key", "hunter2"]
            ),
            event(2, kind="instance.frozen", instance="shop-1", release=RELEASE, incident="shop-i1"),
            event(3, kind="evidence.accessed", incident="shop-i1", how="hunter2"),
            event(4, workload="other", kind="instance.failed", instance="other-1", release=OTHER, reason="hunter2 is wrong"),
            event(5, kind="heartbeat", workload=""),
        )
    return made


def redact(places: Places, reason: str = "a password", **selection) -> dict:
    if "indexes" in selection:
        selection["indexes"] = frozenset(selection["indexes"])
    with custody.alone(places) as mine:
        return mine.redact(Selection(**selection), reason, "bob as root")


def place(places: Places, **on) -> str:
    with custody.alone(places) as mine:
        return mine.place(On(**on), "case 17", "carol")["hold"]


def end(places: Places, name: str) -> None:
    with custody.alone(places) as mine:
        mine.release(name, "case closed", "carol")


def shown(places: Places) -> dict[int, Entry]:
    return dict(reading.entries(places))


def holding(places: Places, text: bytes) -> set[str]:
    return {str(path.relative_to(places.data)) for path in places.data.rglob("*") if path.is_file() and text in path.read_bytes()}


def problems(places: Places) -> list[str]:
    return reading.check(places, None, None)["problems"]


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


# ---- holds -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on", "held"),
    [
        ({"workload": "shop"}, {1, 3}), ({"release": RELEASE}, {1, 3}), ({"incident": "shop-i1"}, {1, 3}), ({"entries": (3, 4)}, {3, 4}),
        ({"release": OTHER}, {4}), ({"workload": "other"}, {4}), ({"entries": (0, 2**40)}, {1, 3, 4}), ({"incident": "shop-i2"}, set()),
    ],
)  # fmt: skip
def test_a_hold_blocks_the_redaction_of_what_it_is_on_and_of_nothing_else(places, on, held):
    place(places, **on)
    size = LedgerReader(places.ledger).size
    for index in sorted(held):
        assert code(redact, places, indexes={index}) == "hold.forbids"
    assert LedgerReader(places.ledger).size == size
    for index in sorted({1, 3, 4} - held):
        redact(places, indexes={index})
    assert problems(places) == []


def test_one_held_entry_blocks_the_whole_selection(places):
    place(places, incident="shop-i1")
    assert code(redact, places, fields=("reason", "how"), kind="evidence") == "hold.forbids"
    assert code(redact, places, indexes={1, 4}) == "hold.forbids"
    assert b"hunter2 is wrong" in (places.ledger / ".state/openings/0").read_bytes()


def test_a_hold_says_who_and_why_and_ends_only_by_an_entry(places):
    name = place(places, incident="shop-i1")
    (row,) = custody.listing(places, ended=False)
    assert (row["hold"], row["on"], row["person"], row["reason"]) == (name, {"incident": "shop-i1"}, "carol", "case 17")
    entry = shown(places)[row["index"]]
    assert (entry.event.workload, set(entry.event.data)) == ("", {"hold", "on"}), "who and why are not in clear"
    end(places, name)
    assert custody.listing(places, ended=False) == []
    (row,) = custody.listing(places, ended=True)
    assert (row["released"]["person"], row["released"]["reason"]) == ("carol", "case closed")
    assert code(end, places, name) == "hold.unknown"
    assert code(end, places, "hold-000000") == "hold.unknown"


def test_release_then_redact_works_and_is_visible(places):
    name = place(places, incident="shop-i1")
    end(places, name)
    redact(places, indexes={1})
    kinds = [entry.event.kind for entry in shown(places).values() if entry.event.kind.startswith(("hold.", "log."))]
    assert kinds == ["hold.placed", "hold.released", "log.redacted"]
    assert problems(places) == []


def test_two_holds_must_both_end(places):
    one, two = place(places, incident="shop-i1"), place(places, workload="shop")
    end(places, one)
    assert code(redact, places, indexes={1}) == "hold.forbids"
    end(places, two)
    redact(places, indexes={1})


def test_the_reason_of_a_hold_is_kept_by_a_hold_on_its_entry(places):
    place(places, incident="shop-i1")
    index = next(index for index, entry in shown(places).items() if entry.event.kind == "hold.placed")
    place(places, entries=(index, index))
    assert code(redact, places, indexes={index}) == "hold.forbids"


def test_deleting_the_projection_does_not_lift_a_hold(places):
    """Only the ledger says what stands."""
    place(places, incident="shop-i1")
    for path in places.ledger.glob("projection.sqlite*"):
        path.unlink()
    assert code(redact, places, indexes={1}) == "hold.forbids"


@pytest.mark.parametrize("on", [{"incident": "shop-i1"}, {"workload": "shop"}, {"release": RELEASE}, {"entries": (2, 2)}])
def test_evidence_and_frozen_instances_under_a_hold_must_be_kept(places, on):
    place(places, **on)
    with custody.alone(places) as mine:
        assert set(mine.held(["shop-i1", "shop-i2", "other-i1"])) == {"shop-i1"}
        assert set(mine.held([RELEASE, OTHER])) == {RELEASE}
        assert code(mine.keep, "the frozen instance", "shop-i1") == "hold.forbids"
        mine.keep("the frozen instance", "shop-i2")


def test_held_evidence_is_not_evicted_for_the_budget():
    kept = [decide.Kept(incident=f"i{number}", kind="violation", time_ns=number, size=10) for number in range(5)]
    assert decide.evict(kept, 30) == ("i1", "i2")
    assert decide.evict(kept, 30, frozenset({"i1"})) == ("i2", "i3")
    assert decide.evict(kept, 0, frozenset({"i1", "i2", "i3"})) == ()


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
    assert problems(places) == [f"argv of entry 1 can still be opened, though entry {at} redacts it",
                                f"path of entry 1 can still be opened, though entry {at} redacts it"]  # fmt: skip


# ---- recorded first, finished whatever happens -------------------------------------------------


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


JSON = st.recursive(st.none() | st.booleans() | st.integers(-3, 5) | st.sampled_from(["argv", "", "A", "path"]), lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["entries", "fields", "erased", "hold", "on", "workload", "release"]), inner, max_size=3)
), max_leaves=12)  # fmt: skip
TARGETS = st.dictionaries(
    st.integers(0, 50), st.sets(st.sampled_from(["argv", "path", "exe"]), min_size=1).map(lambda found: tuple(sorted(found))), min_size=1
)


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


@given(JSON, JSON)
def test_only_holds_of_the_four_forms_are_read(on, name):
    try:
        found = hold.on_from(on)
    except SteleError as error:
        assert error.code in {"hold.malformed", "trust.bad-digest"}
    else:
        assert found.plain() == on
    standing = hold.Standing()
    placed = Event(workload="", kind="hold.placed", time_ns=0, actor="operator", data={"hold": name, "on": on})
    standing.take(0, Entry(event=placed, seq=0, prev=""))
    assert standing.holds == {}, "no id of the right form was drawn"


def placed(name: str, on: On | None = None, workload: str = "", **more) -> Entry:
    on = on or On(workload="w")
    made = Event(workload=workload, kind="hold.placed", time_ns=1, actor="operator", data={"hold": name, "on": on.plain(), **more})
    return Entry(event=made, seq=0, prev="")


def ended(name: str) -> Entry:
    return Entry(event=Event(workload="", kind="hold.released", time_ns=2, actor="operator", data={"hold": name}), seq=0, prev="")


def test_a_hold_that_is_malformed_or_comes_again_means_nothing():
    standing = hold.Standing()
    one, two = "hold-aaaaaa", "hold-bbbbbb"
    steps = [placed(one), placed(one, On(workload="x")), placed("hold-1"), placed(two, workload="shop"), placed(two, extra=1), ended(two)]
    for index, entry in enumerate(steps):
        standing.take(index, entry)
    assert {name: found.on.workload for name, found in standing.holds.items()} == {one: "w"}
    standing.take(9, ended(one))
    standing.take(10, placed(one))
    assert standing.holds == {}, "an id is never used again"


def test_a_release_hold_covers_no_other_release_that_was_named_with_it():
    coverage = hold.Coverage([hold.Hold(id="hold-aaaaaa", on=On(release=RELEASE), placed_at=0, time_ns=0)])

    def covered(kind: str, **data) -> bool:
        return bool(coverage.take(0, Entry(event=Event(workload="w", kind=kind, time_ns=0, actor="agent", data=data), seq=0, prev="")))

    assert covered("instance.starting", instance="one", release=RELEASE)
    assert covered("deploy.started", release=OTHER, previous=RELEASE)
    assert not covered("instance.starting", instance="two", release=OTHER)
    assert covered("network.cut", instance="one", incident="i")
    assert not covered("network.cut", instance="two")


# ---- the command line --------------------------------------------------------------------------


def run(places: Places, *argv: str, status: int = 0) -> str:
    made = CliRunner().invoke(cli, ["--data", str(places.data), *argv])
    if isinstance(made.exception, SteleError):
        assert status, made.exception
        return made.exception.code
    assert made.exit_code == status, made.output
    return made.stdout


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
    assert "redacted" in run(places, "hold", "list")


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
