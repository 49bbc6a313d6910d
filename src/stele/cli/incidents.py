"""stele incidents, stele evidence."""

from __future__ import annotations

import click

from stele.cli import render
from stele.cli.context import Call, with_call
from stele.model import private


@click.command(epilog="\b\nExample:\n  stele incidents\n  stele incidents --json")
@with_call
def incidents(call: Call) -> None:
    """Violations that froze an instance: what was tried, how fast it was frozen and replaced, where the evidence is."""
    from stele.flow import reading

    found = reading.incidents(call.places)
    if call.json:
        render.show_json(found)
        return
    rows = [
        (
            entry["incident"],
            render.when(entry["time_ns"]),
            entry["kind"],
            private.CLOSED if "path" in entry["sealed"] else entry["path"] or entry["syscall"],
            entry["instance"],
            render.took(entry["freeze_ns"]) if entry["freeze_ns"] else "",
            render.took(entry["replace_ns"]) if entry["replace_ns"] else entry["outcome"],
            entry["state"],
        )
        for entry in found
    ]
    render.show_table(
        ("INCIDENT", "TIME (UTC)", "VIOLATION", "WHAT", "INSTANCE", "FROZEN IN", "REPLACED IN", "STATE"), rows, empty="no incidents"
    )


@click.group()
def evidence() -> None:
    """What was collected from frozen instances, and the frozen instances themselves."""


@evidence.command("list", epilog="\b\nExample:\n  stele evidence list shop-3fa9c1")
@click.argument("incident")
@with_call
def list_files(call: Call, incident: str) -> None:
    """List the files of the evidence of INCIDENT. Recorded as an access (custody)."""
    from stele.flow import evidence as flow

    found = flow.files(call.places, incident)
    _record_access(call, incident, "list")
    if call.json:
        render.show_json(found)
    else:
        render.show_table(("FILE", "SIZE", "SHA-256"), [(f["name"], render.size(f["size"]), f["sha256"]) for f in found])
        render.say_line(f"in {call.places.evidence / incident}")


@evidence.command("verify", epilog="\b\nExample:\n  stele evidence verify shop-3fa9c1")
@click.argument("incident")
@with_call
def verify_bundle(call: Call, incident: str) -> None:
    """Check the evidence of INCIDENT against its signed manifest and the ledger. Exit code 1 if it was altered."""
    from stele.flow import evidence as flow
    from stele.flow import reading

    recorded = {entry["incident"]: entry["evidence"] for entry in reading.incidents(call.places)}
    problems = flow.verify(call.places, incident, recorded.get(incident, ""))
    if not recorded.get(incident):
        problems.append("the ledger does not know this evidence")
    _record_access(call, incident, "verify")
    if call.json:
        render.show_json({"incident": incident, "problems": problems})
    else:
        for problem in problems:
            render.say_line(f"ALTERED: {problem}")
        if not problems:
            render.say_line("whole: every file is as it was signed, and the signature and ledger agree")
    if problems:
        raise SystemExit(1)


@evidence.command("release", epilog="\b\nExample:\n  stele evidence release shop-3fa9c1")
@click.argument("incident")
@with_call
def release(call: Call, incident: str) -> None:
    """Let go of the frozen instance of INCIDENT: it is killed without running again. Its evidence bundle stays."""
    result = call.agent.call("POST", "/v1/incidents/release", {"incident": incident})
    if call.json:
        render.show_json(result)
    else:
        render.say_line(f"{result['instance']} is gone; its evidence stays in {call.places.evidence / incident}")


def _record_access(call: Call, incident: str, how: str) -> None:
    """Custody: through the agent, or directly where none runs."""
    from stele.flow import opening, reading

    opening.in_turn(
        lambda: reading.record_access(call.places, incident, how),
        lambda: call.agent.call("POST", "/v1/accessed", {"incident": incident, "how": how}),
    )
