"""A key is revoked while its releases run: they run on and are reported, nothing of them is started, and a valid signature mends it."""

from __future__ import annotations

import os
import signal

import pytest

from tests.e2e.host import Host

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


def own_key(host: Host) -> str:
    return str(next(item["key"] for item in host.stele("key", "list")["keys"] if item["revoked"] is None and item["until"] is None))


def revoke(host: Host) -> None:
    """The present key is replaced, and what it signed counts no more."""
    old = own_key(host)
    host.stele("key", "rotate")
    host.stele("key", "revoke", old, "--from", "0", "--reason", "stolen")


def test_what_a_revoked_key_signed_runs_on_is_reported_and_is_not_started_again(host: Host) -> None:
    release = host.seal("1")
    host.stele("apply", release)
    two = host.seal("2")
    host.wait(lambda: host.status()["good"] == [release], "the first is good")  # which one that is replaced sooner never is
    host.stele("apply", two)
    host.wait(lambda: len(host.status()["good"]) == 2, "both are good")
    revoke(host)
    host.wait(lambda: "revoked" in host.status()["refused"], "status says so")
    assert host.get() == "version 2"  # reported, not killed
    assert host.events("release.lapsed")[0]["data"]["release"] == two
    assert host.refused("apply", release)["code"] == "trust.key-revoked"
    assert host.refused("rollback", "tiny")["code"] == "trust.key-revoked"

    # the agent starts anew and takes over what runs
    host.stele("agent", "stop")
    host.stele("agent", "start")
    assert host.get() == "version 2"
    host.wait(lambda: host.status()["refused"], "status says so again")
    starts = len(host.events("instance.starting"))
    os.kill(int(host.events("instance.started")[-1]["data"]["pid"]), signal.SIGKILL)
    host.wait(lambda: host.events("incident.unresolved"), "no replacement")
    assert "revoked" in host.events("incident.unresolved")[-1]["data"]["reason"]
    assert len(host.events("instance.starting")) == starts
    assert host.get().startswith("no answer")

    # somebody knows the release to be good: it is started by itself
    assert host.stele("sign", two)["accepted"]
    host.wait(lambda: host.get() == "version 2", "it serves again")
    assert host.status()["refused"] == ""
    assert host.events("release.reinstated")


def test_a_policy_that_says_so_stops_what_runs(host: Host) -> None:
    release = host.seal("1")
    host.stele("apply", release)
    path = host.data / "keys" / "trust.policy"
    path.write_text(path.read_text() + "running stop\n")
    assert host.get() == "version 1"
    revoke(host)
    host.wait(lambda: host.get().startswith("no answer"), "it is stopped")
    host.wait(lambda: host.events("instance.stopped"), "recorded")
    assert "no longer accepted" in host.events("instance.stopped")[-1]["data"]["reason"]
