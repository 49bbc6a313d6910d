"""A run folder with a runtime, a parker and a gate; afterwards the host must be as it was before."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from stele.host import cgroup, mounts, nft, pidfd, ways
from stele.run import sweep
from stele.run.container import Runtime
from stele.run.network import Network
from stele.watch.client import GateClient, launch
from tests.attacks import cage as cages

if TYPE_CHECKING:
    from collections.abc import Iterator

FREEZERS = cgroup.find().kinds()


def left_over(tag: str) -> list[str]:
    """Mounts, namespaces, tables, cgroups and processes that carry our tag; other runs on this host are none of our business."""
    found = [item.target for item in mounts.parse_mountinfo(Path("/proc/self/mountinfo").read_text()) if tag in item.target]
    found += [name for name in os.listdir("/run/netns") if tag in name] if Path("/run/netns").is_dir() else []
    found += [line for line in nft.run("list tables").splitlines() if tag in line]
    found += [str(path) for root in cgroup.find().roots() for path in root.glob(f"*{tag}*")]
    return found + [str(pid) for pid in pidfd.mentioning(f"/run/stele/{tag}".encode())]


@pytest.fixture(scope="session")
def attacked() -> Iterator[tuple[Any, Path]]:
    """The release's one stratum and its image."""
    folder = Path(tempfile.mkdtemp(prefix="stele-attacked-", dir="/var/tmp"))
    yield cages.build(folder)
    shutil.rmtree(folder)


@pytest.fixture(params=FREEZERS)
def cage(request: pytest.FixtureRequest, attacked: tuple[Any, Path]) -> Iterator[cages.Cage]:
    """An own gate, on each freezer that the host has."""
    yield from make_cage(attacked, request.param)


@pytest.fixture
def one_cage(attacked: tuple[Any, Path]) -> Iterator[cages.Cage]:
    """For what does not depend on the freezer."""
    yield from make_cage(attacked, FREEZERS[0])


def make_cage(attacked: tuple[Any, Path], freezer: Any) -> Iterator[cages.Cage]:
    data = Path(tempfile.mkdtemp(prefix="stele-attack-", dir="/var/tmp"))
    tag = data.name.replace("_", "0")[-8:]
    run_dir = Path("/run/stele") / tag
    network = Network(run_dir)
    chosen = msgspec.structs.replace(ways.find(data, freezer=freezer), verity=False)
    runtime = Runtime(run_dir=run_dir, logs=data / "logs", ways=chosen, network=network, listener=run_dir / "seccomp.sock")
    runtime._prepare_run_dir()
    launch(run_dir)
    made = cages.Cage(runtime, data, *attacked, GateClient(run_dir))
    made.listen()
    try:
        yield made
    finally:
        for instance in list(made.instances):
            made.remove(instance)
        made.client.shutdown()
        assert sweep.clear(run_dir, chosen.cgroups, network)
        log = (run_dir / "gate" / "gate.log").read_text()
        shutil.rmtree(run_dir)
        shutil.rmtree(data)
    assert not log
    cages.await_true(lambda: not left_over(tag), lambda: str(left_over(tag)))  # processes may be on their last instruction
