"""The writer dies, or its disk fails, in the middle of a redaction: recorded or not, and if it is recorded, it is finished."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stele.host import durable
from stele.ledger import erasing, openings, recovery, sequencer, wal
from stele.ledger.openings import Openings
from stele.ledger.reader import LedgerReader
from stele.model import private
from tests.ledgers import SIGNER, event, opened

SECRET, KEPT = b"hunter2", b"kept-by-others"
TRACED = {module.__file__ for module in (durable, erasing, openings, recovery, sequencer, wal)}
POINTS, LAST = 50, 60
ERASING = {"erase", "_blank", "_recycle", "recycle", "_activate", "_scrub_other", "due", "done"}


class Trace:
    """Kills the process at a line of the ledger's own code; counts them all. `names`: only in functions of these names, if any."""

    def __init__(self, fatal: int, names: set[str]) -> None:
        self.count, self.fatal, self.names, self.lock = 0, fatal, names, threading.Lock()

    def __call__(self, frame, happening, _arg):
        if happening == "call" and frame.f_code.co_filename not in TRACED:
            return None
        if happening == "line" and (not self.names or frame.f_code.co_name in self.names):
            with self.lock:
                self.count += 1
                if self.count == self.fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
        return self


def secret(number: int):
    return event(number, kind="violation", path="/p", argv=["--password", SECRET.decode()])


def other(number: int):
    return event(number, kind="violation", path=KEPT.decode(), argv=["x"])


@pytest.fixture
def made(tmp_path, monkeypatch) -> Path:
    """A ledger with the secret in both files of the write-ahead log, and in openings that are synced and that are not."""
    monkeypatch.setattr(sequencer, "RECYCLE_BYTES", 6000)
    monkeypatch.setattr(sequencer, "PUBLISH_EVERY_S", 3600)
    monkeypatch.setattr(wal, "STEP", 1 << 16)
    with opened(tmp_path / "made") as ledger:
        for number in range(4):
            if number == 3:
                monkeypatch.setattr(sequencer, "RECYCLE_BYTES", 1 << 30)
            ledger.append([event(number), secret(number), *(other(n) for n in range(37))])
            ledger.publish()
        assert ledger._wal.base > 0
    assert holding(tmp_path / "made") == {".state/openings/0", ".state/wal.0", ".state/wal.1"}
    return tmp_path / "made"


def holding(folder: Path, text: bytes = SECRET) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()}


def redact(folder: Path) -> None:
    targets = [index for index, entry in LedgerReader(folder).entries() if "argv" in entry.sealed]
    with opened(folder) as ledger:
        ledger.append([event(90, kind="log.redacted", erased=[{"entries": targets, "fields": ["argv"]}], reason="a password")])
        ledger.publish()
        ledger.append([other(91)])


def killed_at(folder: Path, fatal: int, names: set[str]) -> tuple[int, bool]:
    """Redact in a child that dies at line `fatal`; how many lines there were if it did not, and whether it was killed."""
    hear, say = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(hear)
        trace = Trace(fatal, names)
        threading.settrace(trace)
        sys.settrace(trace)
        try:
            redact(folder)
        finally:
            sys.settrace(None)
            os.write(say, str(trace.count).encode())
            os._exit(0)
    os.close(say)
    with os.fdopen(hear) as said:
        count = said.read()
    return int(count or "0"), os.WIFSIGNALED(os.waitpid(child, 0)[1])


def judge(folder: Path, before: list[bytes]) -> bool:
    """Recover; whether the redaction was recorded. Then nothing of the secret is left, else everything is."""
    with opened(folder) as ledger:
        ledger.publish()
    reader, kept = LedgerReader(folder), Openings(folder)
    assert reader.check(SIGNER.verifiers) == []
    assert list(reader.raw_entries(0, len(before))) == before, "a redaction changes no entry"
    entries = dict(reader.entries())
    recorded = any(entry.event.kind == "log.redacted" for entry in entries.values())
    closed = {index: private.closed(kept.open(index, entry)) for index, entry in entries.items()}
    for index, entry in entries.items():
        erased = recorded and index < len(before) and "argv" in entry.sealed
        assert closed[index] == (["argv"] if erased else []), f"entry {index}"
    assert holding(folder, KEPT)
    if recorded:
        assert holding(folder) == set()
    else:
        assert ".state/openings/0" in holding(folder)
    return recorded


@pytest.mark.parametrize("names", [set(), ERASING], ids=["anywhere", "erasing"])
def test_a_redaction_that_is_killed_at_any_line(made, tmp_path, names):
    reader = LedgerReader(made)
    before = list(reader.raw_entries(0, reader.size))
    shutil.copytree(made, tmp_path / "count")
    total, _ = killed_at(tmp_path / "count", 0, names)
    assert judge(tmp_path / "count", before)
    outcomes, left = [], 0
    # of erasing, every line of the end: there the files of the write-ahead log change places
    end = range(total - LAST, total) if names else range(0)
    for fatal in [*range(1, total - len(end), max(1, total // POINTS)), *end]:
        folder = tmp_path / "ledger"
        shutil.copytree(made, folder)
        _, killed = killed_at(folder, fatal, names)
        assert killed or not names
        left += bool(holding(folder))
        outcomes.append(judge(folder, before))
        shutil.rmtree(folder)
    assert left > 10, "some died with the secret still there"
    assert names or outcomes.count(False) > 2, "and some before it was recorded"
    assert outcomes.count(True) > 10
    assert outcomes == sorted(outcomes), "once it is recorded, it stays so"


FAULTS = [
    *(("pwrite64:error=ENOSPC", when) for when in ("1", "2", "3", "4+", "6", "8", "10", "12+", "20")),
    *(("fdatasync:error=EIO", when) for when in ("1", "2", "3", "4", "5", "6", "7+")),
    *(("fsync:error=EIO", when) for when in ("1", "3", "5", "7", "9+")),
    *(("syncfs:error=EIO", when) for when in ("1", "1+")),
]


@pytest.mark.needs("strace")  # makes the system calls fail
@pytest.mark.parametrize(("fault", "when"), FAULTS)
def test_a_disk_that_fails_in_a_redaction(made, tmp_path, fault, when):
    reader = LedgerReader(made)
    before = list(reader.raw_entries(0, reader.size))
    call = fault.partition(":")[0]
    argv = ["strace", "-f", "-qq", "-o", str(tmp_path / "trace"), "-e", f"trace={call}", "-e", f"inject={fault}:when={when}"]
    code = f"import sys; sys.path[:0] = {sys.path!r}\nfrom tests.integration.test_redaction_crash import child\nchild({str(made)!r})"
    made_by = subprocess.run([*argv, sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert made_by.returncode == 0, made_by.stderr
    recorded = judge(made, before)
    assert recorded or "recorded" not in made_by.stdout


def child(folder: str) -> None:
    """Redact, with a disk that may fail; says when it is recorded."""
    from stele.trust.errors import SteleError

    sequencer.PUBLISH_EVERY_S, sequencer.RECYCLE_BYTES, wal.STEP = 3600, 6000, 1 << 16
    targets = [index for index, entry in LedgerReader(Path(folder)).entries() if "argv" in entry.sealed]
    with contextlib.suppress(SteleError), opened(Path(folder)) as ledger:
        ledger.append([event(90, kind="log.redacted", erased=[{"entries": targets, "fields": ["argv"]}], reason="a password")])
        print("recorded", flush=True)
        ledger.publish()
