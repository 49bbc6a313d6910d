"""Reading and publishing a large ledger: first pages beside grep over an export; uploads beside rclone and a copy of the same files.

    .venv/bin/python benchmarks/bench_reading.py [--entries 1000000] [--workloads 10000] [--rounds 5] [--folder /var/tmp] [--json FILE]

Each page is a whole run of the command, the start of Python included; what that costs alone is a line of its own. The storage is versitygw on
this machine, so that both sides of an upload share its cores.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT), str(ROOT / "src")]
from measure import command, keep, paired, report

from stele.flow.places import Places
from stele.ledger import sequencer
from stele.ledger.sequencer import Ledger
from stele.model.event import Event
from stele.trust import trust_keys
from tests import storage
from tests.ledgers import SECOND, SIGNER, START, TRUST

STELE = str(Path(sys.executable).with_name("stele"))
KINDS = ("instance.starting", "instance.started", "instance.healthy", "instance.active", "change.observed", "instance.stopped")


def fill(places: Places, entries: int, workloads: int) -> float:
    """A ledger with an entry a second, a violation in ten thousand; returns the seconds that it took."""
    places.keys.mkdir(parents=True)
    places.trust.write_bytes(trust_keys.encode(TRUST))
    sequencer.PUBLISH_EVERY_S = 3600.0
    begun = time.perf_counter()
    ledger = Ledger.open(places.ledger, signer=SIGNER, clock=lambda: START)
    try:
        for first in range(0, entries, 4096):
            ledger.append([_event(number, workloads) for number in range(first, min(first + 4096, entries))])
            if first // 4096 % 16 == 15:
                ledger.publish()
        ledger.publish()
    finally:
        ledger.close()
    return time.perf_counter() - begun


def _event(number: int, workloads: int) -> Event:
    workload = f"w{number * 7919 % workloads}"
    kind = "violation" if number % 10_000 == 77 else KINDS[number % len(KINDS)]
    data = {"instance": f"{workload}-{number % 97:06x}", "release": f"sha256:{number % 1013:064x}"}
    return Event(workload=workload, kind=kind, time_ns=START + number * SECOND, actor="agent", data=data)


def pages(work: Path, places: Places, entries: int, rounds: int) -> list[dict[str, object]]:
    """The first page of what people ask for."""
    log = [STELE, "--data", str(places.data), "log"]
    export = work / "export.jsonl"
    begun = time.perf_counter()
    subprocess.run([*log, "export", "--all", "-o", str(export)], check=True, stdout=subprocess.DEVNULL)
    took = time.perf_counter() - begun
    print(f"\nexport of everything as JSON lines: {took:.1f} s, {entries / took:,.0f} entries/s, {export.stat().st_size >> 20} MiB")
    late = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(START // SECOND + entries - 3600))
    middle = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(START // SECOND + entries // 2 + more)) for more in (0, 60)]

    def grep(pattern: str) -> list[str]:
        return ["sh", "-c", f"LC_ALL=C grep -F '{pattern}' {export} | tail -50"]

    asked = {
        "the last 50": ([], ["tail", "-n", "50", str(export)]),
        "of a workload": (["-w", "w42"], grep('"workload":"w42"')),
        "of a pattern": (["-w", "w4?2"], ["sh", "-c", f'LC_ALL=C grep -E \'"workload":"w4.2"\' {export} | tail -50']),
        "of a kind (1 in 10,000)": (["--kind", "incidents"], grep('"kind":"violation"')),
        "of the last hour": (["--since", late], ["tail", "-n", "3600", str(export)]),
        "of a minute in the middle": (["--since", middle[0], "--until", middle[1]], grep(f'"time_ns":{START // SECOND + entries // 2}')),
        "of a release": (["--release", f"{7:064x}"], grep(f"sha256:{7:064x}")),
    }
    results = []
    for name, (options, peer) in asked.items():
        ours = command([*log, *options])
        times = paired(
            {"stele log": ours, "grep, tail over the export": command(peer), "stele --help": command([STELE, "--help"])}, rounds=rounds
        )
        results.append(report(f"first page {name}", times, "stele log", unit="ms", scale=1000))
    return results


def uploads(work: Path, places: Places, rounds: int) -> list[dict[str, object]]:
    """The whole ledger to an empty place."""
    public = work / "public"
    shutil.copytree(places.ledger, public, ignore=shutil.ignore_patterns(".state", "map", "projection.sqlite*", "checkpoints", "*.tmp"))
    files = sum(1 for path in public.rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in public.rglob("*") if path.is_file())
    fresh = itertools.count()
    os.environ.update(storage.ENV)
    os.environ.pop("AWS_CA_BUNDLE", None)  # rclone 1.60 cannot use one
    with storage.running(work) as (url, client):
        client.create_bucket(Bucket="bench", ObjectLockEnabledForBucket=True)
        publish = [
            STELE,
            "log",
            "publish",
            "--endpoint",
            url,
            "--ledger",
            str(places.ledger),
            "--trust",
            str(places.trust),
            "--retain",
            "1d",
        ]

        def ours() -> float:
            number = next(fresh)
            return timed([*publish[:1], "--data", str(work / f"memory-{number}"), *publish[1:], f"s3://bench/ours{number}"])

        remote = f":s3,provider=Other,env_auth=true,endpoint='{url}',force_path_style=true:bench/rclone"
        sync = ["rclone", "copy", "--config", "/dev/null", "--transfers", "8", "--checkers", "8", "--s3-no-check-bucket", str(public)]
        candidates = {
            "stele log publish, 8 at once": ours,
            "rclone copy, 8 at once": lambda: timed([*sync, f"{remote}{next(fresh)}"]),
            "cp -r, fsync of each": lambda: timed(["sh", "-c", f"cp -r {public} {work}/copy{next(fresh)} && sync -f {work}"]),
        }
        if shutil.which("rclone") is None:
            del candidates["rclone copy, 8 at once"]
            print("rclone is not installed: left out")
        times = paired(candidates, rounds=rounds)
        made = report(f"uploading {files} files, {size >> 20} MiB", times, "stele log publish, 8 at once")
        ours_s = sorted(times["stele log publish, 8 at once"])[rounds // 2]
        print(f"  {files / ours_s:,.0f} files/s")
        last = [*publish[:1], "--data", str(work / "memory-0"), *publish[1:], "s3://bench/ours0"]
        return [
            made,
            report("publishing again, with nothing new", paired({"stele log publish": command(last)}, rounds=rounds), "stele log publish"),
        ]


def timed(argv: list[str]) -> float:
    return command(argv)()


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--workloads", type=int, default=10_000)
    parser.add_argument("--uploaded", type=int, default=100_000, help="entries of the ledger that is uploaded")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default="/var/tmp")
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        work = Path(name)
        small = Places(work / "small")
        fill(small, options.uploaded, min(options.workloads, 1000))
        results = uploads(work, small, min(3, options.rounds))
        large = Places(work / "large")
        took = fill(large, options.entries, options.workloads)
        print(f"\n{options.entries:,} entries of {options.workloads:,} workloads, written in {took:.0f} s")
        results += pages(work, large, options.entries, options.rounds)
    keep(results, options.json)


if __name__ == "__main__":
    main()
