"""Seal, run, change, go back, prove: through the command line, with a real container."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.e2e.host import Host

pytestmark = [pytest.mark.root]


def test_a_release_is_sealed_run_replaced_rolled_back_and_proved(host: Host) -> None:
    one, two = host.seal("1"), host.seal("2")
    assert host.stele("apply", one)["changed"]
    assert host.get() == "version 1"
    status = host.status()
    assert status["release"] == one
    assert status["enforced"] in {"kernel-verified", "verified at start, watched since"}
    assert host.stele("apply", one)["changed"] is False
    host.wait(lambda: host.status()["good"] == [one], "the first release is confirmed")

    host.stele("apply", "tiny")  # the newest
    assert host.get() == "version 2"
    host.wait(lambda: host.status()["good"] == [one, two], "the second release is confirmed")
    assert host.stele("rollback", "tiny")["release"] == one
    assert host.get() == "version 1"

    active = host.events("instance.active")
    assert [event["data"]["release"] for event in active] == [one, two, one]
    starting = [event["data"]["instance"] for event in host.events("instance.starting")]
    assert all(event["data"]["instance"] in starting for event in active)

    between = (active[1]["time_ns"] + active[2]["time_ns"]) // 2
    instant = f"{_utc(between)}"
    proof = host.folder / "tiny.proof"
    host.stele("prove", "tiny", "--at", instant, "-o", str(proof))
    trust = str(host.data / "keys" / "trust.keys")
    elsewhere = Host(host.folder / "elsewhere", 0)
    verdict = elsewhere.stele("verify", str(proof), "--trust", trust)
    assert verdict["answer"]["state"]["active_release"] == two
    assert verdict["not_checked"]
    assert elsewhere.refused("verify", str(proof))["code"] == "prove.no-keys"
    other = Host(host.folder / "other", 0)
    other.stele("init", "--keys-only")
    status_code, _ = other.try_("verify", str(proof), "--trust", str(other.data / "keys" / "trust.keys"))
    assert status_code == 1
    assert host.stele("log", "check")["problems"] == []


def _utc(time_ns: int) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(time_ns // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{time_ns % 10**9:09d}Z"


def test_no_request_is_lost_while_releases_change(host: Host) -> None:
    one, two = host.seal("1", stop={"signal": "TERM", "grace": "1s"}), host.seal("2")
    host.stele("apply", one)
    stop, answers = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            answers.append(host.get())

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for release in (two, one, two):
        host.stele("apply", release)
    stop.set()
    for thread in threads:
        thread.join()
    assert set(answers) == {"version 1", "version 2"}


def test_a_release_that_does_not_become_healthy_never_serves_and_is_quarantined(host: Host) -> None:
    good = host.seal("1")
    bad = host.seal("2", command="exec sleep 1000", health={"port": 8080, "http": "/", "start": "700ms", "timeout": "200ms"})
    host.stele("apply", good)
    assert host.refused("apply", bad)["code"] == "deploy.unhealthy"
    assert host.get() == "version 1"
    assert host.status()["release"] == good
    assert bad in host.status()["quarantined"]
    assert host.refused("apply", bad)["code"] == "deploy.quarantined-release"
    host.stele("pardon", "tiny", bad, "--reason", "a test")
    assert host.refused("apply", bad)["code"] == "deploy.unhealthy"


def test_a_release_that_ends_at_once_names_how_it_ended(host: Host) -> None:
    bad = host.seal("1", command="exit 3")
    error = host.refused("apply", bad)
    assert "exit status 3" in error["reason"]
    assert host.status()["instance"] == ""


def test_a_release_that_fails_in_its_confirm_window_is_rolled_back_by_itself_once(host: Host) -> None:
    good = host.seal("1")
    failing = host.seal("2", command="httpd -p 8080 -h /www; sleep 1; exit 7", respond={"confirm": "1m", "window": "1s"})
    host.stele("apply", good)
    host.wait(lambda: host.status()["good"] == [good], "confirmed")
    host.stele("apply", failing)
    host.wait(lambda: host.status()["release"] == good and host.status()["instance"], "the automatic return")
    assert host.get() == "version 1"
    assert failing in host.status()["quarantined"]
    assert [event["data"]["by"] for event in host.events("rollback.decided")] == ["stele"]


def test_rollback_without_an_earlier_good_release_is_refused(host: Host) -> None:
    host.stele("apply", host.seal("1"))
    assert host.refused("rollback", "tiny")["code"] == "deploy.nothing-to-roll-back-to"
    assert host.refused("rollback", "nobody")["code"] == "workload.unknown"


def test_an_instance_that_ends_by_itself_is_replaced(host: Host) -> None:
    host.stele("apply", host.seal("1"))
    host.wait(lambda: host.status()["good"], "confirmed")
    before = host.status()["instance"]
    host.run_inside("kill -TERM 1; kill -9 $PPID; kill -9 1")
    # pid 1 of a namespace ignores signals from inside that it does not handle: end it as the kernel would, from outside
    pid = next(event["data"]["pid"] for event in host.events("instance.started") if event["data"]["instance"] == before)
    import os
    import signal

    os.kill(pid, signal.SIGKILL)
    host.wait(lambda: host.status()["instance"] not in {"", before}, "a replacement")
    assert host.get() == "version 1"


def test_an_altered_image_never_starts(host: Host) -> None:
    import subprocess

    release = host.seal("1")
    image = next((host.data / "store" / "erofs").glob("*.erofs"))
    subprocess.run(["chattr", "-i", str(image)], check=False, stderr=subprocess.DEVNULL)
    _flip(image, image.stat().st_size // 2)
    error = host.refused("apply", release)
    assert error["code"].startswith("store.")
    assert not host.events("instance.starting")


def test_a_release_under_another_key_never_starts(host: Host) -> None:
    release = host.seal("1")
    other = Host(host.folder / "other", 0)
    other.stele("init", "--keys-only")
    for name in ("release.pub", "release.key", "trust.policy"):
        (host.data / "keys" / name).write_bytes((other.data / "keys" / name).read_bytes())
    host.stele("agent", "stop")
    host.stele("agent", "start")
    assert host.refused("apply", release)["code"].startswith("store.")
    assert not host.events("instance.starting")


def _flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def test_a_port_that_somebody_holds_is_named_and_nothing_changes(host: Host) -> None:
    import socket

    release = host.seal("1")
    with socket.create_server(("127.0.0.1", host.port)):
        error = host.refused("apply", release)
    assert error["code"] == "run.port-busy"
    assert host.status()["instance"] == ""
    host.stele("apply", release)
    assert host.get() == "version 1"


def test_a_volume_survives_its_instances(host: Host) -> None:
    writable = [{"path": "/tmp"}, {"path": "/data", "kind": "volume", "volume": "kept", "owner": "1000:1000", "mode": "0700"}]
    one, two = host.seal("1", writable=writable), host.seal("2", writable=writable)
    host.stele("apply", one)
    assert host.run_inside("echo kept > /data/x; cat /data/x") == "kept"
    host.stele("apply", two)
    assert host.run_inside("cat /data/x") == "kept"


def test_the_projection_can_be_thrown_away(host: Host) -> None:
    host.seal("1")
    host.stele("agent", "stop")
    for path in (host.data / "ledger").glob("projection.sqlite*"):
        path.write_bytes(b"not a database at all" * 300)
    assert host.stele("log", "rebuild")["entries"] > 0
    host.stele("agent", "start")


def test_a_service_that_keeps_failing_is_tried_again_and_never_given_up(host: Host) -> None:
    # fails at each start until the file on its volume is there: somebody mends what it depends on, not the release
    writable = [{"path": "/tmp"}, {"path": "/data", "kind": "volume", "volume": "kept", "owner": "1000:1000", "mode": "0700"}]
    command = "cat /data/ready && exec busybox httpd -f -p 8080 -h /www"
    health = {"port": 8080, "http": "/index.html", "interval": "200ms", "timeout": "1s", "start": "2s"}
    release = host.seal("1", command=command, writable=writable, health=health)
    ready = host.data / "volumes" / "tiny" / "kept" / "ready"
    ready.parent.mkdir(parents=True)
    ready.parent.chmod(0o755)
    ready.write_text("yes")
    host.stele("apply", release)
    host.wait(lambda: host.status()["good"], "confirmed")
    ready.unlink()
    import os
    import signal

    os.kill(host.events("instance.started")[-1]["data"]["pid"], signal.SIGKILL)
    host.wait(lambda: len(host.events("incident.unresolved")) >= 2, "two attempts have failed")
    ready.write_text("yes")
    host.wait(lambda: host.get() == "version 1", "it serves again by itself")
