"""Start, detection, replacement, cutover: measured on the demo shop, a real nginx. As root.

    sudo .venv/bin/python benchmarks/bench_loop.py [--rounds 20] [--json FILE]

- start of an instance to its first answer, beside bare `runc run` of the same root file system in the same run;
- detection: from just before the attacker's execve to the event committed in the ledger;
- replacement: from the violation to a healthy replacement that has the port;
- requests lost during upgrades and rollbacks (must be 0), and during quarantine, by kind.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from measure import keep, paired, percentile, report

from examples.demo import load, ordinary
from examples.demo.attacks import target
from examples.shop import build

PORT, PEER_PORT = 18093, 18094
# the attacker notes the clock just before its execve; the file it leaves is read from the frozen instance
TIMED = (
    "echo x > /tmp/.x; chmod 755 /tmp/.x; "
    # perl-base has no Time::HiRes: 228 is clock_gettime on x86-64, 1 is CLOCK_MONOTONIC
    """perl -e '$t=pack("qq",0,0);syscall(228,1,$t);($s,$n)=unpack("qq",$t);open F,">/tmp/t";printf F "%d.%09d",$s,$n;close F;exec "/tmp/.x"'"""
)


def stele(data: Path, *args: str) -> Any:
    """Call the command line; returns its JSON answer."""
    done = subprocess.run(
        [sys.executable, "-m", "stele", "--data", str(data), "--json", *args], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"stele {' '.join(args)}: {done.stdout}{done.stderr}")
    return json.loads(done.stdout) if done.stdout.strip() else None


def events(data: Path) -> list[dict[str, Any]]:
    """The ledger's newest entries."""
    done = subprocess.run(
        [sys.executable, "-m", "stele", "--data", str(data), "--json", "log", "--workload", "shop", "--last", "100000"],
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def spec_of(version: str, folder: Path) -> Path:
    """A copy of the shop's spec that publishes the benchmark's port."""
    shutil.copytree(Path(build.HERE) / version, folder / version)
    path = folder / version / "stele.yaml"
    text = path.read_text().replace("host: 18080", f"host: {PORT}")
    # repeated incidents would wait longer and longer; what is measured here is one at a time
    path.write_text(text.replace("window: 2s", "window: 10ms"))
    return path


def answers(port: int) -> None:
    """Return when the shop answers."""
    limit = time.monotonic() + 30
    while load.ask(port, "/health")[0] != "ok":
        if time.monotonic() > limit:
            sys.exit(f"nothing answers on port {port}")
        time.sleep(0.001)


def main() -> None:
    """Run all and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root")
    layout = build.build()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        work, data = Path(name), Path(name) / "data"
        stele(data, "init", "--keys-only")
        releases = [stele(data, "seal", str(layout), "--reference", v, "-f", str(spec_of(v, work)))["release"] for v in build.VERSIONS]
        stele(data, "agent", "start")
        try:
            results = [
                start(data, layout, releases[0], options.rounds),
                *incidents(data, releases[0], options.rounds),
                changes(data, releases, options.rounds),
            ]
        finally:
            stele(data, "agent", "stop", "--remove")
            subprocess.run(["chattr", "-R", "-i", str(data)], stderr=subprocess.DEVNULL, check=False)
    keep(results, options.json)


def start(data: Path, layout: Path, release: str, rounds: int) -> dict[str, object]:
    """Whole commands, from their start to the first answer."""

    def ours() -> float:
        begun = time.perf_counter()
        stele(data, "apply", release)
        answers(PORT)
        took = time.perf_counter() - begun
        stele(data, "remove", "shop")
        return took

    def peer() -> float:
        # the root is unpacked before: its time is not counted
        with ordinary.container(layout, PEER_PORT) as root:
            begun = root.stat().st_ctime
            answers(PEER_PORT)
            return time.time() - begun

    return report(
        "start to first answer (whole commands)",
        paired({"stele apply": ours, "runc run": peer}, rounds=min(rounds, 10)),
        "stele apply",
        scale=1000,
        unit="ms",
    )


def incidents(data: Path, release: str, rounds: int) -> list[dict[str, object]]:
    """Attack again and again; every chain of moments comes from the ledger and from the attacker's own clock."""
    stele(data, "apply", release)
    answers(PORT)
    chains: list[dict[str, float]] = []
    for _ in range(rounds):
        before = {entry["incident"] for entry in stele(data, "incidents")}
        load.ask(PORT, target(TIMED))
        limit = time.monotonic() + 30
        while not (new := [e for e in stele(data, "incidents") if e["incident"] not in before and e["evidence"] and e["outcome"]]):
            if time.monotonic() > limit:
                sys.exit("no incident, replacement and evidence within 30 s")
        incident = new[0]["incident"]
        tar = next((data / "evidence" / incident / "files").glob("*-tmp.tar"))
        offence = float(subprocess.run(["tar", "xOf", str(tar), "./t"], capture_output=True, text=True, check=True).stdout)
        found = {e["kind"]: e for e in events(data) if e["data"].get("incident") == incident}
        seen = found["violation"]["data"]
        cut, done = found["network.cut"]["data"], found["incident.resolved"]
        wall = found["violation"]["time_ns"]
        chains.append(
            {
                "exec to seen": seen["seen_ns"] / 1e6 - offence * 1e3,
                "exec to decided": seen["decided_ns"] / 1e6 - offence * 1e3,
                "exec to frozen": seen["frozen_ns"] / 1e6 - offence * 1e3,
                "exec to committed": cut["committed_ns"] / 1e6 - offence * 1e3,
                "exec to cut": cut["cut_ns"] / 1e6 - offence * 1e3,
                "recorded to replacement serving": (done["time_ns"] - wall) / 1e6,
            }
        )
        stele(data, "evidence", "release", incident)
    print(f"\nincidents, ms over {rounds} attacks ({'p50':>8}{'p99':>8}{'max':>8})")
    rows = {}
    for key in chains[0]:
        values = [chain[key] for chain in chains]
        rows[key] = {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99), "max": max(values)}
        print(f"  {key:34}{rows[key]['p50']:8.2f}{rows[key]['p99']:8.2f}{rows[key]['max']:8.2f}")
    return [{"title": "incidents", "unit": "ms", "rows": rows}]


def changes(data: Path, releases: list[str], rounds: int) -> dict[str, object]:
    """Upgrades and rollbacks under load: requests lost."""
    stele(data, "apply", releases[0])
    answers(PORT)
    lost: Counter[str] = Counter()
    total = 0
    for number in range(rounds):
        with load.Clients(PORT) as clients:
            stele(data, *(("apply", releases[1]) if number % 2 == 0 else ("rollback", "shop")))
            time.sleep(1.2)  # the confirm window of the shop: the next rollback needs a confirmed release
        for request in clients.requests():
            total += 1
            if request.outcome != "ok":
                lost[request.outcome] += 1
    print(f"\n{rounds} upgrades and rollbacks under load: {total} requests, {sum(lost.values())} lost {dict(lost) or ''}")
    return {"title": "changes under load", "unit": "requests", "rows": {"total": total, "lost": dict(lost)}}


if __name__ == "__main__":
    main()
