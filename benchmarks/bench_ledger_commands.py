"""What a command without an agent pays for the ledger (opening, one entry, publishing, closing), by how many came before it.

    .venv/bin/python benchmarks/bench_ledger_commands.py [--commands 10 100 1000 10000] [--rounds 40] [--folder /var/tmp]

Each command publishes a checkpoint, as every seal does. Those before are made by one process that publishes as often. A command is measured
in turn with three bare appends, of as many bytes as it syncs: its entry, its epoch, its note; each a pwrite and an fdatasync. Every 17th command begins
the write-ahead log anew: it is among the slowest per cent.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT), str(ROOT / "src")]

from bench_ledger import Bare
from measure import percentile

from stele.ledger.sequencer import Ledger
from stele.model.event import Event
from tests.ledgers import SIGNER, event

WARM = 40  # commands: past what the large process left of its write-ahead log
SYNCED = (700, 500, 3500)  # bytes: an entry, an epoch, a note


def sealed(number: int) -> Event:
    """An event as a seal has it."""
    return event(number, kind="release.sealed", release=f"sha256:{number:064x}", tree=f"sha256:{number:064x}", keys=["c" * 64])


def grow(folder: Path, number: int, until: int) -> None:
    """Publish until there are so many checkpoints."""
    ledger = Ledger.open(folder, signer=SIGNER, clock=time.time_ns)
    for each in range(number, until):
        ledger.append([sealed(each)])
        ledger.publish()
    ledger.close()


def one(folder: Path, number: int) -> tuple[float, float, float]:
    """Seconds of a command: opening, appending, closing."""
    begun = time.perf_counter()
    ledger = Ledger.open(folder, signer=SIGNER, clock=time.time_ns)
    opened = time.perf_counter()
    ledger.append([sealed(number)])
    appended = time.perf_counter()
    ledger.close()
    return opened - begun, appended - opened, time.perf_counter() - appended


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", type=int, nargs="+", default=[10, 100, 1000, 10000])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--folder", default="/var/tmp")
    options = parser.parse_args()
    print("ms, medians; beside three bare pwrite and fdatasync in turn; all: with the slowest of a hundred")
    first = 0.0
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder, number = Path(name) / "ledger", 0
        bare = Bare(Path(name) / "bare")
        for before in options.commands:
            grow(folder, number, before)
            for number in range(before, before + WARM):
                one(folder, number)
            ours, its = [], []
            for number in range(before + WARM, before + WARM + options.rounds):
                ours.append(one(folder, number))
                begun = time.perf_counter()
                for size in SYNCED:
                    bare(bytes(size))
                its.append(time.perf_counter() - begun)
            number += 1
            opening, appending, closing = (percentile([each[at] for each in ours], 0.5) * 1000 for at in range(3))
            whole, least = percentile([sum(each) for each in ours], 0.5), percentile(its, 0.5)
            first = first or whole
            print(
                f"  after {before:6,}: open {opening:5.2f}  append {appending:5.2f}  close {closing:5.2f}  all {whole * 1000:6.2f}, "
                f"{percentile([sum(each) for each in ours], 0.99) * 1000:6.2f}  bare {least * 1000:5.2f}  ratio {whole / least:5.1f}x  "
                f"of the first {whole / first:4.2f}x  load {os.getloadavg()[0]:.1f}"
            )


if __name__ == "__main__":
    main()
