"""Attacks through the application, end to end: frozen, cut, kept, replaced, recorded; also when the agent is dead."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from stele.flow.places import Places
from tests.e2e.host import Host

pytestmark = [pytest.mark.root]
DROP = "cp /bin/busybox /tmp/true && chmod 755 /tmp/true && /tmp/true && echo IT RAN"


def _frozen_pids(host: Host, incident: str) -> list[int]:
    """Host pids of the frozen instance, from its freezer, if every one of them is frozen."""
    import json

    facts = json.loads((host.data / "evidence" / incident / "instance.json").read_text())
    folder = Path(facts["freezer_dir"])
    state = (folder / "freezer.state").read_text().strip() if facts["freezer"] == "v1" else (folder / "cgroup.events").read_text()
    assert state == "FROZEN" or "frozen 1" in state
    return [int(word) for word in (folder / "cgroup.procs").read_text().split()]


def test_dropped_binary_is_frozen_replaced_and_kept_as_evidence(host: Host) -> None:
    host.stele("apply", host.seal("1"))
    before = host.status()["instance"]
    assert "IT RAN" not in host.run_inside(DROP)
    found = host.incident()
    assert found["kind"] == "exec-unsealed"
    assert found["instance"] == before
    assert found["path"] == "/tmp/true"
    assert host.wait(lambda: host.get() == "version 1", "the replacement answers")
    assert host.status()["instance"] not in {"", before}
    assert host.stele("evidence", "verify", found["incident"])["problems"] == []
    bundle = host.data / "evidence" / found["incident"]
    tar = next((bundle / "files").glob("*-tmp.tar"))
    listed = subprocess.run(["tar", "tf", str(tar)], capture_output=True, text=True, check=True).stdout
    assert "./true" in listed.split()
    assert list((bundle / "memory").glob("*.core"))
    kinds = [event["kind"] for event in host.events() if event["data"].get("incident") == found["incident"]]
    assert kinds[:3] == ["violation", "instance.frozen", "instance.starting"]
    assert {"network.cut", "incident.resolved", "evidence.sealed"} <= set(kinds)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("mount -o remount,rw / && echo IT RAN", "forbidden-call"),
        ("echo 'echo IT RAN' > /tmp/s; sh /tmp/s", "script-unsealed"),
        ("printf '#!/bin/sh\necho IT RAN\n' > /tmp/s; chmod 755 /tmp/s; /tmp/s", "exec-unsealed"),
    ],
)
def test_other_ways_to_run_what_is_not_sealed(host: Host, line: str, kind: str) -> None:
    host.stele("apply", host.seal("1"))
    assert "IT RAN" not in host.run_inside(line)
    assert host.incident()["kind"] == kind


def test_refused_writes_are_reported_with_path_and_process_and_service_goes_on(host: Host) -> None:
    host.stele("apply", host.seal("1"))
    before = host.status()["instance"]
    assert "Read-only" in host.run_inside("echo x > /www/index.html")
    found = host.wait(lambda: host.events("write.refused"), "the refused write is recorded")
    assert found[0]["data"]["path"] == "/www/index.html"
    assert found[0]["data"]["pid"] > 0
    assert host.get() == "version 1"
    assert host.status()["instance"] == before


def test_changes_on_writable_places_are_reported(host: Host) -> None:
    host.stele("apply", host.seal("1"))
    host.run_inside("echo x > /tmp/new-file")
    assert host.wait(
        lambda: [e for e in host.events("change.observed") if e["data"]["path"] == "/tmp/new-file"],
        "the change is recorded",
    )


def test_nothing_thaws_or_kills_the_frozen_instance_by_accident(host: Host) -> None:
    host.stele("apply", host.seal("1"))
    host.run_inside(DROP)
    found = host.incident()
    pids = _frozen_pids(host, found["incident"])
    assert pids
    run = Places(host.data).run
    for words in (["kill", found["instance"], "KILL"], ["delete", "--force", found["instance"]], ["resume", found["instance"]]):
        subprocess.run(["runc", "--root", str(run / "runc"), *words], capture_output=True, check=False, timeout=30)
    assert _frozen_pids(host, found["incident"]) == pids
    host.kill_agent()
    host.stele("agent", "start")
    assert _frozen_pids(host, found["incident"]) == pids
    host.stele("remove", "tiny")
    assert _frozen_pids(host, found["incident"]) == pids
    host.stele("evidence", "release", found["incident"])
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert host.stele("evidence", "verify", found["incident"])["problems"] == []


def test_altered_evidence_is_noticed(host: Host) -> None:
    host.stele("apply", host.seal("1"))
    host.run_inside(DROP)
    incident = host.incident()["incident"]
    target = host.data / "evidence" / incident / "report.json"
    target.write_bytes(target.read_bytes().replace(b"exec-unsealed", b"all-was-well!"))
    status, answer = host.try_("evidence", "verify", incident)
    assert status == 1
    assert answer["problems"] == ["altered: report.json"]


def test_attack_while_the_agent_is_dead_is_frozen_at_once_and_recorded_by_the_next(host: Host) -> None:
    host.stele("apply", host.seal("1"))
    host.wait(lambda: host.status()["good"], "confirmed")
    before = host.status()["instance"]
    host.kill_agent()
    assert host.get() == "version 1"  # the instance runs on
    assert "IT RAN" not in host.run_inside(DROP)
    host.stele("agent", "start")
    found = host.incident()
    assert found["instance"] == before
    assert host.wait(lambda: host.get() == "version 1", "the replacement answers")
    assert host.stele("log", "check")["problems"] == []


def test_killed_gate_fails_closed_and_its_successor_goes_on(host: Host) -> None:
    host.stele("apply", host.seal("1"))
    run = str(Places(host.data).run)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"stele.watch.gate" in words and run.encode() in words:
            os.kill(int(path.parent.name), signal.SIGKILL)
    assert "IT RAN" not in host.run_inside(DROP, timeout=10)
    assert host.incident()["kind"] == "exec-unsealed"
    assert host.wait(lambda: host.run_inside("echo fine") == "fine", "sealed programs run")
    assert host.wait(lambda: [e for e in _host_events(host) if e["kind"] == "watcher.lost"], "the gap is recorded")


def _host_events(host: Host) -> list[dict[str, object]]:
    return [event for event in host.events() if not event["workload"] or event["kind"].startswith("watcher.")]


def test_repeated_incidents_quarantine_the_release_instead_of_looping(host: Host) -> None:
    release = host.seal("1", respond={"max_incidents": 2, "window": "1h", "confirm": "300ms"})
    host.stele("apply", release)
    for number in range(2):
        host.wait(lambda: host.get() == "version 1", "it serves")
        host.run_inside(DROP)
        host.incident(number)
    host.wait(lambda: host.get() == "version 1", "it serves")
    host.run_inside(DROP)
    host.wait(lambda: release in host.status()["quarantined"], "the release is quarantined")
    assert host.status()["instance"] == ""
    assert host.get().startswith("no answer")
    assert host.refused("apply", release)["code"] == "deploy.quarantined-release"


def test_quarantined_instance_refuses_connections_at_once(host: Host) -> None:
    release = host.seal("1", respond={"max_incidents": 1, "window": "1h", "confirm": "300ms"})
    host.stele("apply", release)
    host.run_inside(DROP)
    host.incident(0)
    host.wait(lambda: host.get() == "version 1", "it serves")
    host.run_inside(DROP)
    host.wait(lambda: release in host.status()["quarantined"], "the release is quarantined")
    begun = time.monotonic()
    assert host.get(timeout=20) == "no answer: ConnectionRefusedError"
    assert time.monotonic() - begun < 10  # refused, not timed out
