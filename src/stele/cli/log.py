"""stele log: read, check, rebuild."""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

import click

from stele.cli import render
from stele.cli.context import Call, call_of, with_call
from stele.cli.log_lines import Lines
from stele.cli.log_options import catch_up, reading, selection, view
from stele.cli.table import LOG_COMMANDS

if TYPE_CHECKING:
    from stele.flow.log_view import LogView
    from stele.model.event import Entry
    from stele.model.selection import Selection


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
    epilog="\b\nExample:\n  stele log -w shop --last 20\n  stele log --kind incidents --since 2h\n  stele log --follow\n"
    "  stele log timeline shop\n  stele log export --format csv --since 2026-03-01 -o march.csv\n"
    "  stele log --from https://logs.example.com/shop/ --trust trust.keys",
)
@reading
@click.option(
    "--last", type=click.IntRange(1), default=None, help="At most so many, the newest [default: 50; all with --since or --until]."
)
@click.option("--reverse", is_flag=True, help="The newest first.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is published from now on, until Ctrl-C.")
@click.option("--all", "everything", is_flag=True, help="Also heartbeats and the ledger's own epochs.")
@click.option("--json", "sub_json", is_flag=True, help="Print JSON lines.")
@click.pass_context
def log(ctx: click.Context, /, last: int | None, reverse: bool, follow: bool, everything: bool, sub_json: bool, **given: Any) -> None:
    """What happened, in order: every event of every stage, from the ledger.

    Each entry that is shown was checked against the signed checkpoint: it shows what is published. What happened is committed at once, and
    published a tenth of a second later as a rule; what was committed before the call is waited for, up to two seconds. Options that are
    given several times widen, different ones narrow.
    """
    if ctx.invoked_subcommand is not None:
        return
    call = call_of(ctx, json=sub_json)
    from stele.flow import holding

    if notice := holding.notice(call.places):
        render.warn(*notice)
    if notice := holding.not_witnessed(call.places):
        render.warn(*notice)
    if follow and (reverse or given["until"]):
        raise click.UsageError("--follow goes with neither --reverse nor --until")
    selected = selection(given, everything=everything)
    if last is None and not (given["since"] or given["until"]):
        last = 10 if follow else 50
    shown = Lines() if not call.json else None
    there = call.places.ledger.joinpath("checkpoint")
    if given["where"] is None and not there.exists():
        catch_up(call)
    if given["where"] is None and not there.exists() and not follow:
        if shown is not None:
            render.say_line("the ledger is empty")
        return
    with view(call, given) as found:
        for index, entry in found.entries(selected, last=last, newest_first=reverse):
            _say(shown, index, entry)
        if follow:
            _follow(found, selected, shown)
        elif shown is not None and not shown.count:
            render.say_line("no entry is like that")


def _say(shown: Lines | None, index: int, entry: Entry) -> None:
    if shown is not None:
        shown.say(index, entry)
        return
    import json

    from stele.flow import log_rows

    render.say_line(json.dumps(log_rows.plain(index, entry), sort_keys=True))


def _follow(found: LogView, selected: Selection, shown: Lines | None) -> None:
    from stele.flow import following

    render.flush()
    with contextlib.suppress(KeyboardInterrupt):
        for index, entry in following.follow(found, selected):
            _say(shown, index, entry)
            render.flush()


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

    Then, of what others do not get: that the projection leaves nothing out by which `stele log` finds entries, and that no private value
    went without a redaction. Exit code 1 if anything was altered, with what and where.
    """
    from stele.flow import reading as flow

    with render.progress("checking the ledger", quiet=call.json):
        found = flow.check(call.places, ledger, trust)
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
    from stele.flow import reading as flow

    with render.progress("rebuilding the projection", quiet=call.json):
        count = flow.rebuild(call.places)
    if call.json:
        render.show_json({"entries": count})
    else:
        render.say_line(f"rebuilt from {count} entries")
