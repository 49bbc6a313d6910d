"""Holds and redactions through the agent, of a real incident."""

from __future__ import annotations

import pytest

from tests.e2e.host import Host
from tests.e2e.test_incident import DROP

pytestmark = [pytest.mark.root]


def test_an_incident_under_a_hold_is_kept_whole_and_can_be_redacted_after_it(host: Host) -> None:
    release = host.seal("1")
    host.stele("apply", release)
    assert "IT RAN" not in host.run_inside(DROP)
    incident = host.incident()["incident"]
    host.wait(lambda: host.incident()["evidence"], "the evidence is sealed")

    placed = host.stele("hold", "place", "--incident", incident, "--reason", "case 17")["hold"]
    assert [row["hold"] for row in host.stele("hold", "list")] == [placed]
    assert host.refused("evidence", "release", incident)["code"] == "hold.forbids"
    assert host.refused("log", "redact", "--incident", incident, "--reason", "r", "--yes")["code"] == "hold.forbids"
    assert host.refused("agent", "stop", "--remove")["code"] == "hold.forbids"
    assert host.status()["frozen"][0]["incident"] == incident, "nothing was stopped or let go of"
    host.stele("hold", "release", placed, "--reason", "closed")
    assert host.refused("hold", "release", placed, "--reason", "closed")["code"] == "hold.unknown"

    (seen,) = [event for event in host.events("violation") if event["data"]["incident"] == incident]
    assert seen["data"]["path"] == "/tmp/true"
    ledger = host.data / "ledger"

    def kept() -> bool:
        return any(b"/tmp/true" in path.read_bytes() for path in ledger.rglob("*") if path.is_file())

    assert kept()
    dry = host.stele("log", "redact", "--incident", incident)
    assert not dry["erased"]
    assert kept()
    # not by the incident: that the file came to be was seen before anybody executed it, and is not part of it
    found = host.stele("log", "redact", "--workload", "tiny", "--reason", "a request", "--yes")
    assert found["erased"]
    assert seen["index"] in [entry["index"] for entry in found["entries"]]
    assert not kept(), "of the ledger, no file has it any more, with the agent running on"
    shown = host.incident()
    assert "path" in shown["sealed"]
    assert (shown["path"], shown["kind"], shown["instance"]) == ("", "exec-unsealed", seen["data"]["instance"])
    redacted = [event for event in host.events("log.redacted") if event["workload"] == "tiny"]
    assert [event["actor"] for event in redacted] == ["operator"]
    assert redacted[0]["data"]["reason"] == "a request"
    assert redacted[0]["data"]["person"]
    assert host.stele("log", "check")["problems"] == []
    assert host.refused("log", "redact", "--incident", incident, "--field", "path", "--reason", "r", "--yes")["code"] == "redact.nothing"
    host.stele("evidence", "release", incident)
