"""What opening starts from: the write-ahead log, the map, and tiles that are held against a signed checkpoint."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from stele.host import durable
from stele.ledger import mapfile, projection, tiles
from stele.ledger.edge import Edge
from stele.ledger.reader import LedgerReader
from stele.ledger.sequencer import Ledger
from stele.trust import note
from tests.counted import counted
from tests.ledgers import SIGNER, TRUSTED, Clock, event, opened, quiet, rows
from tests.refusals import code


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


def test_opening_reads_few_checkpoints_however_many_short_commands_there_were(folder):
    """Each opens, appends one entry and closes."""
    most = 0
    for number in range(50):
        with opened(folder) as ledger:
            most = max(most, ledger._wal.held_notes)
            ledger.append([event(number)])
    assert most == 16
    with opened(folder) as ledger:
        assert ledger._wal.base == ledger.published - 2 * (50 % 17)
    assert LedgerReader(folder).check(TRUSTED) == []


def test_closing_keeps_what_is_not_published(folder, monkeypatch):
    """Others append while witnesses are asked: the write-ahead log begins anew with what no checkpoint covers."""
    monkeypatch.setattr("stele.ledger.sequencer.MOST_NOTES", 0)
    monkeypatch.setattr("stele.ledger.sequencer.PUBLISH_EVERY_S", 3600)

    def cosign(signed: bytes, *_: object) -> bytes:
        ledger.append([event(2)])
        return signed

    with opened(folder, cosign=cosign) as ledger:
        ledger.append([event(1)])
    assert ledger.published == 2
    with opened(folder) as ledger:
        assert (ledger._wal.base, ledger.published, ledger.size) == (2, 2, 3)
    times = [entry.event.time_ns for _, entry in LedgerReader(folder).entries() if entry.event.kind != "epoch"]
    assert times == [event(number).time_ns for number in (1, 2)]
    assert LedgerReader(folder).check(TRUSTED) == []


def covered(folder: Path, tmp_path: Path, monkeypatch) -> Path:
    """What a killed writer leaves: a checkpoint covers much of the write-ahead log, but not its last entry."""
    grown(folder, monkeypatch, 300)
    monkeypatch.setattr("stele.ledger.sequencer.RECYCLE_BYTES", 1 << 30)
    ledger = quiet(folder, monkeypatch)
    for begin in range(0, 900, 300):
        ledger.append([event(number, workload=f"w{number % 41}") for number in range(begin, begin + 300)])
        ledger.publish()
    ledger.append([event(0, workload="w3")])
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    ledger.close()
    return copy


def test_what_a_checkpoint_covers_is_not_looked_at_again(folder, tmp_path, monkeypatch):
    copy = covered(folder, tmp_path, monkeypatch)
    looked_at: list[bytes] = []
    real = Edge.take_checked
    monkeypatch.setattr(Edge, "take_checked", lambda edge, raw, *more: looked_at.append(raw) or real(edge, raw, *more))
    with opened(copy) as ledger:
        assert len(looked_at) == 1
        assert ledger.heads()["w3"][0] == len(range(3, 300, 37)) + len(range(3, 900, 41)) + 1
    assert LedgerReader(copy).check(TRUSTED) == []


@pytest.mark.parametrize("name", ["nodes", "roots"])
@pytest.mark.parametrize("how", ["zeros", "cut", "gone", "altered"])
def test_maps_since_the_base_that_a_power_cut_tore_are_made_again(folder, tmp_path, monkeypatch, name, how):
    copy = covered(folder, tmp_path, monkeypatch)
    path = copy / "map" / name
    data = path.read_bytes()
    at = len(data) - {"nodes": 20_000, "roots": 100}[name]
    torn = {"zeros": data[:at] + bytes(50) + data[at + 50 :], "cut": data[:at], "altered": data[:at] + b"?" + data[at + 1 :]}
    path.unlink() if how == "gone" else path.write_bytes(torn[how])
    with opened(copy) as ledger:
        ledger.append([event(0, workload="w7")])
    assert LedgerReader(copy).check(TRUSTED) == []


def test_so_many_entries_are_published_at_once_and_opening_replays_few(folder, monkeypatch):
    """By number, not only by time: with a pause of an hour this waits for no clock."""
    ledger = quiet(folder, monkeypatch)
    monkeypatch.setattr("stele.ledger.sequencer.MOST_ENTRIES", 200)
    monkeypatch.setattr("stele.ledger.sequencer.RECYCLE_BYTES", 4096)
    for begin in range(0, 2000, 50):
        ledger.append([event(number, workload=f"w{number % 7}") for number in range(begin, begin + 50)])
        while ledger._wal.base < ledger.size - 400:  # published, and begun anew
            time.sleep(0.001)
    ledger.close()
    assert LedgerReader(folder).check(TRUSTED) == []


@pytest.mark.parametrize("fails", [False, True])
def test_calls_wait_where_very_much_is_in_the_write_ahead_log_until_it_began_anew(folder, monkeypatch, fails):
    ledger = quiet(folder, monkeypatch)
    monkeypatch.setattr("stele.ledger.sequencer.RECYCLE_BYTES", 0)
    monkeypatch.setattr("stele.ledger.sequencer.MOST_REPLAYED", 100)
    begun, go_on = threading.Event(), threading.Event()

    def sync(_: durable.Filesystem) -> None:
        begun.set()
        go_on.wait()
        if fails:
            raise OSError(5, "no")

    monkeypatch.setattr(durable.Filesystem, "sync", sync)
    bases: list[int] = []
    ledger.append([event(number) for number in range(90)])
    publishing = threading.Thread(target=ledger.publish)
    publishing.start()
    begun.wait()
    ledger.append([event(number) for number in range(90)])  # it may hold so many
    appending = threading.Thread(target=lambda: (ledger.append([event(0)]), bases.append(ledger._wal.base)))
    appending.start()
    appending.join(0.05)
    assert not bases
    go_on.set()
    appending.join()
    publishing.join()
    assert bases == [0 if fails else 91]
    ledger.close()
    assert LedgerReader(folder).check(TRUSTED) == []


def test_what_the_projection_lacks_is_applied_while_the_ledger_serves(folder, monkeypatch):
    grown(folder, monkeypatch, 600)
    projection.remove(folder / "projection.sqlite")
    monkeypatch.setattr("stele.ledger.sequencer.PROJECTED_AT_ONCE", 0)
    monkeypatch.setattr("stele.ledger.projection.CHUNK", 64)
    with opened(folder) as ledger:
        (committed,) = ledger.append([event(1, workload="w7")])
        while len(rows(folder)) < committed.at:
            time.sleep(0.001)
        ledger.publish()
        size = ledger.size
    assert [row[0] for row in rows(folder)] == list(range(size))
    projection.remove(folder / "projection.sqlite")
    with opened(folder):
        pass  # closed at once: the next opening goes on where this one stopped
    monkeypatch.setattr("stele.ledger.sequencer.PROJECTED_AT_ONCE", 2048)
    with opened(folder):
        assert [row[0] for row in rows(folder)] == list(range(size))


def test_entries_that_could_not_be_read_for_the_projection_do_not_lend_their_numbers_to_others(folder, tmp_path, monkeypatch, caplog):
    grown(folder, monkeypatch, 600)
    projection.remove(folder / "projection.sqlite")
    monkeypatch.setattr("stele.ledger.sequencer.PROJECTED_AT_ONCE", 0)
    monkeypatch.setattr("stele.ledger.projection.CHUNK", 64)
    bundle = folder / tiles.bundle_path(1, tiles.WIDTH)
    bundle.rename(tmp_path / "aside")
    bundle.mkdir()  # reading it fails, as a disk does for a while
    with opened(folder) as ledger:
        ledger.project()
        ledger.append([event(1, workload="late")])
        ledger.publish()
    assert "the projection projection.sqlite cannot be used" in caplog.text
    bundle.rmdir()
    (tmp_path / "aside").rename(bundle)
    with opened(folder) as ledger:
        ledger.project()
    assert rows(folder) == [(at, entry.event.workload, entry.seq, entry.event.kind) for at, entry in LedgerReader(folder).entries()]


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


@pytest.fixture
def syncs(monkeypatch) -> list[int]:
    """One for each fdatasync."""
    return counted(monkeypatch, os, "fdatasync")


def test_what_a_shown_checkpoint_covers_is_not_synced_again(folder, syncs):
    with opened(folder) as ledger:
        ledger.append([event()])
    syncs.clear()
    with opened(folder):
        assert syncs == []


@pytest.mark.parametrize(
    "what", ["an entry after it", "the head before it", "no head", "a note that is not shown", "a file that was begun"]
)
def test_what_may_be_only_in_memory_is_written_and_synced(folder, tmp_path, monkeypatch, syncs, what):
    ledger = quiet(folder, monkeypatch)
    ledger.append([event()])
    ledger.publish()
    head = (folder / "checkpoint").read_bytes()
    ledger.append([event()])
    if what != "an entry after it":
        ledger.publish()
    if what == "a file that was begun":
        ledger._recycle(ledger.published, ledger._partials.shown)
    if what == "a note that is not shown":
        ledger._keep(SIGNER.sign(note.Checkpoint("test.example/ledger", 4, bytes(32)).body(), 1))
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    ledger.close()
    if what == "the head before it":
        (copy / "checkpoint").write_bytes(head)
    if what == "no head":
        (copy / "checkpoint").unlink()
    syncs.clear()
    with opened(copy):
        assert syncs
    assert LedgerReader(copy).check(TRUSTED) == []
