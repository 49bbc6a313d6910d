"""stele log export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stele.cli import render
from stele.cli.context import Call, with_call
from stele.cli.log_options import reading, selection, view

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMATS = ["jsonl", "csv", "cloudevents", "cloudevents-batch"]


@click.command(
    epilog="\b\nExample:\n  stele log export --since 2026-03-01 --until 2026-04-01 -o march.jsonl\n"
    "  stele log export --format csv -w shop --kind incidents -o incidents.csv\n"
    "  stele log export --format cloudevents --since 1h | curl --data-binary @- …"
)
@click.option("--format", "form", type=click.Choice(FORMATS), default="jsonl", show_default=True, help="What to write.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), default=None, help="File to write [default: standard output]."
)
@click.option(
    "--private", "with_private", is_flag=True, help="Also private values that can be opened here: names of persons, paths, arguments."
)
@click.option("--all", "everything", is_flag=True, help="Also heartbeats and the ledger's own epochs.")
@reading
@with_call
def export(call: Call, form: str, output: Path | None, with_private: bool, everything: bool, **given: Any) -> None:
    """Write entries as JSON lines, CSV or CloudEvents, oldest first.

    Private values are left out unless you ask for them: fields that are only committed to are named under `sealed`.
    """
    from stele.flow import export as flow

    selected = selection(given, everything=everything)
    with view(call, given) as found:
        entries = found.entries(selected)
        if not with_private:
            entries = ((index, entry.opened({})) for index, entry in entries)
        pieces = flow.write(entries, form, origin=found.origin)
        if output is None:
            sys.stdout.writelines(pieces)
            return
        _save(output, pieces, mode=0o600 if with_private else 0o644)
    if call.json:
        render.show_json({"file": str(output), "bytes": output.stat().st_size})
    else:
        render.say_line(f"wrote {output} ({render.size(output.stat().st_size)})")


def _save(output: Path, pieces: Iterable[str], *, mode: int) -> None:
    from stele.host import durable

    def fill(fd: int) -> None:
        with open(fd, "w", encoding="utf-8", newline="", closefd=False) as file:
            file.writelines(pieces)

    durable.write_with(output, fill, mode=mode)
