"""Sealing a data set of large sparse files: peak memory, what it takes on the disk, and what a kill in the middle leaves.

    python benchmarks/bench_dataset.py --gib 100

Files of zeros with a stretch of noise every GiB. Beside it: hashing the same bytes once, by one process of `sha256sum`, of which a seal
has to do five (content, twice more while it is written, tar, image).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FILES = 4
NOISE = 4 << 20  # bytes a GiB


def make(folder: Path, gib: int) -> None:
    """Write the files; they take NOISE a GiB."""
    folder.mkdir(parents=True)
    for number in range(FILES):
        size = (gib << 30) // FILES
        with (folder / f"part-{number}.bin").open("wb") as file:
            for at in range(0, size, 1 << 30):
                file.seek(at + (number << 20))
                file.write(os.urandom(NOISE))
            file.truncate(size)


def on_disk(folder: Path) -> int:
    """Bytes that the files below a folder take."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def run(argv: list[str]) -> tuple[float, int]:
    """Run a command; seconds, and its peak memory in bytes."""
    begun = time.monotonic()
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as child:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{argv} failed")
    return time.monotonic() - begun, usage.ru_maxrss << 10


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gib", type=int, default=4)
    parser.add_argument("--in", dest="place", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--seal-only", action="store_true", help="Neither hash nor check besides.")
    parser.add_argument("--no-kill", action="store_true", help="Do not kill a first seal in the middle.")
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="stele-dataset-", dir=given.place))
    stele = [sys.executable, "-m", "stele", "--data", str(work / "data"), "--json"]
    try:
        make(work / "set", given.gib)
        (work / "stele.yaml").write_text("stele: 0\nkind: dataset\nname: set\n")
        subprocess.run([*stele, "init"], cwd=work, check=True, stdout=subprocess.DEVNULL)
        seal = [*stele, "seal", str(work / "set"), "-f", str(work / "stele.yaml")]
        if not given.no_kill:
            with subprocess.Popen(seal, stdout=subprocess.DEVNULL) as first:
                while not list((work / "data" / "store" / "tmp").glob("*")):
                    assert first.poll() is None
                    time.sleep(0.1)
                first.send_signal(signal.SIGKILL)
            left = json.loads(subprocess.run([*stele, "store", "check"], check=True, capture_output=True).stdout)
            print(f"killed in the middle: {len(left['problems'])} problems, {len(left['notes'])} files left in the store")
        took, peak = run(seal)
        print(f"sealed {given.gib} GiB in {took:.0f} s, peak memory {peak / (1 << 20):.0f} MiB")
        print(f"on the disk: source {on_disk(work / 'set') >> 20} MiB, store {on_disk(work / 'data' / 'store') >> 20} MiB")
        if given.seal_only:
            return
        hashed, _ = run(["sha256sum", *map(str, sorted((work / "set").glob("*")))])
        print(f"sha256sum of the same once {hashed:.0f} s: ratio {took / hashed:.1f}")
        verified, peak = run([*stele, "store", "check"])
        print(f"store check {verified:.0f} s, peak memory {peak / (1 << 20):.0f} MiB")
    finally:
        for path in (work / "data").rglob("*.erofs"):
            subprocess.run(["chattr", "-i", str(path)], check=False, capture_output=True)
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
