"""The writer dies or its disk fails, at many points: what was acknowledged is there, and no second root is ever signed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

import pytest

from stele.host import durable
from stele.ledger import archive, edge, mapfile, notes, recovery, sequencer, tiles, wal
from stele.ledger.reader import LedgerReader
from stele.trust import note
from tests.ledgers import TRUSTED, event, opened

WRITER = Path(__file__).with_name("ledger_writer.py")
TRACED = {module.__file__ for module in (archive, durable, edge, mapfile, notes, recovery, sequencer, tiles, wal)}
POINTS = 150


class Witness:
    """Keeps every checkpoint it ever sees of a ledger and every entry that was acknowledged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.acked: dict[int, str] = {}
        self.signed: dict[int, bytes] = {}

    def hear(self, lines: list[str]) -> None:
        for line in lines:
            words = line.split()
            if words[0] == "acked":
                assert self.acked.get(int(words[1]), words[2]) == words[2], "an acknowledged entry was overwritten"
                self.acked[int(words[1])] = words[2]

    def look(self) -> None:
        """After a crash, before recovery: note what is signed."""
        paths = [*(self.folder / "checkpoints").glob("[0-9]*"), self.folder / "checkpoint"]
        for path in paths:
            if path.exists():
                head = note.open_checkpoint(path.read_bytes(), TRUSTED)
                assert self.signed.setdefault(head.size, head.root) == head.root, "two roots were signed at one size"

    def judge(self) -> None:
        """Recover, and compare."""
        self.look()
        with opened(self.folder) as ledger:
            assert ledger.size >= len(self.acked)
            ledger.publish()
        self.look()
        if self.signed:
            reader = LedgerReader(self.folder)
            assert reader.check(TRUSTED) == []
            found = {index: entry.digest() for index, entry in reader.entries()}
            assert {index: found.get(index) for index in self.acked} == self.acked
        else:
            assert not self.acked


def writer(folder: Path, count: int, *wrapped: str) -> subprocess.Popen[str]:
    argv = [*wrapped, sys.executable, str(WRITER), str(folder), str(count)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_kill_9_of_a_writer_again_and_again(tmp_path):
    """One ledger, killed after a random number of acknowledgements each time."""
    chance = random.Random(7)
    witness = Witness(tmp_path / "ledger")
    for _ in range(12):
        with writer(witness.folder, 100_000) as process:
            lines = []
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if len(lines) > chance.randrange(2, 200):
                    process.kill()
                    break
            lines += [line for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        witness.hear(lines)
        witness.judge()
    assert len(witness.acked) > 200


class Trace:
    """Counts the lines that run in the traced modules, in all threads, and kills the process at one of them."""

    def __init__(self, fatal: int) -> None:
        self.count, self.fatal, self.lock = 0, fatal, threading.Lock()

    def __call__(self, frame, happening, _arg):
        if happening == "call" and frame.f_code.co_filename not in TRACED:
            return None
        if happening == "line":
            with self.lock:
                self.count += 1
                if self.count == self.fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
        return self


def work(folder: Path, say: int) -> None:
    """A little of everything: opening, appending, publishing, a full tile, recycling, closing, and closing that recycles."""
    sequencer.MOST_NOTES = archive.WORTH = 0  # in a child that is killed
    for several in (30, 30, 30), (1,):
        with opened(folder) as ledger:
            for number, count in enumerate(several):
                made = ledger.append([event(number, workload=f"w{n % 3}") for n in range(count)])
                os.write(say, "".join(f"acked {item.at} {item.entry.digest()}\n" for item in made).encode())
                ledger.publish()


def traced_child(folder: Path, fatal: int) -> tuple[list[str], int]:
    """Lines that a child said which works and dies at line `fatal`, and its wait status."""
    hear, say = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(hear)
        trace = Trace(fatal)
        threading.settrace(trace)
        sys.settrace(trace)
        try:
            work(folder, say)
        finally:
            sys.settrace(None)
            os.write(say, f"lines {trace.count}\n".encode())
            os._exit(0)
    os.close(say)
    with os.fdopen(hear) as said:
        lines = said.read().splitlines()
    return lines, os.waitpid(child, 0)[1]


@pytest.fixture
def small(monkeypatch) -> None:
    monkeypatch.setattr(sequencer, "RECYCLE_BYTES", 6000)
    monkeypatch.setattr(sequencer, "PUBLISH_EVERY_S", 3600)
    monkeypatch.setattr(wal, "STEP", 1 << 20)


@pytest.mark.usefixtures("small")
def test_a_writer_that_is_killed_at_any_line(tmp_path):
    """Every kind of crash point in order, on one ledger, which so is recovered from each, many times over."""
    total = int(next(line.split()[1] for line in traced_child(tmp_path / "count", 0)[0] if line.startswith("lines")))
    witness = Witness(tmp_path / "ledger")
    killed = 0
    for fatal in range(1, total, max(1, total // POINTS)):
        lines, status = traced_child(witness.folder, fatal)
        killed += os.WIFSIGNALED(status)
        witness.hear([line for line in lines if line.startswith("acked")])
        witness.judge()
        if fatal % 5 == 0:  # and now and then a new one: its first opening is a crash point, too
            shutil.rmtree(witness.folder)
            witness = Witness(witness.folder)
    assert killed > POINTS * 0.9


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("lost", ["tiles", "checkpoint", "checkpoints", "maps"])
def test_a_power_cut_keeps_the_wal_and_loses_what_was_not_synced(tmp_path, lost):
    """After each publishing: tiles or maps above the WAL's base vanish or are empty, or the checkpoint is the one before, or none of
    those since the base is whole."""
    witness = Witness(tmp_path / "ledger")
    before = b""
    for number in range(25):
        base = wal_base(witness.folder)
        with opened(witness.folder) as ledger:
            made = ledger.append([event(n, workload=f"w{number % 3}") for n in range(17)])
        witness.hear([f"acked {item.at} {item.entry.digest()}" for item in made])
        head = witness.folder / "checkpoint"
        if lost == "checkpoint" and before:
            if LedgerReader(witness.folder).size > wal_base(witness.folder) == base:
                head.write_bytes(before)
        elif lost == "checkpoints":
            whole = {path: path.read_bytes() for path in [head, *(witness.folder / "checkpoints").iterdir()]}
            synced, newest = wal_base(witness.folder), LedgerReader(witness.folder).size
            for path, data in whole.items():
                if (newest if path == head else int(path.name)) > synced:
                    path.write_bytes(data[: 90 * (number % 3)]) if number % 4 else path.unlink()
            with opened(witness.folder):
                assert {path: path.read_bytes() for path in whole} == whole
        elif lost == "maps":
            lose_maps(witness.folder, number)
        elif lost == "tiles":
            for path in unsynced(witness.folder):
                path.write_bytes(b"") if number % 2 else path.unlink()
        before = head.read_bytes()
        witness.judge()


def wal_base(folder: Path) -> int:
    if not (folder / ".state").exists():
        return 0
    log = wal.Wal(folder / ".state")
    log.close()
    return log.base


def lose_maps(folder: Path, number: int) -> None:
    """Of what was appended to the maps since the WAL's base, a stretch or the end."""
    base = wal_base(folder)
    with mapfile.MapFile(folder) as file:
        nodes = file._end_of(file.root(base - 1))
        count = bisect_left(range(file._count), base, key=lambda at: file._record(at).epoch)
    for name, begin in (("nodes", nodes), ("roots", count * mapfile.RECORD))[number % 3 % 2 :]:
        data = (folder / "map" / name).read_bytes()
        lost = (len(data) - begin) // (1 + number % 4)
        end = len(data) if number % 2 else begin + lost
        torn = data[: end - lost] + (bytes(lost) + data[end:] if number % 5 else b"")
        (folder / "map" / name).write_bytes(torn)


def unsynced(folder: Path) -> Iterator[Path]:
    base = wal_base(folder)
    keep = set()
    for level in range(3):
        full, width = tiles.widths(base, level)
        keep |= {tiles.tile_path(level, n, 256) for n in range(full)} | {tiles.tile_path(level, full, width)}
        if level == 0:
            keep |= {tiles.bundle_path(n, 256) for n in range(full)} | {tiles.bundle_path(full, width)}
    for path in (folder / "tile").rglob("*"):
        if path.is_file() and str(path.relative_to(folder)) not in keep:
            yield path


FAULTS = [
    *(("fdatasync:error=EIO", when) for when in ("1", "3", "3+", "9", "17", "30")),
    *(("pwrite64:error=ENOSPC", when) for when in ("1", "9", "12+", "20", "60+", "90")),
    *(("fsync:error=EIO", when) for when in ("1", "4", "9+", "20")),
    *(("rename:error=ENOSPC", when) for when in ("1", "3", "3+", "8", "20")),
    *(("syncfs:error=EIO", when) for when in ("1", "1+")),
]


@pytest.mark.needs("strace")  # makes the system calls fail
@pytest.mark.parametrize(("fault", "when"), FAULTS)
def test_a_disk_that_fails(tmp_path, fault, when):
    """A system call fails once (3: the third of a thread), or from then on always (3+): the writer says so, and nothing is lost."""
    witness = Witness(tmp_path / "ledger")
    log, call = tmp_path / "trace", fault.partition(":")[0]
    inject = f"inject={fault}:when={when}"
    with writer(witness.folder, 25, "strace", "-f", "-qq", "-o", str(log), "-e", f"trace={call}", "-e", inject) as process:
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    assert process.returncode == 0  # it never dies of it
    assert "INJECTED" in log.read_text() or int(when.rstrip("+")) > 4
    codes = {line.split()[1] for line in lines if line.startswith("error")} | {
        line.split()[1] for line in lines if line.startswith("refused")
    }
    assert codes <= {"ledger.write-failed"}
    if when == "1" and call in {"fdatasync", "pwrite64", "fsync"}:
        assert codes == {"ledger.write-failed"}
    witness.hear(lines)
    witness.judge()
