"""stele prove, stele verify."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stele.cli import rebuild, render
from stele.cli.context import Call, with_call
from stele.trust.errors import SteleError


@click.command(epilog="\b\nExample:\n  stele prove shop --at 2026-03-01T12:00:00Z -o shop.proof\n  stele prove shop                 (now)")
@click.argument("workload")
@click.option("--at", default="", help="The instant, UTC: 2026-03-01T12:00:00Z, with up to nine decimals [default: now].")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), default=None, help="File to write [default: WORKLOAD.proof]."
)
@with_call
def prove(call: Call, workload: str, at: str, output: Path | None) -> None:
    """Write one file that proves, offline and without trusting this machine, what WORKLOAD ran at an instant."""
    from stele.flow import proving

    if output is None:
        output = Path(f"{workload}.proof")
    publish_committed(call)
    made = proving.prove(call.places, workload, at, output)
    if call.json:
        render.show_json(made)
        return
    render.say_line(f"wrote {output} ({render.size(made['bytes'])}, {render.took(made['took_ns'])})")
    render.say_line(f"check it anywhere: stele verify {output} --trust trust.keys")


def publish_committed(call: Call) -> None:
    """Have everything committed covered by a checkpoint; without an agent, what is published is all there is."""
    try:
        call.agent.call("POST", "/v1/publish")
    except SteleError as error:
        if error.code not in {"agent.not-running", "agent.not-permitted"}:
            raise


@click.command(
    epilog="\b\nExample:\n  stele verify shop.proof --trust trust.keys\n"
    "  stele verify shop           (a release in the store: signature, every layer, every image)\n"
    "  stele verify shop --rebuild ./rootfs -f stele.yaml"
)
@click.argument("what")
@rebuild.options
@click.option(
    "--trust",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=None,
    help="The keys that you trust; a proof is never checked without.",
)
@with_call
def verify(call: Call, what: str, trust: Path | None, **given: Any) -> int | None:
    """Check a proof FILE, or a RELEASE in the store. Exit code 1 if it does not hold."""
    if given["source"]:
        return rebuild.rebuild(call, what, **given)
    from stele.flow import proving

    if Path(what).is_file():
        verdict = proving.verify_file(Path(what), trust)
        if call.json:
            render.show_json(verdict)
            return None
        for line in verdict["says"]:
            render.say_line(line)
        render.say_line("")
        render.say_line("checked:")
        for line in verdict["checked"]:
            render.say_line(f"  + {line}")
        render.say_line("not covered:")
        for line in verdict["not_covered"]:
            render.say_line(f"  - {line}")
        return None
    with render.progress(f"verifying {what}", quiet=call.json):
        found = proving.verify_release(call.places, what)
    if call.json:
        render.show_json(found)
    else:
        what_held = f"signature, {found['blobs']} blobs, {found['images']} images"
        render.say_line(f"release {found['release']} holds: {what_held}, {render.size(found['bytes'])} in {render.took(found['took_ns'])}")
    return None
