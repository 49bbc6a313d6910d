"""Appends per second, by the size of a call and the number of threads that call, beside Tessera's POSIX driver in the same run.

    .venv/bin/python benchmarks/bench_ledger_append.py [--entries 40000] [--folder /var/tmp] [--no-tessera] [--json FILE]

*committed*: on disk and acknowledged. *published*: until a signed checkpoint covers all, with the epoch map of 1,000 workloads and
the SQLite projection up to date (`publish` returns when all of it is). Publishing runs beside it, as in the agent; so many entries
went before that both files of the write-ahead log are there. fsyncs are all of fsync, fdatasync and syncfs. The second
table has a disk whose every fsync takes 5 ms more, for Tessera by strace's delay of these calls alone. Tessera gets entries of the same
size, batches of the same size, and publishes as often; its figure is until all are integrated. It syncs every file that it writes; it
has no chains, no map and no projection, and its figure is not until a checkpoint is signed.

The last lines say what bounds us: what CPython needs for what an entry cannot do without, on one core, with no disk and none of our
code: its spelling (msgspec), its digest for the next one's `prev`, its leaf's hash, its share of the nodes', its CRC; and SQLite for its row.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT), str(ROOT / "src")]

from stele.host import durable
from stele.ledger import projection, wal
from stele.ledger.sequencer import Ledger
from stele.model.event import Entry
from tests import judges
from tests.ledgers import SIGNER, event

CALLS = (1, 64, 1024, 4096)
SUBMITTERS = (1, 16)
WORKLOADS = 1000
BEFORE = 8192


class Fsyncs:
    """Counts them, and makes each take longer."""

    def __init__(self, more_s: float = 0.0) -> None:
        self.count, self.more_s = 0, more_s

    def wrapped(self, real):
        """A call that is counted."""

        def call(*args):
            self.count += 1
            if self.more_s:
                time.sleep(self.more_s)
            return real(*args)

        return call

    @contextlib.contextmanager
    def counted(self) -> Iterator[Fsyncs]:
        """All of this process, as long as it lasts."""
        before = os.fsync, os.fdatasync, durable.sync_filesystem
        os.fsync, os.fdatasync, durable.sync_filesystem = (self.wrapped(real) for real in before)
        try:
            yield self
        finally:
            os.fsync, os.fdatasync, durable.sync_filesystem = before


def ours(folder: Path, entries: int, call: int, submitters: int, more_s: float) -> dict[str, float]:
    """One run."""
    wal.FIRST = wal.STEP = 64 << 20  # what grows is not measured: it is written ahead
    ledger = Ledger.open(folder, signer=SIGNER, clock=time.time_ns)
    ledger.append([event(n, workload=f"w{n % WORKLOADS}") for n in range(BEFORE)])
    ledger.publish()
    work: list[list[list]] = [[] for _ in range(submitters)]
    for number, first in enumerate(range(0, entries, call)):
        calls = [event(n, workload=f"w{n % WORKLOADS}") for n in range(first, min(first + call, entries))]
        work[number % submitters].append(calls)

    def submit(mine: list[list]) -> None:
        for calls in mine:
            ledger.append(calls)

    threads = [threading.Thread(target=submit, args=(mine,)) for mine in work]
    with Fsyncs(more_s).counted() as fsyncs:
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        committed = time.perf_counter() - begun
        ledger.publish()
        published = time.perf_counter() - begun
        count = fsyncs.count
    ledger.close()
    return {"committed": entries / committed, "published": entries / published, "fsyncs": 1000 * count / entries}


def theirs(program: Path, folder: Path, entries: int, call: int, submitters: int, more_s: float) -> float:
    """One run of Tessera: entries per second until all are integrated."""
    argv = [str(program), str(folder), str(entries), str(call), str(submitters)]
    if more_s:
        # a seccomp filter lets strace see these calls only, so that it costs the others nothing
        syncs = "fsync,fdatasync,syncfs"
        delay = f"inject={syncs}:delay_exit={more_s * 1e6:.0f}"
        argv = ["strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", f"trace={syncs}", "-e", delay, *argv]
    done = subprocess.run(argv, capture_output=True, check=True, timeout=300)
    return float(done.stdout.split()[1])


def table(work: Path, entries: int, more_s: float, tessera: Path | None) -> list[dict[str, object]]:
    """All runs of one disk."""
    print(f"\nfsync {'as it is' if not more_s else f'takes {more_s * 1000:.0f} ms more'}")
    print(f"{'submitters':>10} {'a call':>7} {'committed/s':>12} {'published/s':>12} {'fsyncs/1000':>12} {'Tessera/s':>10} {'ratio':>7}")
    rows: list[dict[str, object]] = []
    for submitters in SUBMITTERS:
        for call in CALLS:
            # small calls wait for the disk: fewer of them say as much
            total = min(entries, max(300, 20 * call * submitters) if more_s or call == 1 else entries)
            found = ours(work / f"o{len(rows)}-{more_s}", total, call, submitters, more_s)
            line = f"{submitters:>10} {call:>7} {found['committed']:>12,.0f} {found['published']:>12,.0f} {found['fsyncs']:>12.1f}"
            if tessera:
                found["tessera"] = theirs(tessera, work / f"t{len(rows)}-{more_s}", total, call, submitters, more_s)
                line += f" {found['tessera']:>10,.0f} {found['published'] / found['tessera']:>6.2f}x"
            print(line, flush=True)
            rows.append({"submitters": submitters, "call": call, "fsync_ms_more": more_s * 1000, "entries": total, **found})
    return rows


def seconds(call: Callable[[], object]) -> float:
    """The shortest of five: what the machine can, whatever else runs on it."""
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return min(times)


def bounds(entries: int, rows: list[dict[str, object]]) -> dict[str, float]:
    """What nobody can do faster in CPython, beside Tessera's figures."""
    plain = [Entry(event=event(n, workload=f"w{n % WORKLOADS}"), seq=n, prev=f"sha256:{n:064x}").plain() for n in range(entries)]
    encoder, sha256 = msgspec.json.Encoder(order="sorted"), hashlib.sha256

    def written() -> None:
        crc, prev = 0, ""
        leaves = []
        for each in plain:
            each["prev"] = prev
            raw = encoder.encode(each)
            prev = "sha256:" + sha256(raw).hexdigest()
            leaves.append(sha256(b"\0" + raw).digest())
            crc = zlib.crc32(raw, crc)
        while len(leaves) > 1:
            leaves = [sha256(b"\1" + left + right).digest() for left, right in zip(leaves[::2], leaves[1::2], strict=False)]

    def projected() -> None:
        with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
            db.executescript(projection.SCHEMA)
            db.execute("BEGIN")
            db.executemany(
                "INSERT INTO entries VALUES (?,?,?,?,?,?,?)",
                ((n, each["workload"], n, each["kind"], each["time_ns"], each["actor"], "{}") for n, each in enumerate(plain)),
            )
            db.execute("COMMIT")

    found = {"entry": entries / seconds(written), "row": entries / seconds(projected)}
    found["both on two cores"] = 2 / (1 / found["entry"] + 1 / found["row"])
    best = max((float(str(row["tessera"])) for row in rows if "tessera" in row), default=0.0)
    print(
        "\nwhat bounds it: spelling, three hashes and CRC of an entry alone; its row in SQLite alone; both, if two cores shared them evenly"
    )
    for name, rate in found.items():
        print(f"  {name:18} {rate:>10,.0f}/s" + (f"  {rate / best:.1f} times Tessera's best above" if best else ""))
    return found


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=40_000)
    parser.add_argument("--folder", default="/var/tmp")
    parser.add_argument("--no-tessera", action="store_true")
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    tessera = None if options.no_tessera else judges.go_main(Path(__file__).parent / "tessera")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        rows = table(Path(name), options.entries, 0.0, tessera)
        rows += table(Path(name), options.entries, 0.005, tessera)
    rows.append({"bounds": bounds(options.entries, rows)})
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
