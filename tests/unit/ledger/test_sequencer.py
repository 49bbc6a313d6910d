"""The ledger as its users meet it: commit, publish, reopen, many threads."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from stele.ledger import tiles
from stele.ledger.group import MAX_BATCH
from stele.ledger.pace import Pace
from stele.ledger.reader import LedgerReader, workloads
from stele.ledger.sequencer import Ledger
from stele.model.event import Event, decode_entry
from stele.trust import merkle, note
from stele.trust.errors import SteleError
from tests.ledgers import OTHER, SIGNER, TRUSTED, Clock, event, opened, quiet, rows
from tests.refusals import code

VECTOR = json.loads((Path(__file__).parents[2] / "vectors" / "ledger.json").read_text())


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


def test_that_it_was_closed_meanwhile_is_no_error_of_publishing(caplog):
    tried = threading.Semaphore(0)
    codes = ["ledger.closed", "ledger.write-failed", "ledger.closed"]

    def publish() -> None:
        tried.release()
        code = codes.pop() if codes else "ledger.closed"
        raise SteleError(f"told {code}", remedy="no", code=code)

    pace = Pace(publish, lambda _: 0.0, lambda: False)
    pace.start()
    for _ in range(3):
        pace.wake()
        tried.acquire()
    pace.end()
    assert [record.message for record in caplog.records] == ["told ledger.write-failed"]


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


def test_a_lone_append_is_flushed_at_once_and_all_who_come_meanwhile_share_the_next_flush(folder, monkeypatch):
    """By the caller itself, with no pause and no other thread; and nobody is told before the disk has it."""
    ledger = quiet(folder, monkeypatch)
    real, flushed, told = os.fdatasync, list[int](), list[int]()
    monkeypatch.setattr(os, "fdatasync", lambda fd: flushed.append(threading.get_ident()) or real(fd))
    for number in range(5):
        ledger.append([event(number)])
        assert flushed == [threading.get_ident()] * (number + 1)
    flushed.clear()
    begun, go = threading.Event(), threading.Event()

    def slow(fd: int) -> None:
        begun.set()
        go.wait()
        real(fd)
        flushed.append(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    threads = [threading.Thread(target=lambda: told.extend(each.at for each in ledger.append([event(5)]))) for _ in range(21)]
    threads[0].start()
    begun.wait()
    for thread in threads[1:]:
        thread.start()
    while len(ledger._group._queue) < 20:
        time.sleep(0.001)
    assert (told, ledger.size) == ([], 5)
    go.set()
    for thread in threads:
        thread.join()
    assert (len(flushed), sorted(told)) == (2, list(range(5, 26)))
    ledger.close()


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


def test_nobody_else_records_an_epoch(folder, monkeypatch):
    """The checkpoint over it would be signed, and a light proof believes what an epoch in the signed log says of its map."""
    said = {"behind_ns": 0, "covers": 2, "map": 2, "map_root": "0" * 64, "map_size": 0, "since": 2}
    with contextlib.closing(quiet(folder, monkeypatch)) as ledger:
        ledger.append([event(1)])
        ledger.publish()
        forged = Event(workload="", kind="epoch", time_ns=event(2).time_ns, actor="ledger", data=said)
        assert code(ledger.append, [event(2), forged]) == "ledger.bad-entry"
        assert ledger.size == 2
        ledger.append([event(3)])
        assert ledger.publish() == 4
    assert LedgerReader(folder).check(TRUSTED) == []
