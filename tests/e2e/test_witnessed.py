"""The agent and its witness: what the witness's outage holds back, what it does not, and that nobody needs to be told to go on."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from stele.flow.places import Places
from stele.trust import trust_keys
from tests import witnesses
from tests.e2e.host import Host

pytestmark = [pytest.mark.root]


def _now() -> int:
    return int(time.time())


def test_an_outage_of_the_witness_holds_back_publication_and_nothing_else(host: Host, tmp_path: Path) -> None:
    places = Places(host.data)
    keys = witnesses.make(tmp_path / "w", *trust_keys.parse(places.trust.read_bytes()).ledgers)
    with witnesses.serving(tmp_path / "w", clock=_now) as server:
        port = server.port
        lines = [f"witness w{key.algorithm} {key.encode()} http://127.0.0.1:{port}" for key in keys.verifiers]
        (tmp_path / "policy").write_text("\n".join([*lines, "group w all w4 w6", "quorum w", ""]))
        host.stele("log", "witnesses", "set", str(tmp_path / "policy"), "--on-timeout", "block", "--timeout", "500ms")
        host.stele("agent", "stop")
        host.stele("agent", "start")
        release = host.seal("1")
        host.stele("apply", release)
        host.wait(lambda: host.get() == "version 1", "it serves")
        before = host.stele("log", "witnesses")
        assert before["witnessed"] == before["published"] > 0
    # the witness is gone: releases change all the same, and the agent starts
    host.stele("apply", host.seal("2"))
    host.wait(lambda: host.get() == "version 2", "the change is made")
    host.kill_agent()
    host.stele("agent", "start")
    assert host.get() == "version 2"
    assert host.status()["release"] != release  # what was committed and not published counts
    shown = subprocess.run([sys.executable, "-m", "stele", "--data", str(host.data), "status"], capture_output=True, text=True, check=True)
    assert "has not cosigned" in shown.stderr + shown.stdout
    held = host.stele("log", "witnesses")
    assert held["published"] == held["witnessed"]
    assert held["published"] - before["published"] < 20
    assert host.refused("prove", "tiny", "-o", str(tmp_path / "proof"))["code"] == "witness.no-quorum"
    with witnesses.serving(tmp_path / "w", clock=_now, port=port):
        host.wait(lambda: host.stele("log", "witnesses")["witnessed"] > held["witnessed"], "it is published by itself")
        host.stele("prove", "tiny", "-o", str(tmp_path / "proof"))
        found = host.stele("log", "monitor", str(places.ledger), "--trust", str(places.trust), "--once", "--state", str(tmp_path / "m"))
        assert found["alarms"] == []
        assert found["witnessed"] == found["size"]
    # what destroys something has to see every hold, and so waits for the witness, too
    host.stele("apply", host.seal("3"))
    assert host.refused("agent", "stop", "--remove")["code"] == "witness.no-quorum"
    assert host.get() == "version 3"
    host.stele("log", "witnesses", "clear")
    host.stele("agent", "stop")
    host.stele("agent", "start")
