"""stele store."""

from __future__ import annotations

import click

from stele.cli import render
from stele.cli.context import Call, with_call


@click.group(epilog="\b\nExample:\n  stele store pack\n  stele store pin 4be1")
def store() -> None:
    """Look after the store."""


@store.command(epilog="\b\nExample:\n  stele store pack\n  stele store pack --keep 4be1 --json")
@click.option("--keep", multiple=True, metavar="RELEASE", help="Leave this one whole, too; may be given several times.")
@click.option("--all", "everything", is_flag=True, help="Pack the layers of releases that stay whole, too; their images stay.")
@with_call
def pack(call: Call, keep: tuple[str, ...], everything: bool) -> None:
    """Keep old releases as deltas, from which Stele brings them back by itself when they are needed.

    The newest release of every workload stays whole, and so do those that run, that ran well last, that hold evidence, and that are
    pinned. What is packed is unpacked and compared with its signed digests before anything is removed. Other tools (skopeo, podman)
    no longer find the layers of packed releases.
    """
    from stele.flow import opening, packing

    found = opening.open_store(call.places)
    stay = packing.in_use(call.places) | dict.fromkeys(packing.pins(found), "pinned") | {found.find(name).digest: "named" for name in keep}
    with render.progress("packing", quiet=call.json) as say:
        done = packing.pack(found, stay, everything=everything, say=say)
    if call.json:
        render.show_json(
            {"packed": list(done.packed), "whole": list(done.kept), "left": done.left, "freed": done.freed, "added": done.added}
        )
        return
    render.say_line(f"{len(done.packed)} releases are kept as deltas, {len(done.kept)} whole")
    for digest in done.kept:
        render.say_line(f"  whole   {digest}  {stay.get(digest, 'the newest')}")
    for digest, reason in done.left.items():
        render.say_line(f"  left    {digest}  {reason}")
    render.say_line(f"freed {render.size(done.freed)}, the deltas take {render.size(done.added)} more")


@store.command(epilog="\b\nExample:\n  stele store pin 4be1\n  stele store pin 4be1 --remove\n  stele store pin --json")
@click.argument("release", required=False)
@click.option("--remove", is_flag=True, help="It need not stay whole any more.")
@with_call
def pin(call: Call, release: str | None, remove: bool) -> None:
    """Make RELEASE stay whole when others are packed; without one, list what is pinned."""
    from stele.flow import opening, packing

    found = opening.open_store(call.places)
    if release is not None:
        packing.set_pin(found, found.find(release).digest, pinned=not remove)
    pinned = sorted(packing.pins(found))
    if call.json:
        render.show_json(pinned)
        return
    render.show_table(("PINNED",), [(digest,) for digest in pinned], empty="nothing is pinned")
