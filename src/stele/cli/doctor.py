"""stele doctor."""

from __future__ import annotations

import click
import msgspec

from stele.cli import render
from stele.cli.context import Call, with_call
from stele.cli.exits import HOST_CANNOT


@click.command(epilog="\b\nExample:\n  sudo stele doctor\n  stele doctor --json")
@with_call
def doctor(call: Call) -> None:
    """Every need of every stage, what this host has, which way is taken, and what to do about what is missing.

    Exit code 77 if the host cannot run instances at all; sealing, verifying and proving may still work.
    """
    from stele.host import probe

    found = probe.examine()
    if call.json:
        render.show_json(msgspec.to_builtins(found))
    else:
        rows = [(f.stage, f.need, f.state, f.way, f.remedy) for f in found.findings]
        render.show_table(("STAGE", "NEED", "STATE", "WAY TAKEN", "WHAT TO DO"), rows)
    if any(f.state == "missing" and f.stage in {"run", "watch"} for f in found.findings):
        raise SystemExit(HOST_CANNOT)
