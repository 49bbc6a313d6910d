"""Sealing a Debian root again after one file changed, beside what backup and image tools take for the same change.

    sudo .venv/bin/python benchmarks/bench_reseal.py [--rounds 5] [--more 50000,200000] [--json FILE]

The file is one of the application's own (srv/app/settings.py). Stele's is the whole command, process start included: states, tree,
changed strata in both forms, SBOM, provenance, signatures, ledger entry; once as it is, and once with a warm process (`stele warm`),
which the table after the first compares. restic and borg keep a cache of their own; ostree, umoci and
podman read everything, and are left out where files are added to the root (`--more`): they are far behind. Each has a folder of its
own, because umoci changes the ctime of all that it reads. Before each, what others wrote is synced: a seal waits until its own is on the
disk, and would wait for theirs, too. Two limits are measured in the same rounds: one os.lstat for each file in a
plain loop, and `find` that prints inode and ctime of each. The last table says what one more file that did not change costs, beside
what it costs these; from the smallest root to the next the changed stratum grows, too, from little to the most that strata are. Both
tables come for time and for processor time (children included), which says more on a busy machine; of a warm seal that is not
counted, because a child of another process does the work.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))
from bench_seal import root
from measure import CACHE, command, installed, keep, paired, report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SPEC = b"stele: 0\nname: minbase\ncommand: [/bin/true]\n"
STELE = str(Path(sys.executable).parent / "stele")
WARM = "stele seal, warm"
LSTAT, FIND = "os.lstat of each", "find -printf"  # no work at all but that each file is looked at

READERS = ("ostree commit", "umoci insert", "podman import")  # which read everything


def main() -> None:
    """Run all sizes and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--more", default="50000,200000", help="files that are added to the root, for further tables")
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    os.environ.update(RESTIC_PASSWORD="x", BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK="yes")
    installed()
    results, sizes = [], {}
    for more in (0, *map(int, filter(None, options.more.split(",")))):
        with tempfile.TemporaryDirectory(dir=CACHE) as name:
            work = Path(name)
            os.environ["XDG_RUNTIME_DIR"] = str(work / "run")
            (work / "run").mkdir(mode=0o700)
            try:
                source = _source(work, more)
                files = sum(len(names) for _, _, names in os.walk(source))
                results.append(_peers(work, source, files, options.rounds, READERS if not more else ()))
                sizes[files] = {
                    "time": {**results[-1]["warm"]["rows"], **results[-1]["rows"]},
                    "processor time": results[-1]["processor"]["rows"],
                }
            finally:
                subprocess.run(["chattr", "-R", "-i", str(work)], stderr=subprocess.DEVNULL, check=False)
    print("\nwhat one more file costs that did not change")
    for ((few, short), (many, long)), what in itertools.product(itertools.pairwise(sizes.items()), ("time", "processor time")):
        each = {name: (row["median"] - short[what][name]["median"]) / (many - few) * 1e6 for name, row in long[what].items()}
        print(f"  from {few:,} to {many:,} files: {what}, µs each and in units of a plain os.lstat")
        for name, cost in each.items():
            print(f"    {name:26}{cost:8.2f}{cost / each[LSTAT]:8.2f}x")
        results.append({"title": f"{what} of one more file than {few}, up to {many}", "unit": "µs", "rows": each})
    keep(results, options.json)


def _source(work: Path, more: int) -> Path:
    """A Debian root with an application of `more` small files."""
    source = work / "root"
    subprocess.run(["cp", "-a", str(root("bookworm")), str(source)], check=True)
    shutil.rmtree(source / "dev")  # ostree takes no devices; nobody else seals them either
    noise = random.Random(1)
    for number in range(more):
        folder = source / "srv" / "app" / f"{number // 10_000}" / f"{number // 200 % 50}"
        if not number % 200:
            folder.mkdir(parents=True)
        (folder / f"{number}.json").write_bytes(noise.randbytes(noise.randrange(100, 2000)))
    (source / "srv" / "app").mkdir(parents=True, exist_ok=True)
    return source


def _lstats(source: Path) -> Callable[[], float]:
    """A candidate that does one lstat for each path below a folder, the names of which it knows."""
    paths = [os.fsencode(os.path.join(folder, name)) for folder, folders, files in os.walk(source) for name in (*folders, *files)]

    def timed() -> float:
        begun = time.perf_counter()
        for path in paths:
            os.lstat(path)
        return time.perf_counter() - begun

    return timed


def _wait_for_one_that_waits() -> None:
    """A warm process that was there before the change, as it is after work on one, has a child for the next call."""
    while b"waits for the next" not in subprocess.run([STELE, "warm", "status"], check=True, stdout=subprocess.PIPE).stdout:
        time.sleep(0.01)


def _counted(candidate: Callable[[], float], spent: list[float]) -> Callable[[], float]:
    """The same candidate; the processor time that it takes is added to `spent`."""

    def timed() -> float:
        before = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        took = candidate()
        spent.append(sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) - before)
        return took

    return timed


def _seal(work: Path, source: Path) -> list[str]:
    data = work / f"data of {source.name}"
    subprocess.run([STELE, "--data", str(data), "init", "--keys-only"], check=True, stdout=subprocess.DEVNULL)
    (work / "stele.yaml").write_bytes(SPEC)
    return [STELE, "--data", str(data), "seal", str(source), "-f", str(work / "stele.yaml")]


def _peers(work: Path, original: Path, files: int, rounds: int, readers: Sequence[str]) -> dict[str, Any]:
    names = ("stele seal", WARM, "restic backup", "borg create", *readers)
    sources = {name: original if name == names[0] else work / f"root of {name.replace(' ', '-')}" for name in names}
    for source in list(sources.values())[1:]:
        subprocess.run(["cp", "-a", str(original), str(source)], check=True)
    subprocess.run(["restic", "-r", str(work / "restic"), "init", "-q"], check=True)
    subprocess.run(["borg", "init", "-e", "none", str(work / "borg")], check=True)
    subprocess.run(["ostree", "init", f"--repo={work / 'ostree'}", "--mode=bare"], check=True)
    changes = 0

    def before(name: str) -> None:
        nonlocal changes
        changes += 1
        if name in {LSTAT, FIND}:
            return
        (sources[name] / "srv" / "app" / "settings.py").write_text(f"VERSION = {changes}\n")
        if name == "umoci insert":
            shutil.rmtree(work / "umoci", ignore_errors=True)
            subprocess.run(["umoci", "init", "--layout", str(work / "umoci")], check=True)
            subprocess.run(["umoci", "new", "--image", f"{work / 'umoci'}:base"], check=True)
        elif name == "podman import":
            shutil.rmtree(work / "podman", ignore_errors=True)
        if name in {"stele seal", WARM}:
            subprocess.run([STELE, "warm", "start" if name == WARM else "stop"], check=True, stdout=subprocess.DEVNULL)
        if name == WARM:
            _wait_for_one_that_waits()
        os.sync()
        time.sleep(0.05)  # a file as young as the clock is coarse is read again next time, by whoever is careful

    storage = f"--root {work / 'podman'} --runroot {work / 'podman-run'} --storage-driver vfs"
    argv: dict[str, Callable[[str], list[str]]] = {
        "stele seal": lambda source: _seal(work, Path(source)),
        WARM: lambda source: _seal(work, Path(source)),
        "restic backup": lambda source: ["restic", "-r", str(work / "restic"), "backup", "-q", source],
        "borg create": lambda source: ["borg", "create", f"{work / 'borg'}::{{now:%s.%f}}", source],
        "ostree commit": lambda source: ["ostree", "commit", f"--repo={work / 'ostree'}", "-b", "x", source],
        "umoci insert": lambda source: ["umoci", "insert", "--image", f"{work / 'umoci'}:base", source, "/"],
        "podman import": lambda source: ["sh", "-c", f"tar -C '{source}' -c . | podman {storage} import -q - minbase"],
    }
    candidates = {name: command(argv[name](str(source))) for name, source in sources.items()}
    candidates |= {LSTAT: _lstats(original), FIND: command(["find", str(original), "-printf", "%i %C@\n"])}
    spent: dict[str, list[float]] = {name: [] for name in candidates}
    try:
        times = paired({name: _counted(candidates[name], spent[name]) for name in candidates}, rounds=rounds, before=before)
    finally:
        subprocess.run([STELE, "warm", "stop"], check=True, stdout=subprocess.DEVNULL)
    warm = {name: values for name, values in times.items() if name != "stele seal"}
    found = report(f"one file of {files:,} changed", {name: values for name, values in times.items() if name != WARM}, "stele seal")
    found["warm"] = report(f"one file of {files:,} changed, with a warm process", warm, WARM)
    counted = {name: values[1:] for name, values in spent.items() if name != WARM}
    found["processor"] = report(f"one file of {files:,} changed, processor time", counted, "stele seal")
    return found


if __name__ == "__main__":
    main()
