"""kill -9 of the agent at many points: the next start is consistent, and nothing that was acknowledged is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from examples.demo import host_state
from stele.flow.places import Places
from tests.e2e.host import Host

pytestmark = [pytest.mark.root]
HEALTH = {"port": 8080, "http": "/index.html", "interval": "200ms", "timeout": "1s", "start": "20s"}
DELAYS_MS = (0, 15, 40, 70, 100, 140, 190, 250, 330)


def test_agent_killed_at_many_points_of_a_change_starts_again_consistent(host: Host) -> None:
    releases = [host.seal("1"), host.seal("2")]
    host.stele("apply", releases[0])
    for number, delay in enumerate(DELAYS_MS):
        wanted = releases[(number + 1) % 2]
        argv = [sys.executable, "-m", "stele", "--data", str(host.data), "--json", "apply", wanted]
        change = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        host.wait(lambda change=change: change.poll() is not None or _asked(host), "the change has begun")
        time.sleep(delay / 1000)  # where the blow falls is the point; what must hold does not depend on it
        host.kill_agent()
        answer = change.communicate(timeout=60)[0]
        host.stele("agent", "start")
        host.wait(lambda: host.status().get("instance"), "something serves again")
        status = host.status()
        if change.returncode == 0:
            assert status["release"] == wanted, (delay, answer)  # it was acknowledged
        assert status["release"] in releases
        version = "1" if status["release"] == releases[0] else "2"
        host.wait(lambda version=version: host.get() == f"version {version}", "the port leads to what the status says")
        assert host.stele("log", "check")["problems"] == []
        if status["release"] != wanted:
            host.stele("apply", wanted)
    assert host.status()["frozen"] == []


def _asked(host: Host) -> bool:
    found = host.stele("status")
    return bool(found)


def test_what_was_acknowledged_before_the_blow_is_in_the_ledger_after_it(host: Host) -> None:
    sealed = []
    for number in range(3):
        sealed.append(host.seal(str(number)))
        host.kill_agent()
        host.stele("agent", "start")
    events = [event["data"]["release"] for event in host.events("release.sealed")]
    assert events == sealed


SLOW = "sleep 3; exec /bin/busybox httpd -f -p 8080 -h /www"  # healthy three seconds after it was started


def _replacement_begins(host: Host) -> None:
    release = host.seal("1", command=SLOW, health=HEALTH)
    host.stele("apply", release)
    host.wait(lambda: release in host.status()["good"], "it is good")  # one that fails sooner is not started again
    os.kill(int(host.events("instance.started")[-1]["data"]["pid"]), signal.SIGKILL)
    host.wait(lambda: [e for e in host.events("instance.starting") if e["data"]["role"] == "replacement"], "a replacement starts")


def _instances(host: Host) -> list[str]:
    tag = Places(host.data).tag
    return [name for name in host_state.take(tag, host.data).parts["cgroup"] if f"/stele-{tag}/" in name]


def test_workload_that_is_stopped_while_it_is_replaced_stays_stopped(host: Host) -> None:
    _replacement_begins(host)
    host.stele("remove", "tiny")
    assert _instances(host) == []
    began, stopped = ({event["data"]["instance"] for event in host.events(kind)} for kind in ("instance.starting", "instance.stopped"))
    assert began == stopped
    assert len(began) == 2
    assert host.status() == {}


def test_agent_that_is_stopped_while_it_replaces_leaves_nothing_on_the_host(host: Host) -> None:
    _replacement_begins(host)
    host.stele("agent", "stop", "--remove")
    assert _instances(host) == []  # and what else there could be, the fixture looks for
