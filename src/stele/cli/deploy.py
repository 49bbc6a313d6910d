"""apply, status, rollback, pardon, remove, logs: requests to the agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stele.cli import render
from stele.cli.context import Call, with_call
from stele.trust.errors import SteleError


def _ask(call: Call, first: str, target: str, body: dict[str, Any]) -> Any:
    with render.progress(first, quiet=call.json) as say:
        return call.agent.call("POST", target, body, say=say)


def _served(call: Call, result: dict[str, Any]) -> None:
    if call.json:
        render.show_json(result)
    elif result["changed"]:
        render.say_line(f"{result['instance']} serves release {render.short(result['release'])}")
    else:
        render.say_line(f"release {render.short(result['release'])} already serves as {result['instance']}; nothing to do")


@click.command(epilog="\b\nExample:\n  stele apply shop\n  stele apply sha256:4be1…   (a digest, or the start of one)")
@click.argument("release")
@with_call
def apply(call: Call, release: str) -> None:
    """Run RELEASE: a digest (or its start), or a workload's name for its newest release.

    The new instance takes over the ports only after its health check passes; if it does not pass, what served before
    still serves, the release is quarantined, and the exit code is 1.
    """
    _served(call, _ask(call, "applying", "/v1/apply", {"release": release}))


@click.command(epilog="\b\nExample:\n  stele rollback shop\n  stele rollback shop --to 4be1")
@click.argument("workload")
@click.option("--to", default="", help="Digest (or its start) of an earlier good release [default: the one before].")
@with_call
def rollback(call: Call, workload: str, to: str) -> None:
    """Return WORKLOAD to the previous good release. Needs no build and no network."""
    _served(call, _ask(call, "rolling back", "/v1/rollback", {"workload": workload, "to": to}))


@click.command(epilog='\b\nExample:\n  stele pardon shop 4be1 --reason "the database was down, not the release"')
@click.argument("workload")
@click.argument("release")
@click.option("--reason", required=True, help="Why; goes into the ledger.")
@with_call
def pardon(call: Call, workload: str, release: str, reason: str) -> None:
    """Lift the quarantine of RELEASE of WORKLOAD, so that it may be applied again."""
    result = _ask(call, "pardoning", "/v1/pardon", {"workload": workload, "release": release, "reason": reason})
    if call.json:
        render.show_json(result)
    else:
        render.say_line(f"release {render.short(result['release'])} may run again")


@click.command(epilog="\b\nExample:\n  stele remove shop")
@click.argument("workload")
@with_call
def remove(call: Call, workload: str) -> None:
    """Stop WORKLOAD and remove its instances. Frozen ones, volumes and the ledger stay."""
    result = _ask(call, f"removing {workload}", "/v1/remove", {"workload": workload})
    if call.json:
        render.show_json(result)
        return
    render.say_line(f"{workload} is stopped")
    for incident in result["frozen"]:
        render.say_line(f"its frozen instance stays: `stele evidence release {incident}` lets it go")


@click.command(epilog="\b\nExample:\n  stele status\n  stele status --json")
@with_call
def status(call: Call) -> None:
    """What is running, by which digest, since when, and what enforces that it cannot change."""
    found = call.agent.call("GET", "/v1/status")
    ledger = call.agent.call("GET", "/v1/ledger")
    why = ledger["read_only"]
    if why is not None:
        render.warn(f"the ledger is READ-ONLY: {why['reason']}", f"nothing is started or stopped until it fits again; {why['remedy']}")
    for each in ledger["witnesses"]:
        if each["error"]:
            render.warn(
                f"the witness {each['name']} has not cosigned since {each['size']} entries: {each['error']}",
                "it is asked again; `stele log witnesses` shows what is published and witnessed",
            )
    if call.json:
        render.show_json(found)
        return
    rows = [
        (
            entry["workload"],
            entry["phase"],
            render.short(entry["release"]),
            entry["instance"],
            render.when(entry["since_ns"]) if entry["instance"] else "",
            ", ".join(entry["ports"]),
            entry["enforced"],
        )
        for entry in found
    ]
    render.show_table(
        ("WORKLOAD", "PHASE", "RELEASE", "INSTANCE", "SINCE (UTC)", "PORTS", "IMMUTABLE BY"),
        rows,
        empty="no workload runs here; `stele apply` starts one",
    )
    for entry in found:
        for frozen in entry["frozen"]:
            render.say_line(f"frozen: {frozen['instance']} (incident {frozen['incident']}); see `stele incidents`")
        if entry["refused"]:
            render.say_line(f"{entry['workload']} runs what is no longer accepted, and would not be started again: {entry['refused']}")
        for digest, why in entry["quarantined"].items():
            render.say_line(f"quarantined release of {entry['workload']}: {render.short(digest)} ({why})")


@click.command(epilog="\b\nExample:\n  stele logs shop\n  stele logs shop --instance shop-3fa9c1")
@click.argument("workload")
@click.option("--instance", default="", help="An instance other than the serving one, also a stopped one.")
@with_call
def logs(call: Call, workload: str, instance: str) -> None:
    """What an instance of WORKLOAD wrote to its standard output and error."""
    if not instance:
        serving = {entry["workload"]: entry["instance"] for entry in call.agent.call("GET", "/v1/status")}
        instance = serving.get(workload, "")
    if not instance or "/" in instance or instance.startswith("."):
        raise SteleError(
            f"no instance of {workload!r} serves", remedy="name one with --instance; `stele log` shows their ids", code="workload.unknown"
        )
    path = Path(call.places.agent / "logs" / f"{instance}.log")
    if not path.exists():
        raise SteleError(f"there is no log of {instance}", remedy="`stele log` shows the ids of instances", code="workload.unknown")
    lines = printed(path.read_text("utf-8", "replace"))
    if call.json:
        render.show_json([{"time": moment, "stream": stream, "text": text} for moment, stream, text in lines])
        return
    for moment, _, text in lines:
        render.say_line(f"{moment[:23]}Z  {text}")


def printed(raw: str) -> list[tuple[str, str, str]]:
    """Whole lines (time, stream, text) of conmon's log: `TIME STREAM P|F TEXT`, where P is a piece of a line."""
    found: list[tuple[str, str, str]] = []
    pieces: dict[str, str] = {}
    for line in raw.splitlines():
        fields = line.split(" ", 3)
        if len(fields) < 3 or fields[2] not in {"P", "F"}:
            continue
        moment, stream, kind, text = [*fields, ""][:4]
        pieces[stream] = pieces.get(stream, "") + text
        if kind == "F":
            found.append((moment, stream, pieces.pop(stream)))
    found += [("", stream, text) for stream, text in pieces.items()]
    return found
