"""stele log timeline."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from stele.cli import render
from stele.cli.context import Call, with_call
from stele.cli.log_options import ledger_options, parse_period, view


@click.command(
    epilog="\b\nExample:\n  stele log timeline shop\n  stele log timeline --since 7d\n"
    "  stele log timeline shop --since 2026-03-01 --until 2026-03-02 --html shop.html"
)
@click.argument("workload", default="")
@click.option("--since", default="", metavar="TIME", help="From then on: 2h (ago), 2026-03-01, 2026-03-01T12:00:00Z.")
@click.option("--until", default="", metavar="TIME", help="Before then; spelled alike.")
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), default=None, help="Write a page instead, which needs no other file."
)
@click.option("--width", type=click.IntRange(40, 500), default=None, help="Columns [default: the terminal's, or 100].")
@ledger_options
@with_call
def timeline(call: Call, workload: str, since: str, until: str, html: Path | None, width: int | None, **given: Any) -> None:
    """Which release of WORKLOAD ran when, and what happened to it; without WORKLOAD one line for each.

    Bars show what served. Below them every deploy, rollback and incident has one sentence. Times are UTC, by the host's clock.
    """
    from stele.flow import telling

    since_ns, until_ns = parse_period(since, until)
    with view(call, given) as found:
        line = telling.tell(found, workload, since_ns=since_ns, until_ns=until_ns)
        origin = found.origin
    if html is not None:
        from stele.flow import page

        html.write_text(page.draw(line, origin=origin), "utf-8")
        render.say_line(f"wrote {html}")
    elif call.json:
        render.show_json(telling.plain(line))
    elif not line.lanes:
        render.say_line("nothing to show" + (f" of {workload}" if workload else ""))
    else:
        _draw(line, width)


def _draw(line: Any, width: int | None) -> None:
    import shutil

    from stele.flow import chart

    try:
        chart.UNICODE.serves.encode(sys.stdout.encoding or "ascii")
        signs = chart.UNICODE
    except (UnicodeEncodeError, LookupError):
        signs = chart.ASCII
    columns = width or shutil.get_terminal_size((100, 24)).columns
    out = render.Styled() if sys.stdout.isatty() else None
    for parts in chart.draw(line, width=columns, signs=signs):
        is_story = len(parts) == 2 and parts[0][0].endswith("  ")
        if out is not None:
            out.line(*parts, cut=not is_story)
        else:
            render.say_line("".join(text for text, _ in parts).replace("\n", " "))  # paths come from attackers
