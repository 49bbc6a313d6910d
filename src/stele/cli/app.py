"""The click application: a group that imports a subcommand's module only when it is called."""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from typing import Any

import click

from stele import __version__
from stele.cli.ends import exit_of
from stele.cli.exits import USAGE
from stele.cli.table import COMMANDS
from stele.host.logs import FORMAT

EPILOG = """\b
The first steps:
  stele init --name shop          keys and a stele.yaml
  stele seal ./app -f stele.yaml  a signed release
  stele agent start               (root) the supervisor
  stele apply shop                run it
"""


class _NobodyReadsError(Exception):
    """A BrokenPipeError on its way past click, which would end with 1: that is the answer no."""


class LazyGroup(click.Group):
    """Knows its commands by name; imports each when it is asked for."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """As click does it. Raises `_NobodyReadsError`, of `--help`."""
        try:
            return super().make_context(*args, **kwargs)
        except BrokenPipeError as error:
            raise _NobodyReadsError from error

    def invoke(self, ctx: click.Context) -> Any:
        """As click does it. Raises `_NobodyReadsError`."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _NobodyReadsError from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"stele.cli.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One line each, without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry[2]) for name, entry in COMMANDS.items()])


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="stele", message="%(prog)s %(version)s")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="STELE_DATA",
    help="Data folder [default: /var/lib/stele for root, else ~/.local/share/stele].",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--debug", is_flag=True, help="Show every command that is run, and tracebacks.")
@click.pass_context
def cli(ctx: click.Context, data: Path | None, as_json: bool, debug: bool) -> None:
    """Seal an application into one signed release, run it so that nothing can change it, and prove what ran."""
    ctx.ensure_object(dict)
    ctx.obj.update(data=data, json=as_json, debug=debug)
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format=FORMAT)


def run(argv: list[str]) -> int:
    """Run one command line; returns the exit code (docs/guide/exit-codes.md)."""
    return exit_of(lambda: _run(argv), argv)


def _run(argv: list[str]) -> object:
    try:
        return cli.main(args=argv, prog_name="stele", standalone_mode=False)
    except _NobodyReadsError as error:
        raise BrokenPipeError from error
    except click.exceptions.Abort:
        sys.stderr.write("aborted\n")
        return USAGE
    except click.ClickException as error:
        error.show()
        return USAGE
