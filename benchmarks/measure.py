"""Paired timings: each candidate in turn, round by round, so that a machine whose speed drifts stays fair to all."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

CACHE = Path(os.environ.get("STELE_CACHE", Path.home() / ".cache" / "stele"))
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def installed() -> None:
    """Run Stele as it is when it is installed, with its byte code written: from here on, for all that this process starts."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(CACHE / "byte-code")


def command(argv: Sequence[str], *, ok: Sequence[int] = (0,)) -> Callable[[], float]:
    """A candidate that runs a command and returns its wall time in seconds."""

    def timed() -> float:
        begun = time.perf_counter()
        done = subprocess.run(list(argv), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        took = time.perf_counter() - begun
        if done.returncode not in ok:
            sys.exit(f"{argv} ended with {done.returncode}: {done.stdout.decode(errors='replace')[-2000:]}")
        return took

    return timed


def paired(
    candidates: Mapping[str, Callable[[], float]], *, rounds: int, before: Callable[[str], None] = lambda name: None
) -> dict[str, list[float]]:
    """Seconds of every candidate in every round; `before(name)` runs untimed before each."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, candidate in candidates.items():
            before(name)
            took = candidate()
            if number:  # the first round warms the caches
                times[name].append(took)
    return times


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie; nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def report(title: str, times: Mapping[str, Sequence[float]], ours: str, *, unit: str = "s", scale: float = 1.0) -> dict[str, Any]:
    """Print median, spread and the ratio of `ours` to each peer (pair by pair, the median of them); returns it as data."""
    print(f"\n{title}")
    print(f"  {'':28}{'median':>10}{'min':>10}{'max':>10}   ours / it")
    rows = {}
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(times[ours], values, strict=True))
        median = statistics.median(values) * scale
        print(
            f"  {name:28}{median:10.3f}{min(values) * scale:10.3f}{max(values) * scale:10.3f}   {'' if name == ours else f'{ratio:.2f}x'}"
        )
        rows[name] = {"median": median, "min": min(values) * scale, "max": max(values) * scale, "ours_over_it": ratio}
    print(f"  unit: {unit}; {len(times[ours])} rounds")
    return {"title": title, "unit": unit, "rows": rows}


def keep(results: Sequence[dict[str, object]], path: str | None) -> None:
    """Write the results as JSON where `--json FILE` asked for it."""
    if path:
        with open(path, "w", encoding="ascii") as file:
            json.dump(list(results), file, indent=2)
