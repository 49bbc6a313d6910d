"""One blob to Debian's docker-registry in one PUT, as a push sends it, and in parts of a fixed size: seconds and requests.

Usage: benchmarks/bench_push_parts.py [--mib 12 60 250] [--rounds 5]
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from functools import partial
from pathlib import Path

from measure import paired, report

from stele.host import registry_transfer
from stele.host.http_registry import Connections
from stele.host.registry import Repository
from stele.model import reference
from stele.trust.digest import sha256

MIB = 1 << 20
WAYS = {  # the largest blob that goes in one piece, which is the first part's size too, and the largest part
    "as a push does": (registry_transfer.SMALL, registry_transfer.CHUNK),
    "one PUT": (1 << 40, 1 << 40),
    "parts of 8 MiB": (8 * MIB, 8 * MIB),
    "parts of 64 MiB": (64 * MIB, 64 * MIB),
}


class Counting(Connections):
    """Counts requests."""

    asked = 0

    def once(self, *given, **more):
        """One request."""
        self.asked += 1
        return super().once(*given, **more)


def sent(registry: str, folder: Path, way: str, size: int, requests: dict[str, int]) -> float:
    """Seconds of one upload to an empty registry."""
    shutil.rmtree(folder / "data", ignore_errors=True)
    registry_transfer.SMALL, registry_transfer.CHUNK = WAYS[way]
    data = os.urandom(size)
    digest = sha256(data)
    name = f"{registry}/bench/{os.urandom(8).hex()}"
    connections = Counting(registry)
    with Repository(connections, reference.parse(name)) as repository:
        begun = time.perf_counter()
        registry_transfer.upload(repository, digest, size, io.BytesIO(data))
        took = time.perf_counter() - begun
        requests[way] = connections.asked
    return took


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, nargs="+", default=[12, 60, 250])
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with socket.create_server(("127.0.0.1", 0)) as free:
            registry = f"127.0.0.1:{free.getsockname()[1]}"
        (folder / "config.yml").write_text(
            f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\nhttp: {{addr: '{registry}'}}\n"
        )
        argv = ["docker-registry", "serve", str(folder / "config.yml")]
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as served:
            while True:
                try:
                    urllib.request.urlopen(f"http://{registry}/v2/", timeout=5).close()
                    break
                except OSError:
                    assert served.poll() is None, "docker-registry ended"
            for mib in asked.mib:
                requests: dict[str, int] = {}
                candidates = {way: partial(sent, registry, folder, way, mib * MIB, requests) for way in WAYS}
                times = paired(candidates, rounds=asked.rounds)
                report(f"one blob of {mib} MiB to a registry on this machine", times, "as a push does", unit="ms", scale=1e3)
                print("  requests: " + ", ".join(f"{way} {count}" for way, count in requests.items()))
            served.terminate()


if __name__ == "__main__":
    main()
