"""stele log redact: erase private fields."""

from __future__ import annotations

from typing import Any

import click

from stele.cli import render
from stele.cli.context import Call, with_call
from stele.cli.custody import through
from stele.model.redaction import Selection

MAX_RANGE = 1_000_000


def _indexes(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> frozenset[int]:
    """The indexes that texts like `7` and `7-9` mean, each in its one spelling."""
    found: set[int] = set()
    for value in values:
        first, dash, last = value.partition("-")
        parts = (first, last) if dash else (first,)
        if not all(part.isascii() and part.isdecimal() and len(part) < 19 for part in parts):
            raise click.BadParameter(f"{value!r} is not the index of an entry, or two with a dash between", ctx, param)
        meant = range(int(first), int(parts[-1]) + 1)
        if not 0 < len(meant) <= MAX_RANGE:
            raise click.BadParameter(f"{value!r} means {'too many entries' if meant else 'no entry'}", ctx, param)
        found |= set(meant)
    return frozenset(found)


@click.command(
    epilog="\b\nExample:\n"
    '  stele log redact --entry 412 --field argv --reason "a password" --yes\n'
    "  stele log redact --workload shop --kind violation --field path\n"
    '  stele log redact --incident shop-3fa9c1 --reason "request of the person" --yes'
)
@click.option(
    "--entry", "entries", multiple=True, callback=_indexes, metavar="INDEX", help="Index of an entry, or FIRST-LAST; may be given again."
)
@click.option("--workload", default=None, help='Only entries of this workload ("": of the host).')
@click.option("--kind", default="", help="Only entries of this kind, or whose kind starts so (`instance.`).")
@click.option("--incident", default="", help="Only entries that name this incident.")
@click.option("--field", "fields", multiple=True, help="Only this private field; may be given again [default: all of them].")
@click.option("--reason", default="", help="Why. Kept private: the ledger only commits to it.")
@click.option("--yes", is_flag=True, help="Erase. Without it, nothing is changed: only shown.")
@with_call
def redact(
    call: Call,
    entries: frozenset[int],
    workload: str | None,
    kind: str,
    incident: str,
    fields: tuple[str, ...],
    reason: str,
    yes: bool,
) -> None:
    """Erase private fields of entries for good. Shows what it would erase; erases with --yes.

    What is erased is the value and the salt of the commitment to it: the entry, its hash, and every proof made before or after stay
    as they are. The redaction is itself recorded first: which fields of which entries, who, why. Refused under a legal hold.
    """
    from stele.flow import custody

    selection = Selection(indexes=entries, workload=workload, kind=kind, incident=incident, fields=tuple(sorted(set(fields))))
    if not yes:
        found = custody.plan(call.places, selection).plain()
        if call.json:
            render.show_json({**found, "erased": False, "not_guaranteed": custody.not_guaranteed(call.places)})
        else:
            _show(found)
            render.say_line(f"{_what(found)} would be erased; nothing was changed (--yes erases)")
        return
    if not reason.strip():
        raise click.UsageError("--reason is needed: it is recorded with the redaction")
    body = {
        "selection": {
            "indexes": sorted(selection.indexes), "workload": workload, "kind": kind, "incident": incident, "fields": list(selection.fields)
        },
        "reason": reason,
    }  # fmt: skip
    found = through(call, "/v1/redact", body, lambda custody_, person: custody_.redact(selection, reason, person))
    if call.json:
        render.show_json({**found, "erased": True})
        return
    _show(found)
    render.say_line(f"erased {_what(found)}; recorded in {_count(found['recorded'], 'entry', 'entries')} of the log")
    render.say_line("not promised:")
    for line in found["not_guaranteed"]:
        render.say_line(f"  - {line}")


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _what(found: dict[str, Any]) -> str:
    return f"{_count(found['fields'], 'field', 'fields')} of {_count(len(found['entries']), 'entry', 'entries')}"


def _show(found: dict[str, Any]) -> None:
    rows = [
        (
            str(entry["index"]), render.when(entry["time_ns"]), entry["workload"] or "-", entry["kind"], " ".join(entry["fields"]),
            " ".join(entry["holds"]),
        )
        for entry in found["entries"]
    ]  # fmt: skip
    render.show_table(("INDEX", "TIME (UTC)", "WORKLOAD", "EVENT", "FIELDS", "HELD BY"), rows)
