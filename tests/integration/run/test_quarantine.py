"""Evidence stays: nothing thaws, kills or removes a frozen instance but an operator's explicit decision."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from stele.run import sweep
from stele.trust.errors import SteleError

pytestmark = [pytest.mark.root, pytest.mark.guest]
COUNTER = "i=0; while :; do i=$((i+1)); echo $i > /data/count; done"


@pytest.fixture
def counting(frozen_bench):
    """An instance that counts, frozen; and what it had counted to."""
    bench = frozen_bench
    instance = bench.create(command=["/bin/sh", "-c", COUNTER], writable=[{"path": "/data", "kind": "volume", "volume": "d"}])
    count = bench.data / "volumes/tiny/d/count"
    bench.runtime.start(instance)
    bench.await_true(lambda: count.exists() and count.read_text().strip() not in {"", "1", "2"})
    bench.runtime.freeze(instance)
    return bench, instance, count


def test_frozen_but_not_yet_marked_is_evidence_already(counting) -> None:
    bench, instance, _ = counting
    for attempt in (bench.runtime.remove, bench.runtime.start, lambda it: bench.runtime.stop(it, "TERM", 0)):
        with pytest.raises(SteleError) as caught:
            attempt(instance)
        assert caught.value.code == "run.quarantined"
    assert bench.runtime.ended(instance) == ""
    assert bench.runtime.freezer(instance).is_frozen()


def test_quarantine_survives_runc_kill_delete_resume_stop_remove_and_sweep(counting) -> None:
    bench, instance, count = counting
    bench.runtime.quarantine(instance, "tiny-abc")
    bench.runtime.quarantine(instance, "tiny-abc")
    counted = count.read_text()
    root = f"--root={bench.run_dir}/runc"
    for command in (
        ["kill", instance.id, "KILL"],
        ["delete", "--force", instance.id],
        ["resume", instance.id],
        ["exec", instance.id, "/bin/true"],
    ):
        subprocess.run(["runc", root, *command], capture_output=True, check=False)
    assert instance.id not in subprocess.run(["runc", root, "list", "-q"], capture_output=True, text=True, check=True).stdout
    for attempt in (bench.runtime.remove, bench.runtime.start, lambda it: bench.runtime.stop(it, "KILL", 0)):
        with pytest.raises(SteleError) as caught:
            attempt(instance)
        assert caught.value.code == "run.quarantined"
    sweep.sweep(bench.run_dir, bench.runtime.ways.cgroups, bench.network)
    assert not sweep.clear(bench.run_dir, bench.runtime.ways.cgroups, bench.network)
    assert bench.runtime.freezer(instance).is_frozen()
    assert bench.runtime.ended(instance) == ""
    assert bench.runtime.adopt() == []
    assert bench.runtime.quarantined() == {"tiny-abc": instance}
    assert Path(f"/proc/{instance.pid}/mem").stat() is not None
    assert count.read_text() == counted


def test_release_kills_it_before_it_runs_one_more_instruction(counting) -> None:
    bench, instance, count = counting
    bench.runtime.quarantine(instance, "tiny-abc")
    counted = count.read_bytes()
    changed = count.stat().st_mtime_ns
    bench.runtime.release_quarantined(instance)
    assert (count.read_bytes(), count.stat().st_mtime_ns) == (counted, changed)
    assert not Path(f"/proc/{instance.pid}").exists()
    assert bench.runtime.quarantined() == {}
    bench.runtime.release_quarantined(instance)


def test_sigkill_to_evidence_waits_in_v1_and_reaps_in_v2(counting) -> None:
    bench, instance, _ = counting
    bench.runtime.quarantine(instance, "tiny-abc")
    os.kill(instance.pid, signal.SIGKILL)
    if instance.freezer == "v1":
        assert bench.runtime.freezer(instance).is_frozen()
        assert bench.runtime.ended(instance) == ""
    else:
        bench.await_true(lambda: bench.runtime.ended(instance) != "")
    assert bench.runtime.quarantined() == {"tiny-abc": instance}


def test_a_second_instance_goes_on_while_the_first_is_evidence(counting) -> None:
    bench, instance, _ = counting
    bench.runtime.quarantine(instance, "tiny-abc")
    other = bench.serve()
    assert other.slot != instance.slot
    bench.runtime.remove(other)
    assert bench.runtime.freezer(instance).is_frozen()
