"""A ledger for benchmarks: so many entries of so many workloads, a checkpoint every few hundred; kept in the cache between runs.

    .venv/bin/python benchmarks/million.py [--entries 1000000] [--workloads 10000] [--folder /var/tmp/stele-bench]

Each workload is sealed, started, serves, is confirmed and reports health, again and again; every third round replaces its release.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT), str(ROOT / "src")]

from stele.ledger import sequencer
from stele.ledger.sequencer import Ledger
from stele.model.event import Event
from tests.ledgers import SECOND, SIGNER, START, sealed

BATCH = 500  # entries between two checkpoints
KINDS = ("instance.starting", "instance.started", "instance.healthy", "instance.active", "deploy.confirmed", "instance.healthy")


class Ticking:
    """A clock that is set to the stamp of the last event."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        """Nanoseconds."""
        return self.now


def _event(number: int, workloads: int, releases: tuple[str, str], time_ns: int) -> Event:
    name, round_ = f"app-{number % workloads:05d}", number // workloads
    start = round_ // len(KINDS)
    data = {"instance": f"{name}-{start}", "release": releases[start // 3 % 2]}
    return Event(workload=name, kind=KINDS[round_ % len(KINDS)], time_ns=time_ns, actor="agent", data=data)


def built(folder: Path, entries: int, workloads: int) -> Path:
    """The ledger; made if it is not there yet. Between two checkpoints lie a hundred milliseconds."""
    folder = folder / f"ledger-{entries}-{workloads}-3"
    done = folder.with_suffix(".done")
    if done.exists():
        return folder
    print(f"making a ledger of {entries:,} entries and {workloads:,} workloads in {folder} …", flush=True)
    sequencer.PUBLISH_EVERY_S = 1e9
    clock, begun = Ticking(), time.monotonic()
    releases = sealed("app")[0], sealed("app", b"two")[0]
    step = SECOND // 10 // BATCH
    ledger = Ledger.open(folder, signer=SIGNER, clock=clock)
    for begin in range(ledger.size, entries, BATCH):
        ledger.append([_event(number, workloads, releases, START + number * step) for number in range(begin, min(begin + BATCH, entries))])
        clock.now = START + (begin + BATCH) * step
        ledger.publish()
    ledger.close()
    done.touch()
    print(f"made in {time.monotonic() - begun:.0f} s", flush=True)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--workloads", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp/stele-bench"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    built(options.folder, options.entries, options.workloads)
