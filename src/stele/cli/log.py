"""stele log: read, check, rebuild."""

from __future__ import annotations

import importlib

import click

from stele.cli import render
from stele.cli.context import Call, with_call
from stele.cli.table import LOG_COMMANDS
from stele.model import private


class LogGroup(click.Group):
    """Imports a subcommand's module only when that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Those below, then those of the table."""
        return [*super().list_commands(ctx), *LOG_COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One of those below, or one from its module."""
        if cmd_name not in LOG_COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, attribute = LOG_COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"stele.cli.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=LogGroup,
    invoke_without_command=True,
    epilog="\b\nExample:\n  stele log --workload shop --last 20\n  stele log check\n  stele log rebuild",
)
@click.option("--workload", default="", help="Only this workload.")
@click.option("--kind", default="", help="Only events of this kind, or whose kind starts so (`instance.`).")
@click.option("--last", type=click.IntRange(1, 1_000_000), default=50, show_default=True, help="At most so many, the newest.")
@click.option("--json", "sub_json", is_flag=True, help="Print JSON lines.")
@click.pass_context
def log(ctx: click.Context, workload: str, kind: str, last: int, sub_json: bool) -> None:
    """What happened, in order: every event of every stage, from the ledger (its own epochs only with --kind epoch)."""
    if ctx.invoked_subcommand is not None:
        return
    call = Call(ctx)
    from stele.flow import reading

    found = reading.events(call.places, workload=workload, kind=kind, last=last)
    if sub_json or call.json:
        import json

        for line in found:
            render.say_line(json.dumps(line, sort_keys=True))
        return
    rows = [
        (str(e["index"]), render.when(e["time_ns"]), e["workload"] or "-", e["kind"], e["actor"], _gist(e["data"], e["sealed"]))
        for e in found
    ]
    render.show_table(("INDEX", "TIME (UTC)", "WORKLOAD", "EVENT", "ACTOR", "WHAT"), rows, empty="the ledger is empty")


def _gist(data: dict[str, object], sealed: list[str]) -> str:
    """The facts that a person looks for first."""
    parts = []
    for key in ("incident", "instance", "release", "kind", "syscall", "path", "replaces", "reason", "to"):
        value = private.CLOSED if key in sealed else data.get(key)
        if value:
            text = str(value)
            parts.append(f"{key}={render.short(text) if text.startswith('sha256:') else text[:80]}")
    return " ".join(parts)


@log.command(epilog="\b\nExample:\n  stele log check\n  stele log check --ledger ./copy --trust trust.keys")
@click.option(
    "--ledger", type=click.Path(exists=True, file_okay=False), default=None, help="Another ledger folder [default: the data folder's]."
)
@click.option(
    "--trust", type=click.Path(exists=True, dir_okay=False), default=None, help="Trusted keys [default: the data folder's trust.keys]."
)
@with_call
def check(call: Call, ledger: str | None, trust: str | None) -> None:
    """Check everything: every entry, tile, chain, epoch and checkpoint against the trusted ledger key.

    Exit code 1 if anything was altered, with what and where.
    """
    from stele.flow import reading

    with render.progress("checking the ledger", quiet=call.json):
        found = reading.check(call.places, ledger, trust)
    if call.json:
        render.show_json(found)
    else:
        for problem in found["problems"]:
            render.say_line(f"TAMPERED OR DAMAGED: {problem}")
        if not found["problems"]:
            render.say_line(f"whole: {found['size']} entries, checkpoint of {found['origin']} verified")
    if found["problems"]:
        raise SystemExit(1)


@log.command(epilog="\b\nExample:\n  stele log rebuild")
@with_call
def rebuild(call: Call) -> None:
    """Delete the SQLite projection and build it anew from the ledger. The ledger itself is only read."""
    from stele.flow import reading

    with render.progress("rebuilding the projection", quiet=call.json):
        count = reading.rebuild(call.places)
    if call.json:
        render.show_json({"entries": count})
    else:
        render.say_line(f"rebuilt from {count} entries")
