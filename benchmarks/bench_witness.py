"""A witness: cosignatures per second and how long each takes, beside litewitness (Go, SQLite) and beside the durable write alone.

Ours signs twice (Ed25519 and ML-DSA-44), litewitness once (Ed25519, in an ssh-agent); both answer after one fsync of their state. Both get
the same requests over HTTP connections that stay open, in turns: every figure is the median of the rounds. What the two signatures cost
by themselves is printed, too.

Usage: bench_witness.py [--requests N] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[:0] = [str(Path(__file__).parents[1] / "src"), str(Path(__file__).parents[1])]

from benchmarks.measure import keep, percentile
from stele.host import durable
from stele.trust import note
from stele.witness import state
from tests import witnesses
from tests.litewitness import running
from tests.witnesses import Log

if TYPE_CHECKING:
    from collections.abc import Callable


def submissions(log: Log, count: int) -> list[bytes]:
    return [log.submission(size - 1, size) for size in range(1, count + 1)]


def ask(port: int, bodies: list[bytes], took: list[float]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for body in bodies:
        begun = time.perf_counter()
        connection.request("POST", "/add-checkpoint", body=body)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        took.append(time.perf_counter() - begun)
    connection.close()


def measured(name: str, port: int, work: list[list[bytes]]) -> dict[str, float]:
    """Every list of requests on a connection of its own, at the same time."""
    took: list[float] = []
    threads = [threading.Thread(target=ask, args=(port, bodies, took)) for bodies in work]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - begun
    row = {"per_s": len(took) / wall, "p50_ms": percentile(took, 0.5) * 1e3, "p99_ms": percentile(took, 0.99) * 1e3}
    print(f"  {name:34}{row['per_s']:9.0f}/s   p50 {row['p50_ms']:7.2f} ms   p99 {row['p99_ms']:7.2f} ms")
    return row


def ours(folder: Path, keys: list[note.Verifier]) -> tuple[subprocess.Popen[str], int]:
    """`stele witness run` as a process of its own."""
    witnesses.make(folder, *keys)
    argv = [sys.executable, "-m", "stele", "--json", "witness", "run", "--listen", "127.0.0.1:0", "--folder", str(folder)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env)
    assert child.stdout is not None
    while '"url"' not in (line := child.stdout.readline()):
        assert line, "the witness did not start"
    return child, int(line.rpartition(":")[2].strip().rstrip('",'))


def timed(name: str, count: int, work: Callable[[int], object]) -> dict[str, float]:
    took = []
    for number in range(count):
        begun = time.perf_counter()
        work(number)
        took.append(time.perf_counter() - begun)
    row = {"per_s": count / sum(took), "p50_ms": percentile(took, 0.5) * 1e3, "p99_ms": percentile(took, 0.99) * 1e3}
    print(f"  {name:34}{row['per_s']:9.0f}/s   p50 {row['p50_ms']:7.2f} ms   p99 {row['p99_ms']:7.2f} ms")
    return row


def limit(folder: Path, size: int, count: int) -> dict[str, float]:
    """Writes of so many bytes into a file that has its room, each on disk before the next."""
    fd = os.open(folder / "room", os.O_RDWR | os.O_CREAT)
    durable.write_at(fd, bytes(size * (count + 1)), 0)
    os.fsync(fd)

    def write(number: int) -> None:
        durable.write_at(fd, b"x" * size, number * size)
        durable.sync_data(fd)

    try:
        return timed("the durable write alone", count, write)
    finally:
        os.close(fd)


def median(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def signatures(folder: Path, count: int) -> dict[str, dict[str, float]]:
    keys = state.make(folder, "witness.example/signs")
    body = note.Checkpoint("log.example/0", 7, bytes(32)).body()
    return {
        "ed25519": timed("an Ed25519 signature alone", count, lambda number: keys.ed25519.line(body, number + 1)),
        "ml_dsa_44": timed("an ML-DSA-44 signature alone", count, lambda number: keys.ml_dsa_44.line(body, number + 1)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=300, help="of each log")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json")
    chosen = parser.parse_args()
    results: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        results.append({"title": "signatures", **signatures(Path(folder), 300)})
    for logs in (1, 8):
        made = [Log(note.Signer.generate(f"log.example/{number}")) for number in range(logs)]
        keys = [log.signer.verifiers[0] for log in made]
        work = [submissions(log, chosen.requests) for log in made]
        print(f"\n{logs} log(s), each its own connection, {chosen.requests} checkpoints each")
        rounds: list[tuple[dict[str, float], dict[str, float], dict[str, float]]] = []
        for _ in range(chosen.rounds):
            with tempfile.TemporaryDirectory() as folder:
                place = Path(folder)
                child, port = ours(place / "w", keys)
                try:
                    one = measured("stele witness (2 signatures)", port, work)
                finally:
                    child.send_signal(signal.SIGTERM)
                    child.wait()
                (place / "lite").mkdir()
                with running(place / "lite", keys) as (_, url):
                    other = measured("litewitness (1 signature)", int(url.rpartition(":")[2]), work)
                rounds.append((one, other, limit(place, 3700, min(chosen.requests, 300))))
        mine, theirs, bound = (median([row[number] for row in rounds]) for number in range(3))
        print(f"  ours / litewitness: {mine['per_s'] / theirs['per_s']:.2f}x the rate, {mine['p50_ms'] / theirs['p50_ms']:.2f}x the time")
        print(f"  ours / the durable write: {mine['p50_ms'] / bound['p50_ms']:.2f}x the time")
        results.append({"title": f"cosigning, {logs} logs", "ours": mine, "litewitness": theirs, "durable_write": bound})
    keep(results, chosen.json)


if __name__ == "__main__":
    main()
