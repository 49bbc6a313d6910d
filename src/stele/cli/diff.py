"""stele diff."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from stele.cli import render
from stele.cli.context import Call, with_call

if TYPE_CHECKING:
    from stele.model.difference import Difference, PathChange

SHOWN = 40  # paths; the rest is counted
SIGNS = {"added": "+", "removed": "-", "changed": "~"}


@click.command(
    epilog="\b\nExample:\n  stele diff 4be1 shop              (from 4be1 to the newest of shop)\n  stele diff 4be1 9c02 --all | less"
)
@click.argument("before")
@click.argument("after")
@click.option(
    "--all", "whole", is_flag=True, help=f"List every path [default: the first {SHOWN}, without those where only the time differs]."
)
@with_call
def diff(call: Call, before: str, after: str, whole: bool) -> None:
    """Show what changes from release BEFORE to release AFTER: packages, settings, spec, files, and the bytes an update moves.

    Each is named by a digest, its beginning, or a workload for its newest release. Both must be signed by a trusted key.
    """
    from stele.flow import comparing, opening

    store = opening.open_store(call.places)
    compared = comparing.compare(store, store.release(before), store.release(after))
    found = compared.difference
    if call.json:
        changes = [change._asdict() for change in compared.packages]
        render.show_json({**_plain(found), "packages": changes, "delta_bytes": compared.delta_bytes})
        return
    render.say_line(f"from  {found.before}")
    render.say_line(f"to    {found.after}")
    if not found.paths and not found.spec:
        render.say_line("nothing differs")
        return
    for field in found.spec:
        render.say_line(f"spec  {field.field}: {_short(field.before)} -> {_short(field.after)}")
    for package in compared.packages:
        render.say_line(f"{package.ecosystem:5} {package.name}: {package.before or 'none'} -> {package.after or 'none'}")
    telling = tuple(change for change in found.paths if change.what != ("time",))
    shown = found.paths if whole else telling[:SHOWN]
    render.show_table(("", "PATH", "WHAT", "SIZE"), [_row(change) for change in shown])
    if len(shown) < len(telling):
        render.say_line(f"… and {len(telling) - len(shown)} more; --all lists them")
    counts = {kind: sum(change.change == kind for change in telling) for kind in SIGNS}
    render.say_line(", ".join(f"{count} {kind}" for kind, count in counts.items()))
    if len(telling) < len(found.paths):
        render.say_line(f"besides, only the time changed of {len(found.paths) - len(telling)} paths (the spec's `time`)")
    moved = f"the update moves {found.layers} layers, {render.size(found.layer_bytes)}"
    if compared.delta_bytes is not None:
        layers = f"{found.layers} layers would be {render.size(found.layer_bytes)}"
        moved = f"the update moves {render.size(compared.delta_bytes)} by delta ({layers})"
    render.say_line(f"new contents {render.size(found.new_bytes)}; {moved}")


def _name(change: PathChange) -> str:
    return "/" + change.path.decode("utf-8", "backslashreplace")


def _row(change: PathChange) -> tuple[str, ...]:
    what = ["setting"] * change.setting + list(change.what)
    size = "" if not (change.size or change.size_before) else render.size(change.size)
    if change.change == "changed" and change.size != change.size_before:
        size = f"{render.size(change.size_before)} -> {size or render.size(0)}"
    elif change.change == "removed" and change.size_before:
        size = render.size(change.size_before)
    return SIGNS[change.change], _name(change), ", ".join(what), size


def _short(value: object) -> str:
    text = "none" if value is None else json.dumps(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _plain(found: Difference) -> dict[str, object]:
    return {
        "before": found.before,
        "after": found.after,
        "paths": [
            {
                "path": _name(change),
                "change": change.change,
                "what": list(change.what),
                "size_before": change.size_before,
                "size": change.size,
                "setting": change.setting,
            }
            for change in found.paths
        ],
        "spec": [{"field": field.field, "before": field.before, "after": field.after} for field in found.spec],
        "new_bytes": found.new_bytes,
        "layers": found.layers,
        "layer_bytes": found.layer_bytes,
    }
