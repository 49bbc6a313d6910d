"""stele hold: legal holds."""

from __future__ import annotations

from typing import Any

import click

from stele.cli import render
from stele.cli.context import Call, with_call
from stele.cli.custody import through
from stele.model import private
from stele.model.hold import On, on_from
from stele.trust.errors import SteleError


@click.group()
def hold() -> None:
    """Legal holds: what must be kept. As long as one stands, nothing that it is on is redacted, evicted, let go of or disposed of."""


@hold.command(
    epilog="\b\nExample:\n"
    '  stele hold place --incident shop-3fa9c1 --reason "case 2026-17"\n'
    '  stele hold place --workload shop --reason "audit 2026"\n'
    '  stele hold place --entries 100-120 --reason "case 2026-17"'
)
@click.option("--workload", default="", help="All entries of this workload, its incidents and releases.")
@click.option("--release", default="", help="This release (whole digest), its incidents, and all entries about them.")
@click.option("--incident", default="", help="This incident: its entries, its evidence, its frozen instance.")
@click.option("--entries", default="", metavar="FIRST-LAST", help="The entries with these indexes, both included.")
@click.option("--reason", required=True, help="Why. Kept private: the ledger only commits to it.")
@with_call
def place(call: Call, workload: str, release: str, incident: str, entries: str, reason: str) -> None:
    """Place a hold on one thing. It stands until `stele hold release`."""
    given = {"workload": workload, "release": release, "incident": incident, "entries": _range(entries) if entries else None}
    on = on_from({name: value for name, value in given.items() if value})
    found = through(
        call, "/v1/holds/place", {"on": on.plain(), "reason": reason}, lambda custody, person: custody.place(on, reason, person)
    )
    if call.json:
        render.show_json(found)
    else:
        render.say_line(f"{found['hold']} stands on {on}")


@hold.command("release", epilog='\b\nExample:\n  stele hold release hold-1a2b3c --reason "case closed"')
@click.argument("hold_id", metavar="HOLD")
@click.option("--reason", required=True, help="Why. Kept private: the ledger only commits to it.")
@with_call
def end(call: Call, hold_id: str, reason: str) -> None:
    """End HOLD. That it stood, from when to when, who placed it and who ended it stays in the ledger."""
    body = {"hold": hold_id, "reason": reason}
    found = through(call, "/v1/holds/release", body, lambda custody, person: custody.release(hold_id, reason, person))
    if call.json:
        render.show_json(found)
    else:
        render.say_line(f"{found['hold']} no longer stands on {on_from(found['on'])}")


@hold.command("list", epilog="\b\nExample:\n  stele hold list\n  stele hold list --all --json")
@click.option("--all", "ended", is_flag=True, help="Also those that were released.")
@with_call
def listing(call: Call, ended: bool) -> None:
    """List the holds that stand, as the published ledger has them."""
    from stele.flow import custody

    found = custody.listing(call.places, ended=ended)
    if call.json:
        render.show_json(found)
        return
    rows = [
        (
            row["hold"],
            str(_on(row)),
            render.when(row["time_ns"]),
            row["person"] or private.CLOSED,
            row["reason"] or private.CLOSED,
            _ended(row),
        )
        for row in found
    ]
    render.show_table(("HOLD", "ON", "SINCE (UTC)", "PLACED BY", "REASON", "RELEASED"), rows, empty="no holds")


def _on(row: dict[str, Any]) -> On:
    return on_from(row["on"])


def _ended(row: dict[str, Any]) -> str:
    end = row["released"]
    return "" if end is None else f"{render.when(end['time_ns'])} by {end['person'] or private.CLOSED}: {end['reason'] or private.CLOSED}"


def _range(text: str) -> list[int]:
    first, dash, last = text.partition("-")
    if not all(part.isascii() and part.isdecimal() and len(part) < 19 for part in (first, last)) or not dash:
        raise SteleError(f"{text!r} is not a range of entries", remedy="write it as FIRST-LAST, for example 100-120", code="hold.malformed")
    return [int(first), int(last)]
