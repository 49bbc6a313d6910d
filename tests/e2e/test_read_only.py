"""The ledger is damaged under the agent: it says so, everything that runs goes on, nothing is changed; and afterwards it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from stele.flow.places import Places
from tests.e2e.host import Host

pytestmark = [pytest.mark.root]


def _newest(folder: Path) -> Path:
    return max((path for path in (folder / "checkpoints").iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))


def test_a_damaged_ledger_stops_changes_and_nothing_else(host: Host) -> None:
    first, second = host.seal("1"), host.seal("2")
    host.stele("apply", first)
    host.wait(lambda: host.get() == "version 1", "it serves")
    host.stele("agent", "stop")
    folder = Places(host.data).ledger
    archived = _newest(folder)
    data = archived.read_bytes()
    signed = (folder / "checkpoint").read_bytes()
    archived.write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])

    try:
        host.stele("agent", "start")
        assert host.get() == "version 1"
        assert host.status()["release"] == first
        code, shown = host.try_("--debug", "status")
        assert code == 0, shown
        for change in (("apply", second), ("remove", "tiny"), ("agent", "stop", "--remove")):
            assert host.refused(*change)["code"] in {"trust.bad-signature", "trust.bad-note"}, change
        assert host.get() == "version 1"
        assert "READ-ONLY" in host.agent_log()
        assert (folder / "checkpoint").read_bytes() == signed
        assert host.events("release.sealed")  # reading goes on
        host.stele("agent", "stop")
        assert host.get() == "version 1"
    finally:
        archived.write_bytes(data)
    host.stele("agent", "start")
    assert host.stele("apply", second)["changed"]
    host.wait(lambda: host.get() == "version 2", "the change is made")
    assert host.stele("log", "check")["problems"] == []
    assert [event["data"]["code"] for event in host.events("ledger.restored")] in (["trust.bad-signature"], ["trust.bad-note"])
