"""Deltas over two series of real applications: their bytes beside the changed files compressed, and the time they take.

    sudo .venv/bin/python benchmarks/bench_delta.py [--json FILE]

Each version of a series (benchmarks/series.py) is read as `stele seal` reads it. `changed` are the bytes of the contents that the
version before does not have; `zstd-3` is what they come to when compressed together, which is what an update costs a system
that knows files. The delta holds the change of the tree besides.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import zstandard

sys.path.insert(0, str(Path(__file__).parent))
from measure import keep
from series import KINDS, versions

from stele.seal import sources
from stele.seal.delta import codec
from stele.seal.delta.plan import groups, pairs

if TYPE_CHECKING:
    from stele.seal.sources.source import Source

TIME = 315_532_800


def main() -> None:
    """Print a line per update and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    results: list[dict[str, object]] = []
    for kind in KINDS:
        print(f"\n{kind}\n  {'':6}{'contents':>10}{'changed':>12}{'zstd-3':>12}{'delta':>12}{'ratio':>8}{'make':>10}{'apply':>10}")
        rows = []
        roots = versions(kind)
        for before, after in itertools.pairwise(roots):
            with sources.load(before, kind="folder", reference="", time=TIME) as old:
                with sources.load(after, kind="folder", reference="", time=TIME) as new:
                    rows.append(_step(after.name, old, new))
        ratios = [float(str(row["ratio"])) for row in rows]
        print(f"  median of the ratios {statistics.median(ratios):.2f}, highest {max(ratios):.2f}")
        results.append({"title": f"deltas of the {kind} series", "rows": rows})
    keep(results, options.json)


def _step(name: str, old: Source, new: Source) -> dict[str, object]:
    carried = [piece for group in groups(pairs(old.tree, new.tree)) for piece in group.pieces]
    changed = b"".join(new.contents.read(piece.digest) for piece in carried if not piece.start)
    compressed = len(zstandard.ZstdCompressor(level=3).compress(changed))
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as spool:
        begun = time.perf_counter()
        size = codec.make(codec.Side(old.tree, old.contents), codec.Side(new.tree, new.contents), file)
        made = time.perf_counter() - begun
        file.seek(0)
        begun = time.perf_counter()
        tree, contents = codec.apply(old.tree, old.contents, file, new.tree.digest(), os.dup(spool.fileno()))
        applied = time.perf_counter() - begun
        contents.close()
    assert tree == new.tree
    ratio = size / compressed
    print(f"  {name:6}{len(carried):10,}{len(changed):12,}{compressed:12,}{size:12,}{ratio:8.2f}{made:8.2f} s{applied:8.2f} s")
    return {
        "version": name,
        "changed": len(changed),
        "zstd3": compressed,
        "delta": size,
        "ratio": ratio,
        "make_s": made,
        "apply_s": applied,
    }


if __name__ == "__main__":
    main()
