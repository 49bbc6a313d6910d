"""A run folder with a runtime, a network and a listener of its own; afterwards the host must be as it was before."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from stele.host import cgroup, mounts, nft, slots, ways
from stele.run import sweep
from stele.run.container import Runtime
from stele.run.network import Network
from tests import tiny_release
from tests.seccomp_listener import Listener

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stele.model.instance import Instance
    from stele.model.release import Release

FREEZERS = cgroup.find().kinds()


def host_state(tag: str) -> dict[str, Any]:
    """Everything that carries the tag: others may use Stele on this host at the same time."""
    links = Path("/sys/class/net")
    return {
        "mounts": sorted(item.target for item in mounts.parse_mountinfo(Path("/proc/self/mountinfo").read_text()) if tag in item.target),
        "netns": sorted(path.name for path in Path("/run/netns").glob(f"*{tag}*")),
        "links": sorted(path.name for path in links.iterdir() if tag in (path / "ifalias").read_text()),
        "tables": [line for line in nft.run("list tables").splitlines() if tag in line],
        "cgroups": sorted(str(path) for root in cgroup.find().roots() for path in root.glob(f"*{tag}*")),
        "slots": slots.taken(Path("/run/stele"), tag),
        "sysctl": [path.name for path in Path("/run/stele/sysctl").glob("net*") if tag in path.read_text()],
        "loops": [path.parent.parent.name for path in Path("/sys/block").glob("loop*/loop/backing_file") if tag in path.read_text()],
        "verity": [path.name for path in Path("/dev/mapper").glob(f"*{tag}*")],
        "processes": subprocess.run(["pgrep", "-f", tag], capture_output=True, text=True, check=False).stdout.split(),
    }


@dataclass
class Bench:
    """What a test works with."""

    run_dir: Path
    data: Path
    runtime: Runtime
    network: Network
    listener: Listener

    def release(self, **declared: Any) -> tuple[Release, tuple[Path, ...]]:
        return tiny_release.build(self.data, **declared)

    def create(self, *, page: str = "one", verity: bool = False, **declared: Any) -> Instance:
        release, images = self.release(page=page, verity=verity, **declared)
        return self.runtime.create(release, images, self.data / "volumes")

    def serve(self, **declared: Any) -> Instance:
        """A started web server that answers on port 80 of its address."""
        instance = self.create(**declared)
        self.runtime.start(instance)
        self.await_true(lambda: get(instance.address, 80) is not None)
        return instance

    def script(self, text: str, **declared: Any) -> tuple[int, list[str]]:
        """Run a shell script as an instance's command, to its end; its exit status and output lines."""
        instance = self.create(command=["/bin/sh", "-c", f"exec 2>&1; {text}"], **declared)
        self.runtime.start(instance)
        self.await_true(lambda: bool(self.runtime.ended(instance)))
        status = self.runtime.stop(instance, "TERM", 0)
        self.runtime.remove(instance)
        return status, self.output(instance)

    @staticmethod
    def output(instance: Instance) -> list[str]:
        """Its lines: "time stream F text"; a piece of a line has P for F and is followed by the rest (k8s-file format)."""
        lines, begun = [], {"stdout": "", "stderr": ""}
        for line in Path(instance.log).read_text().splitlines():
            _, stream, whole, text = line.split(" ", 3)
            begun[stream] += text
            if whole == "F":
                lines.append(begun[stream])
                begun[stream] = ""
        return lines

    @staticmethod
    def await_true(what: Any, limit_s: float = 60.0) -> None:
        deadline = time.monotonic() + limit_s
        while not what():
            assert time.monotonic() < deadline, "did not come true"
            time.sleep(0.005)

    def with_ways(self, **changed: Any) -> Runtime:
        return replace(self.runtime, ways=msgspec.structs.replace(self.runtime.ways, **changed))


def get(address: str, port: int, timeout: float = 20.0) -> str | None:
    """The body of a page; None if the connection is refused or reset."""
    import socket

    try:
        with socket.create_connection((address, port), timeout) as connection:
            connection.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
            data = b""
            while part := connection.recv(65536):
                data += part
    except ConnectionError:
        return None
    return data.partition(b"\r\n\r\n")[2].decode().strip()


def make_bench(freezer: Any = None) -> Bench:
    tag = secrets.token_hex(4)
    run_dir, data = Path("/run/stele") / tag, Path(tempfile.mkdtemp(prefix=f"stele-{tag}-", dir="/var/tmp"))
    listener = Listener(run_dir / "seccomp.sock")
    network = Network(run_dir)
    chosen = msgspec.structs.replace(ways.find(data, freezer=freezer), verity=False)
    runtime = Runtime(run_dir=run_dir, logs=data / "logs", ways=chosen, network=network, listener=run_dir / "seccomp.sock")
    return Bench(run_dir, data, runtime, network, listener)


def close_bench(bench: Bench) -> None:
    for instance in bench.runtime.quarantined().values():
        bench.runtime.release_quarantined(instance)
    for instance in bench.runtime.adopt():
        bench.runtime.freezer(instance).thaw()
        bench.runtime.remove(instance)
    assert sweep.clear(bench.run_dir, bench.runtime.ways.cgroups, bench.network)
    bench.listener.close()
    shutil.rmtree(bench.run_dir)
    shutil.rmtree(bench.data)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = make_bench()
    before = host_state(made.run_dir.name)
    yield made
    close_bench(made)
    assert host_state(made.run_dir.name) == before


@pytest.fixture(params=FREEZERS)
def frozen_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Once for each freezer that this host has."""
    made = make_bench(request.param)
    before = host_state(made.run_dir.name)
    yield made
    close_bench(made)
    assert host_state(made.run_dir.name) == before
