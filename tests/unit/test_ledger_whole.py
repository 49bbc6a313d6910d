"""The ledger: what is acknowledged is there, whatever happens; what was altered is found."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stele.ledger.reader import LedgerReader
from stele.ledger.sequencer import Ledger
from stele.model.event import Event
from stele.trust import merkle, note
from stele.trust.errors import SteleError

KEY = note.Signer("example.org/log", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = note.Signer("example.org/log", Ed25519PrivateKey.from_private_bytes(bytes(32)))


def open_(folder: Path, key: note.Signer = KEY) -> Ledger:
    ticks = iter(range(1, 1 << 60))
    return Ledger.open(folder, signer=key, clock=lambda: next(ticks))


def event(workload: str = "shop", number: int = 0, **data: object) -> Event:
    return Event(workload=workload, kind="heartbeat", time_ns=number, actor="test", data={"n": number, **data})


def filled(folder: Path, count: int = 300) -> Path:
    ledger = open_(folder)
    for number in range(0, count, 50):
        ledger.append([event(f"w{n % 3}", n) for n in range(number, min(number + 50, count))])
        ledger.publish()
    ledger.close()
    return folder


def test_entries_chain_per_workload_and_survive_reopening(tmp_path: Path) -> None:
    filled(tmp_path, 600)
    ledger = open_(tmp_path)
    ledger.append([event("w0", 999)])
    ledger.close()
    reader = LedgerReader(tmp_path)
    assert reader.check([KEY.verifier]) == []
    chain = [entry for _, entry in reader.entries("w0")]
    assert [entry.seq for entry in chain] == list(range(201))
    assert all(later.prev == earlier.digest() for earlier, later in itertools.pairwise(chain))
    raws = list(reader.raw_entries(0, reader.size))
    for index in (0, 255, 256, 300, reader.size - 1):
        path = reader.inclusion(index)
        assert merkle.root_from_inclusion(index, reader.size, merkle.leaf_hash(raws[index]), path) == reader.checkpoint.root


def test_every_archived_checkpoint_is_consistent_with_the_head(tmp_path: Path) -> None:
    filled(tmp_path)
    reader = LedgerReader(tmp_path)
    archived = [note.open_checkpoint(path.read_bytes(), [KEY.verifier]) for path in (tmp_path / "checkpoints").iterdir()]
    assert len(archived) > 3
    for old in archived:
        assert merkle.is_consistent(old.size, reader.size, old.root, reader.checkpoint.root, reader.consistency(old.size))


def test_a_second_sequencer_is_refused(tmp_path: Path) -> None:
    ledger = open_(tmp_path)
    with pytest.raises(SteleError) as caught:
        open_(tmp_path)
    assert caught.value.code == "ledger.locked"
    ledger.close()
    open_(tmp_path).close()


def test_many_threads_commit_at_once_and_every_chain_is_whole(tmp_path: Path) -> None:
    ledger = open_(tmp_path)
    errors: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for number in range(60):
                done = ledger.append([event(name, number), event("common", number)])
                assert done[0].entry.seq == number
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.close()
    assert not errors
    reader = LedgerReader(tmp_path)
    assert reader.check([KEY.verifier]) == []
    assert len(list(reader.entries("common"))) == 960


def test_more_calls_than_a_batch_holds_are_all_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stele.ledger import sequencer

    monkeypatch.setattr(sequencer, "MAX_BATCH", 2)  # a limit, not behaviour
    ledger = open_(tmp_path)
    done: list[int] = []
    threads = [threading.Thread(target=lambda n=n: done.append(ledger.append([event("w", n)])[0].at)) for n in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(done)) == 40
    ledger.close()


def test_an_entry_that_is_too_large_is_refused_alone(tmp_path: Path) -> None:
    ledger = open_(tmp_path)
    ledger.append([event("w", 0)])
    with pytest.raises(SteleError) as caught:
        ledger.append([event("w", 1), event("w", 2, big="x" * 70_000)])
    assert caught.value.code == "ledger.entry-too-large"
    assert ledger.append([event("w", 3)])[0].entry.seq == 1
    ledger.close()
    assert LedgerReader(tmp_path).check([KEY.verifier]) == []


def test_a_torn_batch_was_never_acknowledged_and_is_ignored(tmp_path: Path) -> None:
    ledger = open_(tmp_path)
    ledger.append([event("w", 0)])
    folder = tmp_path / ".state" / "wal"
    copy = folder.read_bytes()
    ledger.append([event("w", 1)])
    now = folder.read_bytes()
    ledger.close()
    end = max(index for index in range(len(now)) if now[index] != copy[index]) if len(now) == len(copy) else len(now)
    shutil.rmtree(tmp_path / "tile")
    (tmp_path / "checkpoint").unlink()
    shutil.rmtree(tmp_path / "checkpoints")
    folder.write_bytes(now[: end - 3] + bytes(len(now) - end + 3))
    again = open_(tmp_path)
    assert again.append([event("w", 2)])[0].entry.seq == 1
    again.close()


def test_the_write_ahead_log_is_recycled_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stele.ledger import sequencer

    monkeypatch.setattr(sequencer, "RECYCLE_BYTES", 1000)  # a limit, not behaviour
    filled(tmp_path, 500)
    ledger = open_(tmp_path)
    assert ledger.size > 500
    ledger.close()
    assert LedgerReader(tmp_path).check([KEY.verifier]) == []


WRITER = """
import sys, itertools, time
sys.path[:0] = [{src!r}, {root!r}]
from pathlib import Path
from tests.unit.test_ledger_whole import open_, event
ledger = open_(Path({folder!r}))
start = ledger.size
for number in itertools.count(start):
    done = ledger.append([event("w", number)])
    print(done[0].entry.seq, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 2, 3, 7, 40, 150, 400])
def test_killed_while_appending_keeps_everything_acknowledged(tmp_path: Path, lines: int) -> None:
    root = Path(__file__).parents[2]
    code = WRITER.format(src=str(root / "src"), root=str(root), folder=str(tmp_path / "log"))
    last = -1
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(lines):
            last = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split()
        child.wait()
        child.stdout.close()
        last = int(rest[-1]) if rest else last
        ledger = open_(tmp_path / "log")
        assert ledger.heads()["w"][0] > last
        ledger.close()
        assert LedgerReader(tmp_path / "log").check([KEY.verifier]) == []


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace injects the faults")
@pytest.mark.parametrize(
    "fault",
    [
        "fdatasync:error=EIO:when=3",
        "fdatasync:error=EIO:when=9",
        "pwrite64:error=ENOSPC:when=30",
        "rename:error=EIO:when=2",
        "fsync:error=EIO:when=6",
    ],
)
def test_a_failing_disk_never_loses_what_was_acknowledged(tmp_path: Path, fault: str) -> None:
    root = Path(__file__).parents[2]
    code = WRITER.format(src=str(root / "src"), root=str(root), folder=str(tmp_path / "log")).replace(
        "itertools.count(start)", "range(start, start + 60)"
    )
    argv = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={fault}", sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    acknowledged = [int(line) for line in done.stdout.split()]
    ledger = open_(tmp_path / "log")
    count = ledger.heads().get("w", (0, ""))[0]
    ledger.close()
    assert acknowledged == list(range(len(acknowledged)))
    assert count >= len(acknowledged)
    if not fault.startswith(("rename", "fsync")):
        assert "ledger.write-failed" in done.stderr or "OSError" in done.stderr or len(acknowledged) == 60
    assert LedgerReader(tmp_path / "log").check([KEY.verifier]) == []


# ---- attacks on a copy -----------------------------------------------------------------------


def _problems(folder: Path, key: note.Signer = KEY) -> list[str]:
    try:
        return LedgerReader(folder).check([key.verifier])
    except SteleError as error:
        return [error.reason]


def test_a_flipped_bit_anywhere_that_counts_is_found(tmp_path: Path) -> None:
    source = filled(tmp_path / "log")
    size = LedgerReader(source).size
    current = {f"checkpoints/{size}", "checkpoint"}
    files = [path for path in source.rglob("*") if path.is_file() and ".state" not in path.parts and "sqlite" not in path.name]
    checked = 0
    for path in files:
        name = str(path.relative_to(source))
        data = path.read_bytes()
        if ".p/" in name and str(size % 256) not in name.rsplit("/", maxsplit=1)[-1] and name not in current:
            continue  # a partial tile of an earlier size: nobody reads it for this checkpoint
        for position in range(0, len(data), max(1, len(data) // 7)):
            path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
            assert _problems(source), f"{name} at {position}"
            checked += 1
        path.write_bytes(data)
    assert checked > 30
    assert _problems(source) == []


def test_a_rewritten_event_with_recomputed_tiles_is_found_without_the_key(tmp_path: Path) -> None:
    source = filled(tmp_path / "log", 100)
    forged = tmp_path / "forged"
    reader = LedgerReader(source)
    ledger = open_(forged, OTHER)
    for _, entry in reader.entries():
        if entry.event.kind != "epoch":
            changed = event(entry.event.workload, 666) if entry.event.time_ns == 50 else entry.event
            ledger.append([changed])
    ledger.close()
    assert _problems(forged, OTHER) == []  # whole in itself
    assert "trust" in " ".join(_problems(forged)) or _problems(forged)
    shutil.copy(source / "checkpoint", forged / "checkpoint")  # under the true signature it does not fit
    assert _problems(forged)


def test_a_ledger_that_was_cut_back_is_found_by_its_archive(tmp_path: Path) -> None:
    source = filled(tmp_path / "log")
    old = sorted((source / "checkpoints").iterdir(), key=lambda path: int(path.name))[1]
    shutil.copy(old, source / "checkpoint")
    assert any("cut back" in problem for problem in _problems(source))


def test_an_altered_ledger_is_never_signed_again(tmp_path: Path) -> None:
    source = filled(tmp_path / "log")
    bundle = next(path for path in (source / "tile" / "entries").rglob("*") if path.is_file() and ".p" not in str(path))
    data = bundle.read_bytes()
    bundle.write_bytes(data.replace(b'"n":7', b'"n":8', 1))
    before = sorted(path.name for path in (source / "checkpoints").iterdir())
    with pytest.raises(SteleError) as caught:
        open_(source)
    assert caught.value.code in {"ledger.damaged", "trust.not-canonical"}
    assert sorted(path.name for path in (source / "checkpoints").iterdir()) == before


def test_a_restored_older_copy_is_refused_by_the_write_ahead_log_or_found(tmp_path: Path) -> None:
    source = filled(tmp_path / "log", 100)
    backup = tmp_path / "backup"
    shutil.copytree(source, backup)
    ledger = open_(source)
    ledger.append([event("w0", 5)])
    ledger.close()
    kept = (source / "checkpoint").read_bytes()
    fork = open_(backup)
    fork.append([event("w0", 6)])
    fork.close()
    # two histories under one key: each is whole, and the two checkpoints together prove the fork
    mine, other = note.open_checkpoint(kept, [KEY.verifier]), LedgerReader(backup).checkpoint
    assert mine.size == other.size
    assert mine.root != other.root


def test_the_projection_is_a_cache(tmp_path: Path) -> None:
    import sqlite3

    filled(tmp_path, 100)
    (tmp_path / "projection.sqlite").write_bytes(os.urandom(8192))
    open_(tmp_path).close()
    rows = sqlite3.connect(tmp_path / "projection.sqlite").execute("SELECT count(*), max(idx) FROM entries").fetchone()
    assert rows[0] == rows[1] + 1 == LedgerReader(tmp_path).size
    assert json.loads(sqlite3.connect(tmp_path / "projection.sqlite").execute("SELECT data FROM entries").fetchone()[0]) is not None
