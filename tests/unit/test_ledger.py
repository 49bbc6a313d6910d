"""The ledger as its users meet it: commit, publish, reopen, many threads, tile boundaries, a cache that may break."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from stele.ledger import mapfile, projection, tiles, wal
from stele.ledger.group import MAX_BATCH
from stele.ledger.reader import LedgerReader, workloads
from stele.ledger.sequencer import Ledger
from stele.model.event import Event, decode_entry
from stele.trust import merkle, note
from stele.trust.errors import SteleError
from tests.ledgers import OTHER, SIGNER, Clock, event, opened, quiet
from tests.refusals import code

TRUSTED = SIGNER.verifiers
VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "ledger.json").read_text())


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "ledger"


def test_the_vector(tmp_path):
    """Another implementation can check itself against this file; so do we."""
    trusted = [note.parse_vkey(text) for text in VECTOR["vkeys"]]
    head = note.open_checkpoint(VECTOR["checkpoint"].encode(), trusted)
    raws = [text.encode() for text in VECTOR["entries"]]
    hashes = [merkle.leaf_hash(raw) for raw in raws]
    assert [item.hex() for item in hashes] == VECTOR["leaf_hashes"]
    assert merkle.root(hashes) == head.root
    path = [bytes.fromhex(text) for text in VECTOR["inclusion_of_3"]]
    assert merkle.root_from_inclusion(3, head.size, hashes[3], path) == head.root
    steps = [bytes.fromhex(text) for text in VECTOR["consistency_from_5"]]
    assert merkle.is_consistent(5, head.size, merkle.root(hashes[:5]), head.root, steps)
    assert decode_entry(raws[-1]).event.data == VECTOR["epoch"]


def test_what_is_committed_is_there_after_reopening(folder, monkeypatch):
    ledger = quiet(folder, monkeypatch)
    first, second = ledger.append([event(1), event(2, workload="other")])
    assert (first.at, first.entry.seq, second.at, second.entry.seq) == (0, 0, 1, 0)
    assert (ledger.size, ledger.published) == (2, 0)
    assert code(LedgerReader, folder) == "ledger.none"
    assert ledger.publish() == 3  # and the epoch
    assert ledger.publish() == 3
    ledger.append([event(3)])
    ledger.close()
    with opened(folder) as ledger:
        assert ledger.size == ledger.published == 5
        assert ledger.append([event(4)])[0].entry.seq == 2
    reader = LedgerReader(folder)
    assert [entry.event.data["number"] for _, entry in reader.entries("shop")] == [1, 3, 4]
    assert reader.check(TRUSTED) == []
    assert workloads([entry for _, entry in reader.entries()]) == ("other", "shop")


def test_committed_entries_are_published_by_themselves(folder):
    with opened(folder) as ledger:
        ledger.append([event(1)])
        while ledger.published < 2:  # the thread publishes; a hang is ended by the time limit of tests
            time.sleep(0.01)
        assert LedgerReader(folder).size == 2


def test_much_is_written_ahead_of_publishing_and_holds_after_a_kill(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("stele.ledger.sequencer.AHEAD_TILES", 4)
    ledger = quiet(folder, monkeypatch)
    ledger.append([event(number, workload=f"w{number % 7}") for number in range(600)])
    while not (folder / tiles.tile_path(0, 1, tiles.WIDTH)).exists() or len(rows(folder)) < 600:
        time.sleep(0.01)
    assert ledger.published == 0
    shutil.copytree(folder, tmp_path / "killed")
    assert ledger.publish() == 601
    ledger.close()
    for each in (folder, tmp_path / "killed"):
        with opened(each):
            pass
        assert LedgerReader(each).check(TRUSTED) == []
        assert [row[0] for row in rows(each)] == list(range(601))


def test_what_is_in_the_way_of_writing_ahead_stops_publishing(folder, monkeypatch):
    monkeypatch.setattr("stele.ledger.sequencer.AHEAD_TILES", 1)
    ledger = quiet(folder, monkeypatch)
    name = folder / tiles.bundle_path(0, tiles.WIDTH)
    name.parent.mkdir(parents=True)
    name.write_bytes(tiles.pack_bundle([b"other"] * tiles.WIDTH))
    ledger.append([event(number) for number in range(300)])
    while not (folder / tiles.tile_path(0, 0, tiles.WIDTH)).exists():
        time.sleep(0.01)
    assert code(ledger.publish) == "ledger.damaged"
    assert code(ledger.append, [event(300)]) == "ledger.damaged"
    assert ledger.published == 0
    ledger.close()


def test_two_sequencers_are_refused(folder):
    with opened(folder):
        assert code(Ledger.open, folder, signer=SIGNER, clock=Clock()) == "ledger.locked"
    with opened(folder):
        pass


def test_another_key_cannot_go_on_with_a_ledger(folder):
    with opened(folder) as ledger:
        ledger.append([event(1)])
    assert code(Ledger.open, folder, signer=OTHER, clock=Clock()) == "trust.unknown-signer"
    with opened(folder):
        pass  # and it holds no lock after that


def test_a_closed_ledger_refuses_and_closes_again_quietly(folder):
    with opened(folder) as ledger:
        ledger.append([event(1)])
    ledger.close()
    assert code(ledger.append, [event(2)]) == "ledger.closed"
    assert ledger.publish() == 2
    with opened(folder) as again:
        assert again.size == 2


def test_sixteen_threads_share_batches_and_every_chain_is_whole(folder):
    problems: list[BaseException] = []
    places: list[int] = []

    def work(mine: str) -> None:
        try:
            for number in range(60):
                made = ledger.append([event(number, workload=mine), event(number, workload="shared", by=mine, number=number)])
                places.extend(item.at for item in made)
        except BaseException as error:
            problems.append(error)

    with opened(folder) as ledger:
        threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not problems
    assert len(set(places)) == 16 * 120
    reader = LedgerReader(folder)
    assert reader.check(TRUSTED) == []
    found = dict(reader.entries())
    assert all(found[place].event.kind == "instance.healthy" for place in places)
    for number in range(16):
        mine = [entry.event.data["number"] for entry in found.values() if entry.event.workload == f"w{number}"]
        assert mine == list(range(60))
        shared = [entry.event.data["number"] for entry in found.values() if entry.event.data.get("by") == f"w{number}"]
        assert shared == list(range(60))


def test_nobody_is_left_waiting_when_more_is_queued_than_a_batch_holds(folder):
    sizes = [MAX_BATCH - 1, MAX_BATCH, 3, MAX_BATCH + 1, 1, 0]
    done: dict[int, int] = {}
    with opened(folder) as ledger:
        with ledger._group.leading():  # as if a flush ran: everybody queues
            threads = [
                threading.Thread(target=lambda n: done.update({n: len(ledger.append([event(i) for i in range(sizes[n])]))}), args=(number,))
                for number in range(len(sizes))
            ]
            for thread in threads:
                thread.start()
            while len(ledger._group._queue) < len(sizes):
                time.sleep(0.001)
        for thread in threads:
            thread.join()
    assert done == dict(enumerate(sizes))
    assert LedgerReader(folder).check(TRUSTED) == []


def test_a_bad_event_is_refused_alone(folder):
    bad = {
        "ledger.entry-too-large": event(text="x" * 70_000),
        "trust.not-canonical": event(value=1.5),
        "ledger.bad-entry": Event(workload="shop", kind="no.such", time_ns=1, actor=""),
    }
    outcomes: dict[str, object] = {}

    def work(name: str, events: list[Event]) -> None:
        try:
            outcomes[name] = len(ledger.append(events))
        except SteleError as error:
            outcomes[name] = error.code

    with opened(folder) as ledger:
        with ledger._group.leading():
            threads = [threading.Thread(target=work, args=(name, [event(1), item, event(2)])) for name, item in bad.items()]
            threads.insert(1, threading.Thread(target=work, args=("good", [event(3), event(4)])))
            for thread in threads:
                thread.start()
            while len(ledger._group._queue) < 4:
                time.sleep(0.001)
        for thread in threads:
            thread.join()
        with pytest.raises(TypeError):
            ledger.append([Event(workload=["x"], kind="violation", time_ns=1, actor="")])  # type: ignore[arg-type]
        assert ledger.append([event(5)])[0].entry.seq == 2
    assert outcomes == {**{name: name for name in bad}, "good": 2}
    assert [entry.event.data["number"] for _, entry in LedgerReader(folder).entries("shop")] == [3, 4, 5]


def test_the_largest_entry_fits(folder):
    with opened(folder) as ledger:
        size = len(ledger.append([event(text="")])[0].entry.encode())
        raw = ledger.append([event(text="x" * (65_535 - size - 71))])[0].entry.encode()  # the second has a `prev` of 71 bytes
        assert len(raw) == 65_535
        assert code(ledger.append, [event(text="x" * (65_536 - size - 71))]) == "ledger.entry-too-large"
    assert LedgerReader(folder).check(TRUSTED) == []


# ---- tiles -----------------------------------------------------------------------------------------


def test_every_size_around_the_first_tile_boundary(folder, monkeypatch):
    ledger = quiet(folder, monkeypatch)
    ledger.append([event(number) for number in range(250)])
    for _ in range(8):
        size = ledger.publish()
        reader = LedgerReader(folder)
        assert reader.size == size
        assert reader.check(TRUSTED) == []
        hashes = [merkle.leaf_hash(raw) for raw in reader.raw_entries(0, size)]
        for index in (0, 128, 249, size - 1):
            assert merkle.root_from_inclusion(index, size, hashes[index], reader.inclusion(index)) == reader.checkpoint.root
        assert merkle.is_consistent(200, size, merkle.root(hashes[:200]), reader.checkpoint.root, reader.consistency(200))
        ledger.append([event(size)])
    ledger.close()
    assert (folder / "tile/0/000").stat().st_size == 8192


def test_beyond_65536_entries(folder, monkeypatch):
    """Level 2 tiles, and that a reader of the older checkpoint is not disturbed by the newer one."""
    ledger = quiet(folder, monkeypatch)
    for _ in range(16):
        ledger.append([event(number, kind="violation") for number in range(4095)])
    assert ledger.publish() == 65521
    before = LedgerReader(folder)
    ledger.append([event(number, kind="violation") for number in range(14)])
    assert ledger.publish() == 65536
    at_boundary = LedgerReader(folder)
    ledger.append([event(number, kind="violation") for number in range(300)])
    assert ledger.publish() == 65837
    after = LedgerReader(folder)
    for reader in (before, at_boundary, after):
        raws = list(reader.raw_entries(65000, reader.size))
        for index in (65000, reader.size - 1):
            leaf = merkle.leaf_hash(raws[index - 65000])
            assert merkle.root_from_inclusion(index, reader.size, leaf, reader.inclusion(index)) == reader.checkpoint.root
    steps = after.consistency(before.size)
    assert merkle.is_consistent(before.size, after.size, before.checkpoint.root, after.checkpoint.root, steps)
    assert after.check(TRUSTED) == []
    ledger.close()
    assert (folder / "tile/1/000").stat().st_size == 8192
    assert (folder / "tile/2/000.p/1").stat().st_size == 32
    assert wal.Wal(folder / ".state").base > 0  # it was recycled on the way
    with opened(folder) as ledger:
        assert ledger.size == 65837


def test_partial_tiles_do_not_pile_up(folder, monkeypatch):
    ledger = quiet(folder, monkeypatch)
    for number in range(40):
        ledger.append([event(number)])
        ledger.publish()
    names = sorted(int(path.name) for path in (folder / "tile/entries/000.p").iterdir())
    assert names == [78, 80]  # of this checkpoint and of the one before it, for whoever is reading that
    ledger.close()
    with opened(folder):
        assert [path.name for path in (folder / "tile/entries/000.p").iterdir()] == ["80"]
    assert LedgerReader(folder).check(TRUSTED) == []


def test_numbers_of_tiles():
    assert tiles.tile_path(0, 1234067, 256) == "tile/0/x001/x234/067"
    assert tiles.tile_path(3, 5, 7) == "tile/3/005.p/7"
    assert tiles.bundle_path(999, 256) == "tile/entries/999"
    assert tiles.bundle_path(1000, 255) == "tile/entries/x001/000.p/255"
    assert [tiles.widths(70_000, level) for level in range(3)] == [(273, 112), (1, 17), (0, 1)]


def test_bundles_read_back_or_are_refused():
    entries = [b"a", b"", b"x" * 65535]
    data = tiles.pack_bundle(entries)
    assert tiles.unpack_bundle(data) == entries
    for cut in (1, 2, 4, 6, 100, len(data) - 1):
        assert code(tiles.unpack_bundle, data[:cut]) == "ledger.damaged"


# ---- the write-ahead log -----------------------------------------------------------------------------


def state(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def entries_of(folder: Path) -> list[bytes]:
    again = wal.Wal(folder)
    again.close()
    return again.recovered


def test_the_wal_ends_at_the_first_byte_that_does_not_fit(folder):
    log = wal.Wal(state(folder))
    log.append([b"one", b"two"])
    end = log._end
    log.append([b"three"])
    log.close()
    path = folder / "wal.0"
    data = path.read_bytes()
    for at in range(end, end + 8 + 5):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert entries_of(folder) == [b"one", b"two"]
    for cut in range(end, end + 12):
        path.write_bytes(data[:cut])
        assert entries_of(folder) == [b"one", b"two"]
    path.write_bytes(data)
    assert entries_of(folder) == [b"one", b"two", b"three"]


def test_the_far_end_of_a_torn_batch_never_comes_back(folder):
    """A power cut may keep the end of a batch and lose its middle. What is written in its place must not revive the end."""
    log = wal.Wal(state(folder))
    log.append([b"one", b"two", b"six"])
    log.close()
    path = folder / "wal.0"
    data = bytearray(path.read_bytes())
    middle = wal.HEADER.size + 11
    data[middle : middle + 11] = bytes(11)  # "two" never reached the disk
    path.write_bytes(data)
    log = wal.Wal(folder)
    assert log.recovered == [b"one"]
    log.append([b"new"])  # as long as the one that was lost: "six" follows it directly
    log.close()
    assert entries_of(folder) == [b"one", b"new"]


def test_recycling_takes_turns_between_two_files(folder):
    log = wal.Wal(state(folder))
    for generation in range(2, 7):
        log.append([b"old"] * 5)
        log.recycle(generation * 10, [b"kept", b"too"])
        assert (log.generation, log.base) == (generation, generation * 10)
        log.append([b"new"])
        assert entries_of(folder) == [b"kept", b"too", b"new"]
    log.close()
    assert sorted(os.listdir(folder)) == ["wal.0", "wal.1"]


def test_a_recycling_that_was_cut_off_leaves_the_old_file_in_force(folder):
    log = wal.Wal(state(folder))
    log.append([b"one"])
    log.recycle(1, [])
    log.append([b"two"])
    log.close()
    # records of the next generation were written into wal.0, its header was not
    path = folder / "wal.0"
    frames, _ = wal._frames([b"lost"], wal._seed(3, 2))
    data = bytearray(path.read_bytes())
    data[wal.HEADER.size : wal.HEADER.size + len(frames)] = frames
    path.write_bytes(data)
    assert entries_of(folder) == [b"two"]


@pytest.mark.parametrize("at", range(32))
def test_a_damaged_wal_header_is_not_taken_for_an_empty_wal(folder, at):
    log = wal.Wal(state(folder))
    log.append([b"one"])
    log.close()
    path = folder / "wal.0"
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    assert code(wal.Wal, folder) == "ledger.damaged"


def test_a_wal_that_was_killed_while_it_was_made_is_made_again(folder):
    state(folder)
    (folder / "wal.0").write_bytes(bytes(3 << 20))
    log = wal.Wal(folder)
    assert log.is_new
    log.append([b"x"])
    log.close()
    assert entries_of(folder) == [b"x"]


# ---- the projection ----------------------------------------------------------------------------------


def rows(folder: Path) -> list[tuple]:
    db = sqlite3.connect(folder / "projection.sqlite")
    try:
        return db.execute("SELECT idx, workload, seq, kind FROM entries ORDER BY idx").fetchall()
    finally:
        db.close()


def test_the_projection_follows_and_is_rebuilt(folder):
    with opened(folder) as ledger:
        ledger.append([event(1), event(2, workload="other")])
    expected = [(index, entry.event.workload, entry.seq, entry.event.kind) for index, entry in LedgerReader(folder).entries()]
    assert rows(folder) == expected
    projection.remove(folder / "projection.sqlite")
    with opened(folder):
        assert rows(folder) == expected
    (folder / "projection.sqlite").write_bytes(b"not a database at all" * 300)
    with opened(folder):
        assert rows(folder) == expected


def test_a_projection_of_a_longer_ledger_is_thrown_away(folder):
    with opened(folder) as ledger:
        ledger.append([event(1)])
    db = sqlite3.connect(folder / "projection.sqlite", isolation_level=None)
    db.execute("UPDATE applied SET size = 99")
    db.close()
    with opened(folder):
        assert len(rows(folder)) == 2


def test_a_projection_that_breaks_does_not_stop_the_ledger(folder, monkeypatch):
    ledger = quiet(folder, monkeypatch)
    ledger.append([event(1)])
    ledger.publish()
    db = sqlite3.connect(folder / "projection.sqlite", isolation_level=None)
    db.execute("DROP TABLE entries")
    db.close()
    ledger.append([event(2)])
    assert ledger.publish() == 4
    ledger.append([event(3)])
    assert ledger._unprojected == []  # nothing piles up for it
    assert ledger.publish() == 6
    ledger.close()
    assert LedgerReader(folder).check(TRUSTED) == []


def test_texts_that_sqlite_cannot_hold_do_not_stop_it(folder):
    with opened(folder) as ledger:
        ledger.append(
            [event(1, workload="\ud800"), Event(workload="x", kind="violation", time_ns=1, actor="\udfff", data={"\ud800": "\ud800"})]
        )
    assert len(rows(folder)) == 3
    assert LedgerReader(folder).check(TRUSTED) == []


def grown(folder: Path, monkeypatch, count: int = 3000) -> None:
    """A ledger whose write-ahead log was recycled: most entries are only in tiles."""
    monkeypatch.setattr("stele.ledger.sequencer.RECYCLE_BYTES", 4096)
    with opened(folder) as ledger:
        for begin in range(0, count, 100):
            ledger.append([event(number, workload=f"w{number % 37}") for number in range(begin, begin + 100)])
            ledger.publish()


def test_opening_reads_no_more_than_the_write_ahead_log_holds(folder, monkeypatch):
    grown(folder, monkeypatch)
    read = []
    real = tiles.raw_entries
    monkeypatch.setattr(tiles, "raw_entries", lambda root, size, begin, end: read.append(end - begin) or real(root, size, begin, end))
    with opened(folder) as ledger:
        assert sum(read) < 600  # the tail of the last bundle, and the last entry
        (committed,) = ledger.append([event(1, workload="w7")])
        assert committed.entry.seq == len([number for number in range(3000) if number % 37 == 7])
    assert LedgerReader(folder).check(TRUSTED) == []


@pytest.mark.parametrize("harm", ["removed", "cut", "altered", "of another ledger"])
def test_a_map_that_does_not_fit_is_made_again(folder, tmp_path, monkeypatch, harm, caplog):
    grown(folder, monkeypatch)
    roots = folder / "map" / "roots"
    data = roots.read_bytes()
    if harm == "removed":
        roots.unlink()
    elif harm == "cut":
        roots.write_bytes(data[:100])
    elif harm == "altered":
        roots.write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
    else:
        with opened(tmp_path / "other") as other:
            other.append([event(5)])
        roots.write_bytes((tmp_path / "other" / "map" / "roots").read_bytes())
    with opened(folder) as ledger:
        ledger.append([event(2, workload="w9")])
    assert LedgerReader(folder).check(TRUSTED) == []
    assert "made again" in caplog.text


def test_a_node_that_does_not_fit_stops_nothing_but_what_needs_it(folder, monkeypatch):
    grown(folder, monkeypatch)
    nodes = folder / "map" / "nodes"
    data = bytearray(nodes.read_bytes())
    at = data.rindex(b'"workload":"w7"')
    data[at + 12] ^= 1
    nodes.write_bytes(data)
    assert any("map" in text for text in LedgerReader(folder).check(TRUSTED))
    with opened(folder) as ledger:
        assert code(ledger.append, [event(1, workload="w7")]) == "ledger.bad-map"
        assert ledger.append([event(1, workload="w8")])
    mapfile.remove(folder)
    with opened(folder) as ledger:
        ledger.append([event(1, workload="w7")])
    assert LedgerReader(folder).check(TRUSTED) == []


def test_a_root_below_the_write_ahead_log_is_the_signed_one(folder, monkeypatch):
    """The tiles that opening starts from are held against the checkpoint of their size."""
    grown(folder, monkeypatch)
    monkeypatch.setattr("stele.ledger.sequencer.RECYCLE_BYTES", 1 << 20)
    with opened(folder) as ledger:
        base = ledger._wal.base
        ledger.append([event(1)])
    assert base > 256
    (folder / "checkpoints" / str(base)).unlink()
    assert code(Ledger.open, folder, signer=SIGNER, clock=Clock()) == "ledger.damaged"


def test_an_altered_count_of_workloads_is_not_signed(tmp_path, monkeypatch):
    """The map's nodes are checked by their hashes; how many workloads it holds is not in them, and goes into the next epoch."""
    monkeypatch.setattr("stele.ledger.sequencer.RECYCLE_BYTES", 0)
    with opened(tmp_path / "l") as ledger:
        ledger.append([event(number, workload=f"w{number}") for number in range(3)])
        ledger.publish()
    roots = tmp_path / "l" / "map" / "roots"
    record = bytearray(roots.read_bytes())
    assert record[-16:-8] == (3).to_bytes(8, "little")
    record[-16:-8] = (9).to_bytes(8, "little")
    roots.write_bytes(record)
    with opened(tmp_path / "l") as ledger:
        ledger.append([event(9, workload="w9")])
        ledger.publish()
    assert LedgerReader(tmp_path / "l").check(SIGNER.verifiers) == []
