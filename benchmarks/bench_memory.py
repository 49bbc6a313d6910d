"""Peak memory of sealing much: a folder of 10 GiB in large files, two of noise, and one of 200,000 files, beside restic and borg.

    sudo .venv/bin/python benchmarks/bench_memory.py [--gib 10] [--noise 2] [--files 200000] [--json FILE]

Resident memory of the command and all its children together, looked at every 10 ms; what several of them share counts once. The 10 GiB are
sparse and hold little but zeros, so that the layer is small; the image is written whole. The noise cannot be compressed: it is written
twice. In small files it is cut into strata as large as are made in memory, which takes the most. `sealing again` is after one file of the
folder changed, and after a new file came, which goes the whole way. docs/guide/benchmarks.md states the bound that the first figures have to keep.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))
from measure import CACHE, installed, keep

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SPEC = b"stele: 0\nname: much\nkind: dataset\n"
STELE = str(Path(sys.executable).parent / "stele")
FIXED, PER_PROCESSOR, PER_FILE = 320 << 20, 112 << 20, 3 << 10  # bytes: the bound
SMALL_NOISE = 2600  # files of 100,000 bytes


def main() -> None:
    """Run both and print what was resident at most."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=int, default=10)
    parser.add_argument("--noise", type=int, default=2, help="GiB")
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    installed()
    os.environ.update(RESTIC_PASSWORD="x", BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK="yes")
    results = []
    for title, make, files in (
        (f"{options.gib} GiB in {options.gib * 8} files", lambda root: _large(root, options.gib), options.gib * 8),
        (f"{options.noise} GiB of noise in {options.noise * 8} files", lambda root: _noise(root, options.noise), options.noise * 8),
        (f"{SMALL_NOISE:,} files of noise", _small_noise, SMALL_NOISE),
        (f"{options.files:,} files", lambda root: _many(root, options.files), options.files),
    ):
        with tempfile.TemporaryDirectory(dir=CACHE) as name:
            try:
                results.append(_measured(title, Path(name), make, files))
            finally:
                subprocess.run(["chattr", "-R", "-i", name], stderr=subprocess.DEVNULL, check=False)
    keep(results, options.json)


def _large(root: Path, gib: int) -> None:
    for number in range(gib * 8):
        with (root / f"{number}.bin").open("wb") as file:
            file.write(b"%d\n" % number * 1000)
            file.truncate(128 << 20)


def _noise(root: Path, gib: int) -> None:
    for number in range(gib * 8):
        with (root / f"{number}.bin").open("wb") as file:
            for _ in range(128):
                file.write(os.urandom(1 << 20))


def _small_noise(root: Path) -> None:
    for number in range(SMALL_NOISE):
        folder = root / f"{number // 43}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}").write_bytes(os.urandom(100_000))


def _many(root: Path, files: int) -> None:
    for number in range(files):
        folder = root / f"{number // 10_000}" / f"{number // 200 % 50}"
        if not number % 200:
            folder.mkdir(parents=True)
        (folder / f"{number}.json").write_bytes(b"%d" % number * 100)


def _measured(title: str, work: Path, make: Callable[[Path], None], files: int) -> dict[str, object]:
    root, spec = work / "root", work / "stele.yaml"
    root.mkdir()
    make(root)
    spec.write_bytes(SPEC)
    subprocess.run([STELE, "--data", str(work / "data"), "init", "--keys-only"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["restic", "-q", "-r", str(work / "restic"), "init"], check=True)
    subprocess.run(["borg", "init", "-e", "none", str(work / "borg")], check=True)
    seal = [STELE, "--data", str(work / "data"), "seal", str(root), "-f", str(spec)]
    processors = len(os.sched_getaffinity(0))
    bound = FIXED + PER_PROCESSOR * (max(0, min(4, processors) - 2) + (processors >= 8)) + PER_FILE * files
    print(f"\n{title}: resident at most; the bound is {bound >> 20} MiB")
    print(f"  {'':34}{'MiB':>8}{'seconds':>10}   of the bound")
    rows = {}

    def row(name: str, argv: Sequence[str]) -> None:
        peak, took = _peak(argv)
        rows[name] = {"peak_bytes": peak, "seconds": took, "of_bound": peak / bound}
        print(f"  {name:34}{peak >> 20:8,}{took:10.1f}   {peak / bound:.2f}", flush=True)

    row("stele seal", seal)
    one = next(path for path in root.rglob("*") if path.is_file())
    with one.open("r+b") as file:
        file.write(b"changed")
    row("stele seal again, a file changed", seal)
    (root / "new").write_bytes(b"new")
    row("stele seal again, a file more", seal)
    row("stele verify", [STELE, "--data", str(work / "data"), "verify", "much"])
    row("restic backup", ["restic", "-q", "-r", str(work / "restic"), "backup", str(root)])
    row("borg create", ["borg", "create", f"{work / 'borg'}::one", str(root)])
    return {"title": title, "bound_bytes": bound, "rows": rows}


def _peak(argv: Sequence[str]) -> tuple[int, float]:
    """Bytes that a command and its descendants had resident together at most, and how long it took."""
    begun = time.perf_counter()
    process = subprocess.Popen(list(argv), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(_resident, _family(process.pid))))
        time.sleep(0.01)
    if process.returncode:
        sys.exit(f"{argv} ended with {process.returncode}")
    return peak, time.perf_counter() - begun


def _family(process: int) -> list[int]:
    found, wanted = [], [process]
    while wanted:
        found.append(wanted.pop())
        for path in Path(f"/proc/{found[-1]}/task").glob("*/children"):
            try:
                wanted += map(int, path.read_text().split())
            except OSError:
                continue
    return found


def _resident(process: int) -> int:
    """Bytes, of what it shares with others its share."""
    try:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass  # it has ended
    return 0


if __name__ == "__main__":
    main()
