"""kill -9 at any point of an instance's life: the next start finds everything, and the host ends as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stele.host import mounts
from stele.run import sweep
from stele.run.network import Network
from tests.integration.run.conftest import host_state

pytestmark = pytest.mark.root
PORT = 18_433
POINTS = 40


def _live(bench, last: int) -> str:
    """Run the dying process; what it printed."""
    argv = [sys.executable, "-m", "tests.integration.run.dying", str(bench.run_dir), str(bench.data), str(last), str(PORT)]
    root = Path(__file__).parents[3]
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        cwd=root,
        env={"PYTHONPATH": f"{root}/src:{root}", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        check=False,
    )
    assert done.returncode in {0, -9}, done.stderr
    return done.stdout


def test_killed_at_many_points_leaves_nothing_that_the_next_start_does_not_find(bench) -> None:
    before = host_state(bench.run_dir.name)
    said = _live(bench, -1)
    total = int(said.split()[1])
    complete = 0
    for point in range(POINTS):
        last = 1 + point * total // POINTS
        _live(bench, last)
        network = Network(bench.run_dir)
        sweep.sweep(bench.run_dir, bench.runtime.ways.cgroups, network)
        left = bench.runtime.adopt()
        for instance in left:
            complete += 1
            assert Path(instance.netns).exists()
            bench.runtime.remove(instance)
        assert sweep.clear(bench.run_dir, bench.runtime.ways.cgroups, network), f"killed at call {last} of {total}"
        after = host_state(bench.run_dir.name)
        assert after == before, f"killed at call {last} of {total}"
    assert 0 < complete < POINTS  # both kinds of leftover were met
    assert (bench.data / "volumes/tiny/d").is_dir()  # application data is never swept


def test_running_instance_outlives_its_killed_creator(bench) -> None:
    said = _live(bench, -1)
    total = int(said.split()[1])
    for last in range(total * 3 // 4, total, max(1, total // 40)):
        _live(bench, last)
        network = Network(bench.run_dir)
        sweep.sweep(bench.run_dir, bench.runtime.ways.cgroups, network)
        for instance in bench.runtime.adopt():
            if not bench.runtime.ended(instance):
                assert mounts.mounted_below(Path(instance.rootfs))
                assert bench.runtime.stop(instance, "KILL", 1000) == 137
            bench.runtime.remove(instance)
        sweep.clear(bench.run_dir, bench.runtime.ways.cgroups, network)
