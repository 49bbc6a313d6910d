"""Every system call of a writer that touches the disk fails once, with EIO and with ENOSPC, and the writer is killed at each.

strace makes them fail in a process that was forked with everything loaded, so that nothing is counted but what the ledger does: it
opens, commits, crosses a tile, publishes, begins its write-ahead log anew, and closes. After each, a full check: what was
acknowledged is there, no second root was signed, and the ledger goes on.
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest

from stele.ledger import archive, sequencer, wal
from stele.ledger.reader import LedgerReader
from stele.trust.errors import SteleError
from tests import traced
from tests.integration.test_ledger_crash import Witness
from tests.ledgers import SIGNER, event, opened

CALLS = ("openat", "write", "pwrite64", "fsync", "fdatasync", "syncfs", "rename", "unlink", "mkdir", "ftruncate")
pytestmark = [
    pytest.mark.needs("strace"),  # makes the system calls fail
    pytest.mark.timeout(600),
]


@pytest.fixture(autouse=True)
def _small(monkeypatch) -> None:
    monkeypatch.setattr(sequencer, "RECYCLE_BYTES", 3000)
    monkeypatch.setattr(sequencer, "MOST_NOTES", 0)  # closing begins the write-ahead log anew, too
    monkeypatch.setattr(archive, "WORTH", 0)
    monkeypatch.setattr(sequencer, "PUBLISH_EVERY_S", 3600)  # all is done by the thread that is watched
    monkeypatch.setattr(wal, "STEP", 1 << 16)


@pytest.fixture
def base(tmp_path) -> Path:
    """A ledger shortly before a tile is full."""
    folder = tmp_path / "base"
    with opened(folder) as ledger:
        for _ in range(3):
            ledger.append([event(n, workload=f"w{n % 5}") for n in range(83)])
            ledger.publish()
    assert LedgerReader(folder).size == 252
    return folder


def work(folder: Path, say: mmap.mmap) -> None:
    """What the child does. It speaks by shared memory: no system call is its own."""
    lines: list[str] = []

    def tell(*new: str) -> None:
        lines.extend(new)
        text = "\n".join(lines).encode()
        say[: len(text)] = text

    try:
        ledger = sequencer.Ledger.open(folder, signer=SIGNER, clock=lambda: 1_900_000_000_000_000_000)
    except SteleError as error:
        tell(f"refused {error.code}")
        return
    for number in range(2):
        try:
            made = ledger.append([event(number, workload=f"w{n}") for n in range(4)])
            tell(*(f"acked {item.at} {item.entry.digest()}" for item in made))
            ledger.publish()
        except SteleError as error:
            tell(f"refused {error.code}")
    ledger.close()
    tell("closed")


def run(folder: Path, log: Path, *strace: str) -> tuple[list[str], int]:
    """What a child said that does the work under strace, and its wait status."""
    say = mmap.mmap(-1, 1 << 16)
    status = traced.run(lambda: work(folder, say), log, "-e", f"trace={','.join(CALLS)}", *strace)
    text = bytes(say).rstrip(b"\0").decode()
    say.close()
    return text.split("\n") if text else [], status


def calls_of(log: Path) -> list[str]:
    """The system calls of a run, in order, that name the ledger's files or an open file."""
    return re.findall(r"^(?:\d+ +)?(\w+)\(", log.read_text("utf-8", "replace"), re.MULTILINE)


def test_every_call_fails_once_and_the_writer_is_killed_at_each(base, tmp_path):
    folder, log = tmp_path / "ledger", tmp_path / "trace"
    shutil.copytree(base, folder)
    said, status = run(folder, log)
    assert (said[-1], status) == ("closed", 0)
    counts = Counter(calls_of(log))
    assert set(counts) >= {"openat", "write", "pwrite64", "fsync", "fdatasync", "rename", "unlink"}, counts
    assert len([line for line in said if line.startswith("acked")]) == 8
    outcomes: Counter[str] = Counter()
    for call, count in sorted(counts.items()):
        for when in range(1, count + 1):
            for how in ("error=EIO", "error=ENOSPC", "signal=KILL"):
                shutil.rmtree(folder)
                shutil.copytree(base, folder)
                witness = Witness(folder)
                witness.look()
                said, status = run(folder, log, "-e", f"inject={call}:{how}:when={when}")
                what = (call, when, how, said)
                if how == "signal=KILL":
                    assert os.WIFSIGNALED(status), what
                    assert os.WTERMSIG(status) == signal.SIGKILL, what
                else:
                    assert status == 0, what  # it never dies of it
                    assert "(INJECTED)" in log.read_text("utf-8", "replace"), what
                codes = {line.split()[1] for line in said if line.startswith("refused")}
                assert codes <= {"ledger.write-failed"}, what
                outcomes[f"{how} {'refused' if codes else 'done'}"] += 1
                witness.hear([line for line in said if line.startswith("acked")])
                witness.judge()
    assert outcomes["error=EIO refused"] > 10
    assert outcomes["error=EIO done"] > 10  # what is only a cache, or is tried again, holds nothing up
    assert sum(outcomes.values()) == 3 * sum(counts.values())
