"""Collecting the evidence of a frozen process of 200 MB, beside `gcore` (gdb) of the same process.

    sudo .venv/bin/python benchmarks/bench_collect.py [--rounds 5] [--megabytes 200] [--json FILE]

Stele's bundle is complete: /proc, files, core, SHA-256 of everything, manifest, signature, on disk (syncfs). gcore writes the
core only, attaches by ptrace and needs the process thawed to stop it; it hashes nothing and leaves the writing to the kernel.
`gcore, sync, sha256sum` does what makes a core evidence.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT), str(ROOT / "src")]
from measure import command, keep, paired, report

from stele.respond import elfcore
from stele.trust.release_key import PrivateKey
from tests import frozen

SCRIPT = """
import os, sys
held = [os.urandom(1 << 20) for _ in range(int(sys.argv[1]))]
print("ready", flush=True)
sys.stdin.read(1)
"""
RESERVED = """
import ctypes, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
for _ in range(16):
    where = libc.mmap(None, ctypes.c_size_t(64 << 30), 1, 0x4022, -1, ctypes.c_long(0))
print("ready", flush=True)
sys.stdin.read(1)
"""


def main() -> None:
    """Run the comparison and print ratios, then what huge reservations cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--folder", default="/var/tmp")
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        work = Path(name)
        results = [_beside_gcore(work, options.megabytes, options.rounds), _reserved(work, options.rounds)]
    keep(results, options.json)


def _beside_gcore(work: Path, megabytes: int, rounds: int) -> dict[str, object]:
    key = PrivateKey.generate()
    ours = f"stele collect, {megabytes} MB"
    with frozen.victim(SCRIPT, str(megabytes), stdin=subprocess.PIPE) as victim:
        core = work / f"core.{victim.pid}"
        gcore = ["gcore", "-o", str(work / "core"), str(victim.pid)]

        def before(name: str) -> None:
            shutil.rmtree(work / "incident", ignore_errors=True)
            core.unlink(missing_ok=True)
            os.sync()
            # ptrace cannot stop a frozen task: gdb gets it thawed, we get it frozen
            if name == ours:
                victim.freezer.request()
                victim.freezer.await_frozen(frozen.LIMIT_S)
            else:
                victim.freezer.thaw()

        def collect() -> float:
            begun = time.perf_counter()
            frozen.gather(work / "incident", victim, key=key, memory=4 << 30)
            return time.perf_counter() - begun

        candidates = {
            ours: collect,
            "gcore": command(gcore),
            "gcore, sync, sha256sum": command(["sh", "-c", f"{' '.join(gcore)} && sync -f {core} && sha256sum {core}"]),
        }
        times = paired(candidates, rounds=rounds, before=before)
        before(ours)
        planned = elfcore.plan(f"/proc/{victim.pid}", elfcore.parse_maps(victim.read("maps")), {}, 4 << 30)
    table = report(f"evidence of a process of {megabytes} MB", times, ours, unit="ms", scale=1000)
    for name, values in times.items():
        print(f"  {name}: {planned.size / statistics.median(values) / 1e6:.0f} MB/s")
    return table


def _reserved(work: Path, rounds: int) -> dict[str, object]:
    key = PrivateKey.generate()
    with frozen.victim(RESERVED, stdin=subprocess.PIPE) as victim:

        def collect() -> float:
            shutil.rmtree(work / "incident", ignore_errors=True)
            begun = time.perf_counter()
            frozen.gather(work / "incident", victim, key=key)
            return time.perf_counter() - begun

        times = paired({"stele collect": collect}, rounds=rounds)
    return report("evidence of a process with 1 TiB reserved and readable", times, "stele collect", unit="ms", scale=1000)


if __name__ == "__main__":
    main()
