"""A ledger of a million entries and ten thousand workloads: opening it after kill -9, a lone append, what it takes on disk, a full check.

    .venv/bin/python benchmarks/bench_ledger_million.py [--entries 1000000] [--workloads 10000] [--folder /var/tmp] [--no-check]

The ledger is made once and kept (benchmarks/million.py); what is done to it is done to a copy. Opening is measured in a fresh process
that was killed with SIGKILL while it appended, and beside reading what it reads at least: the write-ahead log. A lone append is
measured while publishing goes on beside it, as in the agent, beside a bare pwrite and fdatasync of as many bytes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT), str(ROOT / "src")]

import million
from bench_ledger import Bare
from measure import percentile

from stele.ledger.reader import LedgerReader
from stele.ledger.sequencer import Ledger
from tests.ledgers import SIGNER, event

CHILD = """
import sys, time
sys.path[:0] = [{bench!r}, {root!r}, {src!r}]
from pathlib import Path
from stele.ledger.sequencer import Ledger
from tests.ledgers import SIGNER, event
begun = time.perf_counter()
ledger = Ledger.open(Path({folder!r}), signer=SIGNER, clock=time.time_ns)
opened = time.perf_counter() - begun
ledger.append([event(1, workload="app-00007")])
print(opened, time.perf_counter() - begun, flush=True)
number = 0
while True:
    ledger.append([event(number + n, workload=f"app-{{(number + n) % 10000:05d}}") for n in range(64)])
    number += 64
"""


def restart(folder: Path, rounds: int) -> None:
    """Opening after a writer was killed in the middle of its work."""
    opens, firsts = [], []
    text = CHILD.format(bench=str(Path(__file__).parent), root=str(ROOT), src=str(ROOT / "src"), folder=str(folder))
    for _ in range(rounds + 1):
        with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            opened, first = map(float, child.stdout.readline().split())
            opens.append(opened)
            firsts.append(first)
            time.sleep(1.0)  # it appends and publishes meanwhile; where the blow falls is chance
            child.send_signal(signal.SIGKILL)
    begun = time.perf_counter()
    size = sum(len((folder / ".state" / name).read_bytes()) for name in ("wal.0", "wal.1"))
    raw = time.perf_counter() - begun
    # the first opening is after a clean close
    print(f"\nopening after kill -9 ({rounds} times)")
    print(f"  open      median {percentile(opens[1:], 0.5) * 1000:7.0f} ms  worst {max(opens[1:]) * 1000:7.0f} ms")
    print(f"  first append done {percentile(firsts[1:], 0.5) * 1000:7.0f} ms  worst {max(firsts[1:]) * 1000:7.0f} ms")
    print(f"  reading the write-ahead log's {size >> 20} MiB alone: {raw * 1000:.0f} ms; ratio {percentile(opens[1:], 0.5) / raw:.1f}x")


def lone(folder: Path, work: Path, rounds: int) -> None:
    """One event a call, at the pace of a busy host, each for another workload."""
    ledger, bare = Ledger.open(folder, signer=SIGNER, clock=time.time_ns), Bare(work / "bare")
    ours, its = [], []
    size = 0
    for number in range(rounds):
        one = event(number, workload=f"app-{number * 7919 % 10000:05d}")
        begun = time.perf_counter()
        (made,) = ledger.append([one])
        ours.append(time.perf_counter() - begun)
        size = len(made.entry.encode())
        begun = time.perf_counter()
        bare(bytes(size + 8))
        its.append(time.perf_counter() - begun)
        time.sleep(0.005)
    ledger.close()
    print(f"\na lone append of {size} bytes, {rounds} times, publishing beside it")
    for who, times in (("ledger", ours), ("pwrite, fdatasync", its)):
        print(f"  {who:20} p50 {percentile(times, 0.5) * 1000:6.2f} ms  p99 {percentile(times, 0.99) * 1000:6.2f} ms")
    print(
        f"  ratio                p50 {percentile(ours, 0.5) / percentile(its, 0.5):6.2f}x  p99 {percentile(ours, 0.99) / percentile(its, 0.99):5.2f}x"
    )


def disk(folder: Path, entries: int) -> None:
    """Bytes for an entry, by what they are for."""
    groups = {"entries": "tile/entries", "hash tiles": "tile/[0-9]*", "checkpoints": "checkpoints", "epoch maps": "map"}
    print("\non disk, bytes for an entry (blocks as the file system counts them)")
    total = 0
    for name, pattern in groups.items():
        paths = [path for top in folder.glob(pattern) for path in top.rglob("*") if path.is_file()]
        size = sum(path.stat().st_blocks * 512 for path in paths)
        total += size
        print(f"  {name:12} {size / entries:8.1f}   ({len(paths):,} files)")
    cache = sum(path.stat().st_blocks * 512 for path in folder.glob("projection*"))
    print(f"  {'all':12} {total / entries:8.1f}   and the projection {cache / entries:.1f}")


def check(folder: Path) -> None:
    """Everything, from the entries."""
    reader = LedgerReader(folder)
    begun = time.perf_counter()
    problems = reader.check(SIGNER.verifiers)
    took = time.perf_counter() - begun
    assert problems == [], problems[:3]
    print(
        f"\na full check: {reader.size:,} entries in {took:.1f} s: {reader.size / took:,.0f}/s (chains, epochs, maps, tiles, all checkpoints)"
    )


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--workloads", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default="/var/tmp")
    parser.add_argument("--no-check", action="store_true")
    options = parser.parse_args()
    kept = million.built(Path(options.folder) / "stele-bench", options.entries, options.workloads)
    disk(kept, options.entries)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        work = Path(name)
        shutil.copytree(kept, work / "ledger")
        os.sync()
        lone(work / "ledger", work, 1000)
        restart(work / "ledger", options.rounds)
        if not options.no_check:
            check(work / "ledger")


if __name__ == "__main__":
    main()
