"""stele seal."""

from __future__ import annotations

from pathlib import Path

import click

from stele.cli import render
from stele.cli.context import Call, with_call


@click.command(
    epilog="\b\nExample:\n  stele seal ./rootfs -f stele.yaml\n"
    "  stele seal myapp.tar --kind docker-archive\n  stele seal ./layout --reference v1.2"
)
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.option(
    "-f",
    "--file",
    "spec_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=Path("stele.yaml"),
    show_default=True,
    help="The spec.",
)
@click.option(
    "--kind",
    type=click.Choice(["auto", "folder", "docker-archive", "oci-layout"]),
    default="auto",
    show_default=True,
    help="What SOURCE is.",
)
@click.option("--reference", default="", help="Which image, where SOURCE holds several.")
@click.option(
    "--compression",
    type=click.Choice(["zstd", "gzip", "none"]),
    default="zstd",
    show_default=True,
    help="Of the OCI layers; the digest depends on it.",
)
@click.option("--paranoid", is_flag=True, help="Read every file again, also those that look unchanged since they were last sealed.")
@with_call
def seal(call: Call, source: Path, spec_file: Path, kind: str, reference: str, compression: str, *, paranoid: bool) -> None:
    """Seal SOURCE (a folder, a docker archive or an OCI layout) and the spec into one signed release.

    Needs neither root nor the agent. The same input gives the same digest, for anyone, anywhere.
    """
    call.need_keys()
    from stele.flow import sealing

    with render.progress(f"sealing {source}", quiet=call.json) as say:
        sealed = sealing.seal(
            call.places,
            source,
            spec_file,
            kind=kind,
            reference=reference,
            compression=compression,
            paranoid=paranoid,
            say=say,
            record=sealing.recorder(call.places, lambda body: call.agent.call("POST", "/v1/record", body)),
        )
    if call.json:
        render.show_json(sealed)
        return
    render.say_line(f"sealed {sealed['workload']} as {sealed['release']}")
    render.say_line(f"  tree    {sealed['tree']}  ({sealed['paths']} paths, {render.size(sealed['bytes'])})")
    for note in sealed["notes"]:
        render.say_line(f"  note    {note}")
    render.say_line(f"  took    {render.took(sealed['took_ns'])}")
