"""Sealing one folder again and again, one file changed each time: what the releases that there are cost the next one.

    sudo .venv/bin/python benchmarks/bench_many_releases.py [--releases 500] [--files 500] [--warm] [--json FILE]

The folder is the Debian root of bench_reseal.py, or `--files` small files. `restic backup` and `borg create` back up the same change of the
same folder in the same round, each into one repository, so that they have as many snapshots as Stele has releases. Stele's is the whole command, with
SBOM, provenance, signatures and ledger entry; with `--warm` a warm process (`stele warm`) runs it. The table has the medians of the first 20 releases and of every
further 100; the last lines say by how much each has grown from the first of these blocks to the last, and so has the ratio, which says more where the
machine's speed drifts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))
from bench_reseal import SPEC, STELE, WARM, _source
from measure import CACHE, command, installed, keep, paired

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

FIRST, BLOCK = 20, 100  # releases whose median is one line


def main() -> None:
    """Run the series and print medians, ratios and growth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", type=int, default=500)
    parser.add_argument("--files", type=int, default=0, help="a folder of so many small files in place of the Debian root")
    parser.add_argument("--warm", action="store_true", help="seal in a warm process")
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    os.environ.update(RESTIC_PASSWORD="x", BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK="yes")
    installed()
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        work = Path(name)
        os.environ["XDG_RUNTIME_DIR"] = str(work / "run")
        (work / "run").mkdir(mode=0o700)
        os.environ.update(XDG_CACHE_HOME=str(work / "cache"), BORG_BASE_DIR=str(work / "borg-base"))
        try:
            source = _small(work, options.files) if options.files else _source(work, 0)
            keep([_report(_series(work, source, options.releases, warm=options.warm))], options.json)
        finally:
            subprocess.run([STELE, "warm", "stop"], check=False, stdout=subprocess.DEVNULL)
            subprocess.run(["chattr", "-R", "-i", str(work)], stderr=subprocess.DEVNULL, check=False)


def _small(work: Path, files: int) -> Path:
    source = work / "root"
    (source / "srv" / "app").mkdir(parents=True)
    for number in range(files):
        (source / "srv" / "app" / f"{number}.txt").write_bytes(b"%d\n" % number * 100)
    return source


def _series(work: Path, source: Path, releases: int, *, warm: bool) -> dict[str, list[float]]:
    """Seconds of each, release by release; before the first of them there is one that is not counted."""
    ours = WARM if warm else "stele seal"
    (work / "stele.yaml").write_bytes(SPEC)
    subprocess.run([STELE, "--data", str(work / "data"), "init", "--keys-only"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["restic", "-r", str(work / "restic"), "init", "-q"], check=True)
    subprocess.run(["borg", "init", "-e", "none", str(work / "borg")], check=True)
    subprocess.run([STELE, "warm", "start" if warm else "stop"], check=True, stdout=subprocess.DEVNULL)
    changes = 0

    def before(name: str) -> None:
        nonlocal changes
        if name == ours:  # the same change for all
            changes += 1
            (source / "srv" / "app" / "settings.py").write_text(f"VERSION = {changes}\n")
            time.sleep(0.05)  # a file as young as the clock is coarse is read again next time, by whoever is careful
            if changes % BLOCK == 0:
                print(f"  {changes} releases", file=sys.stderr)

    return paired(
        {
            ours: command([STELE, "--data", str(work / "data"), "seal", str(source), "-f", str(work / "stele.yaml")]),
            "restic backup": command(["restic", "-r", str(work / "restic"), "backup", "-q", str(source)]),
            "borg create": command(["borg", "create", f"{work / 'borg'}::{{now:%s.%f}}", str(source)]),
        },
        rounds=releases,
        before=before,
    )


def _blocks(count: int) -> Iterator[tuple[int, int]]:
    """Where each block begins and ends; the last may be short."""
    begin, end = 0, min(FIRST, count)
    while begin < count:
        yield begin, end
        begin, end = end, min(end + BLOCK, count)


def _report(times: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    ours, *peers = times
    count = len(times[ours])
    print(f"\nsealing again, of {count:,} releases: medians in ms, and what ours takes of theirs")
    print(f"  {'releases':>13}{ours:>18}" + "".join(f"{peer:>18}{'ours / it':>11}" for peer in peers))
    rows: list[dict[str, Any]] = []
    for begin, end in _blocks(count):
        medians = {name: statistics.median(values[begin:end]) * 1000 for name, values in times.items()}
        ratios = {
            peer: statistics.median(a / b for a, b in zip(times[ours][begin:end], times[peer][begin:end], strict=True)) for peer in peers
        }
        rows.append({"from": begin + 1, "to": end, "median": medians, "ours_over_it": ratios})
        print(
            f"  {f'{begin + 1}-{end}':>13}{medians[ours]:18.1f}" + "".join(f"{medians[peer]:18.1f}{ratios[peer]:10.2f}x" for peer in peers)
        )
    growth = {name: rows[-1]["median"][name] / rows[0]["median"][name] for name in times}
    beside = {peer: rows[-1]["ours_over_it"][peer] / rows[0]["ours_over_it"][peer] for peer in peers}
    print(f"  {'last / first':>13}{growth[ours]:17.2f}x" + "".join(f"{growth[peer]:17.2f}x{beside[peer]:10.2f}x" for peer in peers))
    more = {name: rows[-1]["median"][name] - rows[0]["median"][name] for name in times}
    print(f"  {'last - first':>13}{more[ours]:18.1f}" + "".join(f"{more[peer]:18.1f}{'':11}" for peer in peers))
    return {"title": "sealing again, by how many releases there are", "unit": "ms", "rows": rows, "growth": growth, "ratio_growth": beside}


if __name__ == "__main__":
    main()
