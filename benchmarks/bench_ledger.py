"""What the ledger adds to the disk: a commit beside the bare pwrite and fdatasync of the same bytes; threads, batches, proofs.

    .venv/bin/python benchmarks/bench_ledger.py [--rounds 400] [--folder /var/tmp] [--json FILE]

The bare writer has its file written with zeros ahead, as the ledger's write-ahead log has. Nothing is published during a
measurement, except where it says so. The last lines are latencies of single calls (p50, p99), not means.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT), str(ROOT / "src")]
from measure import keep, paired, percentile, report

from stele.ledger import sequencer
from stele.ledger.past import PastLedger
from stele.ledger.reader import LedgerReader
from stele.ledger.sequencer import Ledger
from stele.model.release import ReleaseEvidence
from stele.prove import build, shape
from stele.prove.verify import verify
from tests.ledgers import SECOND, SIGNER, START, TRUST, event, sealed


class Bare:
    """What nobody can be faster than: the same bytes, one pwrite and one fdatasync."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.write(self.fd, bytes(64 << 20))
        os.fsync(self.fd)
        self.at = 0

    def __call__(self, data: bytes) -> None:
        """Write and sync."""
        os.pwrite(self.fd, data, self.at % (60 << 20))
        os.fdatasync(self.fd)
        self.at += len(data)


def timed(call, *args) -> float:
    begun = time.perf_counter()
    call(*args)
    return time.perf_counter() - begun


def check(folder: Path) -> list[str]:
    """Check a whole ledger; what does not fit."""
    return LedgerReader(folder).check(TRUST.ledgers)


def open_and_close(folder: Path) -> None:
    """Open a ledger and close it."""
    opened(folder).close()


def opened(folder: Path) -> Ledger:
    return Ledger.open(folder, signer=SIGNER, clock=time.time_ns)


def lone(work: Path, rounds: int) -> list[dict[str, object]]:
    """One event a call, and batches."""
    results = []
    ledger, bare = opened(work / "lone"), Bare(work / "bare")
    for size in (1, 16, 256):
        events = [event(number) for number in range(size)]
        raw = b"".join(bytes(8) + item.entry.encode() for item in ledger.append(events))
        times = paired(
            {"ledger": partial(timed, ledger.append, events), "pwrite, fdatasync": partial(timed, bare, raw)},
            rounds=rounds,
        )
        name = f"a commit of {size} ({len(raw)} bytes)"
        results.append(report(name, times, "ledger", unit="ms", scale=1000))
        for who, values in times.items():
            print(f"  {who:28} p50 {percentile(values, 0.5) * 1e6:8.0f} us  p99 {percentile(values, 0.99) * 1e6:8.0f} us")
        ours, its = percentile(times["ledger"], 0.99), percentile(times["pwrite, fdatasync"], 0.99)
        print(f"  {'p99 over p99':28} {ours / its:.2f}x; {size / percentile(times['ledger'], 0.5):,.0f} events/s")
    ledger.close()
    return results


def threads(work: Path, rounds: int) -> None:
    """Sixteen threads, one event a call: group commit, published ten times a second."""
    sequencer.PUBLISH_EVERY_S = 0.1
    ledger = opened(work / "threads")
    times: list[float] = []

    def run() -> None:
        for number in range(rounds):
            times.append(timed(ledger.append, [event(number, workload=threading.current_thread().name)]))

    workers = [threading.Thread(target=run, name=f"w{number}") for number in range(16)]
    begun = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    took = time.perf_counter() - begun
    print("\n16 threads, one event a call, publishing in the background")
    print(f"  {len(times) / took:,.0f} events/s; p50 {percentile(times, 0.5) * 1e6:.0f} us  p99 {percentile(times, 0.99) * 1e6:.0f} us")
    ledger.close()


def _prove(folder: Path, material: ReleaseEvidence) -> bytes:
    with PastLedger(folder) as log:
        return build.build(log, shape.StateClaim(workload="shop", at_ns=START + 5), "chain", lambda _: material)


def proofs(work: Path, rounds: int) -> list[dict[str, object]]:
    """Building and verifying, by the length of the ledger and of the workload's chain; opening and checking."""
    results = []
    sequencer.PUBLISH_EVERY_S = 3600.0
    digest, material = sealed()
    for total, mine in ((1000, 10), (20_000, 10), (20_000, 1000)):
        folder = work / f"proof-{total}-{mine}"
        ledger = opened(folder)
        one = {"instance": "shop-1", "release": digest}
        ledger.append([event(0, kind="instance.starting", **one), event(1, kind="instance.active", **one)])
        for begin in range(0, total, 1000):
            ledger.append([event(n * SECOND, workload=f"w{n % 20}" if n % (total // mine) else "shop") for n in range(begin, begin + 1000)])
        publish = timed(ledger.publish)
        ledger.close()
        data = _prove(folder, material)
        times = paired(
            {
                "build": partial(timed, _prove, folder, material),
                "verify": partial(timed, verify, data, TRUST),
                "check the whole ledger": partial(timed, check, folder),
                "open the ledger, close it": partial(timed, open_and_close, folder),
            },
            rounds=rounds,
        )
        results.append(
            report(
                f"a proof of {mine} entries of {total} ({len(data) / 1024:.0f} KiB); publishing took {publish * 1000:.0f} ms",
                times,
                "verify",
                unit="ms",
                scale=1000,
            )
        )
    return results


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--folder", default="/var/tmp")
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    sequencer.PUBLISH_EVERY_S = 3600.0
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        work = Path(name)
        results = lone(work, options.rounds)
        threads(work, options.rounds)
        results += proofs(work, max(3, options.rounds // 80))
    keep(results, options.json)


if __name__ == "__main__":
    main()
