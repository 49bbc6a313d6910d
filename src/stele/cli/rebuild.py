"""stele verify --rebuild."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stele.cli import render
from stele.cli.exits import ANSWER_IS_NO, OK

if TYPE_CHECKING:
    from collections.abc import Callable

    from stele.cli.context import Call

SHOWN = 20  # paths; the rest is counted
_OPTIONS = (
    click.option("--rebuild", "source", metavar="SOURCE", default="", help="Seal SOURCE again and compare; nothing of it is kept."),
    click.option(
        "-f", "--file", "spec_file", type=click.Path(path_type=Path), default=Path("stele.yaml"), help="With --rebuild: the spec."
    ),
    click.option("--kind", default="auto", help="With --rebuild: what SOURCE is, as for `stele seal`."),
    click.option("--reference", default="", help="With --rebuild: which image, where SOURCE holds several."),
    click.option("--platform", default="", help="With --rebuild: which platform of an image for several."),
)


def options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what `stele verify --rebuild` takes."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def rebuild(call: Call, name: str, source: str, spec_file: Path, *, kind: str, reference: str, platform: str) -> int:
    """Seal `source` again and compare; what differs is said."""
    from stele.flow import opening, rebuilding, sealing
    from stele.flow.asked import Options

    what = sealing.source_of(source, kind)
    options = Options(kind=kind, reference=reference, platform=platform, paranoid=True)
    with render.progress(f"sealing {source} again", quiet=call.json) as say:
        found = rebuilding.rebuild(opening.open_store(call.places), name, what, spec_file, options, say)
    if call.json:
        paths = [] if found.difference is None else found.difference.paths
        render.show_json(
            {**found.plain(), "paths": [{"path": _path(item.path), "change": item.change, "what": item.what} for item in paths]}
        )
        return ANSWER_IS_NO if found.differs else OK
    if not found.differs:
        render.say_line(
            f"release {found.release.digest} is what {source} gives: tree, diff_ids, config, images and verity roots are the same"
        )
        render.say_line(f"  manifest  {'the same' if not found.why else found.manifest + ': ' + found.why}")
        return OK
    render.say_line(f"release {found.release.digest} is not what {source} gives: {', '.join(found.differs)} differ")
    if found.difference is not None:
        for field in found.difference.spec:
            render.say_line(f"  spec  {field.field}")
        rows = [(item.change, _path(item.path), ", ".join(item.what)) for item in found.difference.paths[:SHOWN]]
        render.show_table(("IN SOURCE", "PATH", "WHAT"), rows, empty="  the files are the same")
        if len(found.difference.paths) > SHOWN:
            render.say_line(f"… and {len(found.difference.paths) - SHOWN} more; --json lists them")
    return ANSWER_IS_NO


def _path(path: bytes) -> str:
    return "/" + path.decode("utf-8", "backslashreplace")
