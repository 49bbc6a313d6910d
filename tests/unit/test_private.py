"""Private fields: commitments that hide and bind, openings that are kept apart, survive what the ledger survives, and come back."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.ledger import openings, sequencer, wal
from stele.ledger.openings import Openings, Writer
from stele.ledger.reader import LedgerReader
from stele.model import private
from stele.model.event import KINDS, Entry, Event, decode_entry
from stele.trust import canonical
from stele.trust.errors import SteleError
from tests.ledgers import SIGNER, START, Clock, event, opened, quiet

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "sealed.json").read_text("utf-8"))
LEDGER = json.loads((Path(__file__).parents[1] / "vectors" / "ledger.json").read_text("utf-8"))
TRUSTED = [SIGNER.verifier]
VALUES = st.recursive(st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.text(max_size=80), lambda inner: (
    st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
), max_leaves=8)  # fmt: skip
FIELDS = st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,63}", fullmatch=True), VALUES, max_size=5)


def seen(number: int = 0, **more) -> Event:
    return event(number, kind="violation", path="/home/alice/x", argv=["x", "--password=hunter2"], pid=7, **more)


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["why"] for vector in VECTORS])
def test_the_vectors(vector):
    entry = Entry(event=event(), seq=0, prev="", sealed={vector["field"]: vector["commitment"]})
    assert private.check_opening(entry, vector["field"], bytes.fromhex(vector["salt"]), vector["value"]) is vector["fits"]


def test_the_openings_of_the_vector_ledger():
    entries = [decode_entry(text.encode()) for text in LEDGER["entries"]]
    assert [item["field"] for item in LEDGER["openings"]] == ["argv", "path"]
    for item in LEDGER["openings"]:
        assert private.check_opening(entries[item["index"]], item["field"], bytes.fromhex(item["salt"]), item["value"])


def test_the_example_of_the_spec():
    spec = (Path(__file__).parents[2] / "docs" / "spec" / "sealed.md").read_text("utf-8")
    assert f"`{private.commitment('path', bytes(range(32)), '/tmp/x')}`" in spec


def test_the_table_is_the_one_of_the_spec():
    text = (Path(__file__).parents[2] / "docs" / "spec" / "event.md").read_text("utf-8")
    said: dict[str, frozenset[str]] = {}
    for line in text.partition("| kind | data |")[2].partition("\n\n")[0].splitlines():
        if line.startswith("| `"):
            fields = frozenset(re.findall(r"\*`([a-z_]+)`\*", line))
            said |= {kind: fields for kind in re.findall(r"`([a-z.]+)`", line.split("|")[1]) if fields}
    assert said == private.PRIVATE
    assert set(private.PRIVATE) <= set(KINDS)


@given(FIELDS, st.binary(min_size=200, max_size=200))
def test_sealed_values_open_again_and_nothing_else_does(fields, seed):
    salts = b"".join(hashlib.sha256(seed + name.encode()).digest() for name in sorted(fields))
    sealed, slots = private.seal(fields, salts)
    entry = Entry(event=event(), seq=0, prev="", sealed=sealed)
    found = private.opened(entry, slots)
    assert {name: item.value for name, item in found.items()} == fields
    assert decode_entry(entry.encode()).sealed == sealed
    for item in found.values():
        assert not private.check_opening(entry, item.field, item.salt[:31] + bytes([item.salt[31] ^ 1]), item.value)
        assert not private.check_opening(entry, item.field, item.salt, [item.value])
        assert not private.check_opening(entry, item.field + "x", item.salt, item.value)
    assert len({*sealed.values()}) == len(sealed)


@given(st.binary(max_size=400))
def test_no_bytes_but_those_that_were_sealed_are_taken_for_openings(data):
    entry = Entry(event=event(), seq=0, prev="", sealed={"path": "0" * 64})
    assert private.opened(entry, data) == {}
    assert list(openings._records(data)) == [] or data.startswith(openings.MAGIC)


@given(FIELDS.filter(bool), st.data())
def test_a_changed_bit_of_the_openings_opens_no_other_value(fields, data):
    sealed, slots = private.seal(fields, os.urandom(32 * len(fields)))
    at = data.draw(st.integers(0, len(slots) * 8 - 1))
    changed = bytearray(slots)
    changed[at // 8] ^= 1 << at % 8
    entry = Entry(event=event(), seq=0, prev="", sealed=sealed)
    assert all(fields[name] == item.value for name, item in private.opened(entry, bytes(changed)).items())


def test_a_swapped_opening_fits_neither_the_other_field_nor_the_other_entry():
    one = {"path": "/tmp/x", "exe": "/tmp/x"}
    made = [private.seal(one, os.urandom(64)) for _ in range(2)]
    first, second = (Entry(event=event(), seq=0, prev="", sealed=sealed) for sealed, _ in made)
    found = private.opened(first, made[0][1])
    assert set(found) == {"path", "exe"}
    assert private.opened(first, made[1][1]) == {} == private.opened(second, made[0][1])
    assert not private.check_opening(first, "exe", found["path"].salt, "/tmp/x")
    assert len({*first.sealed.values(), *second.sealed.values()}) == 4, "equal values must not be seen to be equal"


def test_a_low_entropy_value_is_not_found_by_trying_all_without_the_salt():
    """Whoever tries all PINs needs the salt for each try; without it no guess is better than another."""
    sealed, slots = private.seal({"reason": "4711"}, os.urandom(32))
    entry = Entry(event=event(), seq=0, prev="", sealed=sealed)
    guesses = [(bytes(32), f"{pin:04}") for pin in range(10_000)]
    assert not any(private.check_opening(entry, "reason", salt, pin) for salt, pin in guesses)
    salt = private.opened(entry, slots)["reason"].salt
    assert [pin for _, pin in guesses if private.check_opening(entry, "reason", salt, pin)] == ["4711"]
    bare = hashlib.sha256(canonical.encode("4711")).hexdigest()
    assert bare not in sealed.values()


@pytest.mark.parametrize("kind", sorted(private.PRIVATE))
def test_a_private_field_in_clear_is_refused_by_the_ledger(tmp_path, kind):
    with opened(tmp_path / "ledger") as ledger:
        for name in [*private.PRIVATE[kind], private.PERSON]:
            with pytest.raises(SteleError) as raised:
                ledger.append([Event(workload="w", kind=kind, time_ns=START, actor="agent", data={name: "x"})])
            assert raised.value.code == "ledger.bad-entry"
        with pytest.raises(SteleError):
            ledger.append([Event(workload="w", kind="heartbeat", time_ns=START, actor="agent", data={"person": "x"})])
        assert ledger.size == 0


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ({"path": 1.5}, "trust.not-canonical"), ({"Path": ""}, "ledger.bad-entry"), ({"": ""}, "ledger.bad-entry"),
        ({"pid": 1}, "ledger.bad-entry"), ({"argv": ["x" * 65_530]}, "ledger.entry-too-large"),
    ],
)  # fmt: skip
def test_what_cannot_be_sealed_is_refused_alone(tmp_path, bad, code):
    with opened(tmp_path / "ledger") as ledger:
        with pytest.raises(SteleError) as raised:
            ledger.append([msgspec.structs.replace(event(kind="violation", pid=7), private=bad)])
        assert raised.value.code == code
        assert ledger.append([seen()])[0].at == 0


def test_private_values_are_nowhere_but_in_the_openings(tmp_path):
    folder = tmp_path / "ledger"
    with opened(folder) as ledger:
        ledger.append([seen(), event(1), seen(2)])
        ledger.publish()
        assert holding(folder, b"hunter2") == {".state/wal.0", ".state/openings/0"}
    assert stat.S_IMODE((folder / ".state/openings/0").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / ".state/openings").stat().st_mode) == 0o700
    reader, kept = LedgerReader(folder), Openings(folder)
    found = [kept.open(index, entry).event.facts() for index, entry in reader.entries("shop")]
    assert [facts.get("argv") for facts in found] == [["x", "--password=hunter2"], None, ["x", "--password=hunter2"]]
    assert reader.check(TRUSTED) == []


def holding(folder: Path, text: bytes) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()}


def test_without_the_openings_the_ledger_is_whole_and_the_fields_are_closed(tmp_path):
    folder = tmp_path / "ledger"
    with opened(folder) as ledger:
        ledger.append([seen()])
    (folder / ".state/openings/0").unlink()
    reader = LedgerReader(folder)
    entry = next(entry for _, entry in reader.entries("shop"))
    assert private.closed(Openings(folder).open(0, entry)) == ["argv", "path"]
    assert reader.check(TRUSTED) == []


def test_openings_come_back_from_the_write_ahead_log(tmp_path, monkeypatch):
    """Not published yet, or torn by a power cut: the openings were committed with their entries."""
    folder = tmp_path / "ledger"
    ledger = quiet(folder, monkeypatch)
    ledger.append([seen(0), seen(1)])
    ledger.publish()
    ledger.append([seen(2), event(3)])
    ledger._lock.release()  # as if it was killed
    path = folder / ".state/openings/0"
    whole = path.read_bytes()
    for torn in (b"", whole[:40], bytes(len(whole)), whole[:-30] + bytes(30), whole + b"rest"):
        path.write_bytes(torn)
        with opened(folder) as again:
            again.publish()
        kept = Openings(folder)
        found = [kept.open(index, entry).event.private for index, entry in LedgerReader(folder).entries("shop")]
        assert [bool(item) for item in found] == [True, True, True, False]
        assert path.read_bytes().startswith(whole[:-30])


def test_openings_survive_that_the_write_ahead_log_begins_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(sequencer, "RECYCLE_BYTES", 1000)
    folder = tmp_path / "ledger"
    with contextlib_quiet(folder, monkeypatch) as ledger:
        for number in range(1500):
            ledger.append([seen(number)])
            if number % 200 == 7:
                ledger.append([seen(number)])
                ledger.publish()
        assert ledger._wal.base > 0
    with opened(folder):
        pass
    kept = Openings(folder)
    assert all(not private.closed(kept.open(index, entry)) for index, entry in LedgerReader(folder).entries("shop"))
    assert sorted(path.name for path in (folder / ".state/openings").iterdir()) == ["0", "1"]


def contextlib_quiet(folder, monkeypatch):
    import contextlib

    return contextlib.closing(quiet(folder, monkeypatch))


def test_openings_of_a_commit_that_recycling_carries_over(tmp_path):
    log = wal.Wal(state(tmp_path))
    log.append([b"one", b"two"], {1: b"opening of two"})
    log.append([b"three"], {0: b"opening of three"})
    log.recycle(2, [b"three"], {0: b"opening of three"})
    log.append([b"four", b"five"], {1: b"opening of five"})
    log.close()
    again = wal.Wal(tmp_path)
    assert (again.base, again.recovered, again.openings) == (
        2, [b"three", b"four", b"five"], {2: b"opening of three", 4: b"opening of five"},
    )  # fmt: skip
    again.close()


def state(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def test_scrubbing_leaves_nothing_of_either_file(tmp_path):
    log = wal.Wal(state(tmp_path))
    for generation in range(3):
        log.append([f"entry {generation}".encode()], {0: b"SECRET"})
        log.recycle(generation + 1, [])
    log.append([b"last"], {0: b"SECRET"})
    log.recycle(4, [b"kept"], {0: b"carried over"}, scrub=True)
    log.close()
    assert holding(tmp_path, b"SECRET") == set()
    again = wal.Wal(tmp_path)
    assert (again.base, again.recovered, again.openings) == (4, [b"kept"], {4: b"carried over"})
    again.close()


def test_a_scrubbing_that_was_cut_off_is_finished_at_opening(tmp_path, monkeypatch):
    log = wal.Wal(state(tmp_path))
    log.append([b"one"], {0: b"SECRET"})
    monkeypatch.setattr(log, "_scrub_other", lambda: None)  # killed once the new file counts
    log.recycle(1, [b"two"], scrub=True)
    log.close()
    assert holding(tmp_path, b"SECRET") == {"wal.0"}
    again = wal.Wal(tmp_path)
    assert (again.base, again.recovered) == (1, [b"two"])
    assert holding(tmp_path, b"SECRET") == set()
    assert again._scrub is False
    again.close()


def test_writing_again_from_an_index_on_replaces_what_was_there(tmp_path):
    slots = [private.seal({"path": f"/p{number}"}, os.urandom(32))[1] for number in range(6)]
    writer = Writer(tmp_path)
    writer.put([(1, slots[0]), (5, slots[1]), (1023, slots[2]), (1024, slots[3])])
    writer.put([(1030, slots[4])])
    Writer(tmp_path).put([(5, slots[5])])
    data = (tmp_path / ".state/openings/0").read_bytes()
    assert [(index, data[at : at + length]) for index, at, length in openings._records(data)] == [(1, slots[0]), (5, slots[5])]
    data = (tmp_path / ".state/openings/1").read_bytes()
    assert [index for index, _, _ in openings._records(data)] == [1024, 1030]


def test_two_ledgers_of_the_same_events_commit_differently(tmp_path):
    found = []
    for name in ("one", "two"):
        with opened(tmp_path / name, clock=Clock()) as ledger:
            found.append(ledger.append([seen()])[0].entry.sealed)
    assert not {*found[0].values()} & {*found[1].values()}
