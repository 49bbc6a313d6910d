"""The power goes at any system call, and takes what was not synced: what was acknowledged or shown is there, and nothing is damaged.

Every call of a writer is recorded by strace; a model of a disk says what may be left of it (tests/power_cuts.py).
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stele.ledger import archive, sequencer, wal
from stele.ledger.reader import LedgerReader
from stele.trust import merkle, note
from stele.trust.errors import SteleError
from tests.ledgers import OTHER, TRUSTED, event, opened
from tests.power_cuts import MARK, Disk, calls, record, tell

SEED = int(os.environ.get("STELE_POWER_CUT_SEED", "5"))
pytestmark = [
    pytest.mark.needs("strace"),  # records the system calls
    pytest.mark.timeout(600),
]


@pytest.fixture(autouse=True)
def _small(monkeypatch) -> None:
    monkeypatch.setattr(sequencer, "RECYCLE_BYTES", 3000)
    monkeypatch.setattr(archive, "WORTH", 0)
    monkeypatch.setattr(sequencer, "PUBLISH_EVERY_S", 3600)  # all is done by the thread that is watched
    monkeypatch.setattr(wal, "STEP", 1 << 16)
    monkeypatch.setattr(wal, "FIRST", 1 << 15)  # less than a file is made of: each time it begins anew it is cut first
    monkeypatch.setattr(wal, "_ZEROS", bytes(1 << 16))


def work(folder: Path) -> None:
    """Opening, publishing while others append, a full tile, cosignatures of any length, the write-ahead log's next file, closing."""
    count = 0

    def append(several: int) -> None:
        for item in ledger.append([event(several, workload=f"w{n % 5}", why="x" * 400) for n in range(several)]):
            tell("acked", item.at, item.entry.digest())

    def cosign(signed: bytes, size: int, _: Callable[[int], list[bytes]]) -> bytes:
        nonlocal count
        head = note.unverified(signed)
        tell("signed", size, head.root.hex())
        append(2)  # while witnesses are asked
        count += 1
        return signed + OTHER.sign(head.body()).rpartition(b"\n\n")[2] if count % 3 == 1 else signed

    for _ in range(2):
        with opened(folder, cosign=cosign) as ledger:
            for _ in range(4):
                with contextlib.suppress(SteleError):  # the disk failed: after the next opening
                    append(3)
                    tell("published", ledger.publish())
            with contextlib.suppress(SteleError):
                append(1)


def short_commands(folder: Path) -> None:
    """What opens for one entry, again and again: of some, closing begins the write-ahead log anew."""
    for number in range(6):
        with contextlib.suppress(SteleError), opened(folder) as ledger:  # the disk failed: the next one goes on
            (made,) = ledger.append([event(number, workload=f"w{number % 2}", why="x" * 400)])
            tell("acked", made.at, made.entry.digest())
            tell("published", ledger.publish())


def root_at(reader: LedgerReader, size: int) -> str:
    return merkle.root([merkle.leaf_hash(raw) for raw in reader.raw_entries(0, size)]).hex()


class Promises:
    """What was acknowledged, signed, shown."""

    def __init__(self) -> None:
        self.acked: dict[int, str] = {}
        self.signed: dict[int, str] = {}
        self.shown = 0

    def hear(self, word: str) -> None:
        if not word.startswith(MARK):
            return
        kind, *rest = word.removeprefix(MARK).split("/")
        if kind == "acked":
            self.acked[int(rest[0])] = rest[1]
        elif kind == "signed":
            assert self.signed.setdefault(int(rest[0]), rest[1]) == rest[1]
        else:
            self.shown = max(self.shown, int(rest[0]))

    def judge(self, folder: Path) -> None:
        with opened(folder) as ledger:
            assert ledger.published >= self.shown
            assert ledger.size >= len(self.acked)
            ledger.append([event(9, workload="w1")])
            ledger.publish()
        reader = LedgerReader(folder)
        assert reader.check(TRUSTED) == []
        found = {index: entry.digest() for index, entry in reader.entries()}
        assert {index: found.get(index) for index in self.acked} == self.acked
        roots = {size: root for size, root in self.signed.items() if root_at(reader, size) != root}
        assert roots == {}, "another root was signed at a size"


def closings(monkeypatch) -> int:
    """Have the write-ahead log begin anew at closings only; how many of `short_commands` do it."""
    monkeypatch.setattr(sequencer, "RECYCLE_BYTES", 1 << 30)
    monkeypatch.setattr(sequencer, "MOST_NOTES", 1)
    return 3


@pytest.fixture
def folder(tmp_path) -> Path:
    """A ledger shortly before a tile is full."""
    with opened(tmp_path / "ledger") as ledger:
        for _ in range(3):
            ledger.append([event(n, workload=f"w{n % 5}") for n in range(80)])
            ledger.publish()
    return Path(tmp_path / "ledger")


@pytest.fixture
def left() -> Iterator[Path]:
    """Where a power cut leaves its folder: in memory, for it is opened hundreds of times."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder) / "ledger"


@pytest.mark.parametrize("done", [work, short_commands])
def test_what_was_promised_is_there_whatever_a_power_cut_takes(folder, tmp_path, left, done, monkeypatch):
    begins = closings(monkeypatch) if done is short_commands else 0
    disk, log = Disk(folder), tmp_path / "trace"
    record(lambda: done(folder), log)
    promises, chance, cuts = Promises(), random.Random(SEED), 0
    for number, (call, texts, rest, result) in enumerate(calls(log)):
        if call == "access":
            promises.hear(texts[0].decode())
        else:
            disk.play(call, texts, rest, result)
            if call == "rename" and (path := Path(texts[1].decode())).parent.name == "checkpoints":
                promises.shown = max(promises.shown, int(path.name))  # from now on readers find it
        # what is sure to be there changes when something is synced; what chance adds, at any call
        sure = call in {"access", "rename", "fsync", "fdatasync", "syncfs"}
        often = call == "unlink" or (call == "pwrite64" and rest.endswith(", 0"))  # a header
        begins -= call == "syncfs"
        for each in (None,) * sure + (chance,) * (4 if often else number % 3 == SEED % 3):
            shutil.rmtree(left, ignore_errors=True)
            disk.leave(left, each)
            try:
                promises.judge(left)
            except BaseException as error:
                kept = "chance kept some" if each else "none is kept"
                error.add_note(f"the power went after call {number}, {call} {rest}; of what was not synced {kept}")
                raise
            cuts += 1
    assert promises.shown == LedgerReader(folder).size
    assert cuts > 200
    assert begins <= 0


@pytest.mark.parametrize("done", [work, short_commands])
@pytest.mark.parametrize(
    "fault", ["syncfs:error=EIO:when=1", "syncfs:error=EIO:when=2", "fdatasync:error=EIO:when=8", "fdatasync:error=EIO:when=12"]
)
def test_what_the_disk_failed_to_write_is_not_taken_for_written_later(folder, tmp_path, left, fault, done, monkeypatch):
    """A failed sync is told once; memory shows what the disk does not have, and the next sync succeeds."""
    if done is short_commands:
        closings(monkeypatch)
    disk, log, promises, failed = Disk(folder), tmp_path / "trace", Promises(), False
    record(lambda: done(folder), log, "-e", f"inject={fault}")
    for call, texts, rest, result in calls(log):
        if call == "access":
            promises.hear(texts[0].decode())
            continue
        disk.play(call, texts, rest, result)
        failed = failed or (result < 0 and call in fault)
        if failed and call in {"syncfs", "fdatasync"}:
            shutil.rmtree(left, ignore_errors=True)
            disk.leave(left, None)
            promises.judge(left)
    assert failed
    assert promises.shown > (260 if done is work else 249)
