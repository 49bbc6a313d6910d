"""The gate: what it costs to be asked about every exec, and how soon an offender is seen, decided about, and frozen.

    sudo .venv/bin/python benchmarks/bench_gate.py [--rounds 40] [--json FILE]

Cost: vfork + exec + wait of a static and of a dynamic program, in an instance under the gate and on the bare host, in turns.
Latency: a dropped file on a noexec tmpfs, from just before its execve, read from CLOCK_MONOTONIC by the offender itself.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]
from measure import keep, paired, percentile, report

from stele.host import cgroup
from tests.attacks import cage as cages
from tests.attacks.conftest import make_cage

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.attacks.cage import Cage

CLOCK = '$b = "\\0" x 16; syscall(228, 1, $b); ($s, $n) = unpack("qq", $b);'  # clock_gettime(CLOCK_MONOTONIC), x86_64
EXECS = 500
STAMP = r"T (\d+) (\d+)"


def loop(program: str) -> str:
    """Perl that executes a program `EXECS` times and prints the nanoseconds that each took on average."""
    once = f"if (!($p = fork)) {{ exec {program}; exit 1 }} waitpid $p, 0;"
    return f'{CLOCK} $t = $s * 1e9 + $n; for (1..{EXECS}) {{ {once} }} {CLOCK} printf "EACH %d\\n", ($s * 1e9 + $n - $t) / {EXECS};'


def guarded(cage: Cage, program: str) -> Callable[[], float]:
    """Seconds an exec in an instance."""

    def timed() -> float:
        said = cage.run(f"perl -e '{loop(program)}'")
        for instance in list(cage.instances):
            cage.remove(instance)
        return float(re.findall(r"EACH (\d+)", said)[-1]) / 1e9

    return timed


def bare(program: str) -> Callable[[], float]:
    """Seconds an exec on the host."""

    def timed() -> float:
        said = subprocess.run(["perl", "-e", loop(program)], capture_output=True, text=True, check=True).stdout
        return float(re.findall(r"EACH (\d+)", said)[-1]) / 1e9

    return timed


def latencies(cage: Cage, rounds: int) -> dict[str, list[float]]:
    """Microseconds from just before execve to seen, decided, and frozen; one fresh instance each."""
    out: dict[str, list[float]] = {"seen": [], "decided": [], "frozen": []}
    for _ in range(rounds):
        attack = f'$| = 1; {CLOCK} print "T $s $n\\n"; {CLOCK} print "T $s $n\\n"; exec "/tmp/evil"'
        instance = cage.shell(cages.DROP + f"perl -e '{attack}'; sleep 1000")
        found = cage.report()
        cages.await_true(lambda of=instance: len(re.findall(STAMP, cage.output(of))) == 2)  # type: ignore[misc]
        seconds, nanoseconds = re.findall(STAMP, cage.output(instance))[-1]
        begun = int(seconds) * 10**9 + int(nanoseconds)
        for name, values in out.items():
            values.append((getattr(found, name) - begun) / 1000)
        cage.remove(instance)
    return out


def main() -> None:
    """Run both and print them beside the figures to beat."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json")
    args = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="stele-bench-", dir="/var/tmp") as name:
        image = cages.build(Path(name))
        for freezer in cgroup.find().kinds():
            for cage in make_cage(image, freezer):
                found = latencies(cage, args.rounds)
                print(f"\nDropped file on noexec tmpfs, freezer {freezer}, microseconds from just before execve, {args.rounds} instances")
                print(f"  {'':10}{'p50':>10}{'p90':>10}{'p99':>10}   (the offender's own print is included)")
                for what, values in found.items():
                    print(f"  {what:10}" + "".join(f"{percentile(values, share):10.0f}" for share in (0.5, 0.9, 0.99)))
                results.append({"title": f"latency {freezer}", "unit": "us", "rows": found})
        for cage in make_cage(image, cgroup.find().kinds()[0]):
            for kind, inside, outside in (
                ("static", "q(/bin/true)", "q(/bin/busybox), q(true)"),
                ("dynamic", "q(/usr/bin/true)", "q(/usr/bin/true)"),
            ):
                times = paired({"under the gate": guarded(cage, inside), "bare host": bare(outside)}, rounds=max(3, args.rounds // 8))
                results.append(report(f"fork + exec + wait of a {kind} program", times, "under the gate", unit="us", scale=1e6))
    keep(results, args.json)


if __name__ == "__main__":
    main()
