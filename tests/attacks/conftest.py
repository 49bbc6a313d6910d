"""A run folder with a runtime, a parker and a gate; afterwards the host must be as it was before."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from stele.host import cgroup, ways
from stele.run import sweep
from stele.run.container import Runtime
from stele.run.network import Network
from stele.watch.client import GateClient, launch
from tests.attacks import cage as cages
from tests.integration.run.conftest import host_state

if TYPE_CHECKING:
    from collections.abc import Iterator

FREEZERS = cgroup.find().kinds()


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
    before = host_state(tag)
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
    assert host_state(tag) == before
