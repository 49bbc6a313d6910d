"""stele releases, stele inspect."""

from __future__ import annotations

import click
import msgspec

from stele.cli import render
from stele.cli.context import Call, with_call
from stele.seal.sbom_forms import FORMS


@click.command(epilog="\b\nExample:\n  stele releases\n  stele releases --json | jq -r '.[].digest'")
@click.option("--workload", default="", help="Only of this workload.")
@with_call
def releases(call: Call, workload: str) -> None:
    """List the releases in the store, newest last."""
    from stele.flow import opening

    found = [release for release in opening.open_store(call.places).releases() if not workload or release.workload == workload]
    if call.json:
        render.show_json([{"digest": release.digest, "workload": release.workload, "tree": release.tree_digest} for release in found])
        return
    rows = [
        (
            release.workload,
            release.digest,
            render.short(release.tree_digest),
            render.size(sum(stratum.image_size for stratum in release.strata)),
        )
        for release in found
    ]
    render.show_table(("WORKLOAD", "RELEASE", "TREE", "IMAGES"), rows, empty="the store is empty; `stele seal` fills it")


@click.command(
    epilog="\b\nExample:\n  stele inspect shop\n  stele inspect 4be1 --files | less\n"
    "  stele inspect shop --sbom --as 1.5-json > shop.cdx.json"
)
@click.argument("release")
@click.option("--files", is_flag=True, help="List every path of the tree.")
@click.option("--sbom", is_flag=True, help="Print its software bill of materials (CycloneDX 1.6 JSON, as it was attested).")
@click.option("--as", "form", type=click.Choice(FORMS), default=FORMS[0], show_default=True, help="Another form of --sbom.")
@click.option("--provenance", is_flag=True, help="Print its newest SLSA v1 provenance: from what, by what and when it was sealed.")
@with_call
def inspect(call: Call, release: str, files: bool, sbom: bool, form: str, provenance: bool) -> None:
    """Show one RELEASE (a digest, its start, or a workload's name for its newest): digests, strata, spec, files, SBOM, provenance."""
    from stele.flow import accompany, opening

    store = opening.open_store(call.places)
    found = store.release(release)
    if sbom or provenance:
        click.echo(accompany.shown(store, found.digest, "sbom" if sbom else "provenance", form))
        return
    if files:
        tree = store.tree(found.digest)
        rows: list[tuple[str, ...]] = [
            (f"{node.mode:04o}", f"{node.uid}:{node.gid}", node.kind, str(node.size), "/" + node.path.decode("utf-8", "backslashreplace"))
            for node in tree.nodes
        ]
        if call.json:
            render.show_json([dict(zip(("mode", "owner", "kind", "size", "path"), row, strict=True)) for row in rows])
        else:
            render.show_table(("MODE", "OWNER", "KIND", "SIZE", "PATH"), rows)
        return
    plain = msgspec.to_builtins(found)
    if call.json:
        render.show_json(plain)
        return
    render.say_line(f"release   {found.digest}")
    render.say_line(f"workload  {found.workload}")
    render.say_line(f"tree      {found.tree_digest}")
    render.say_line(f"config    {found.config_digest}")
    rows = [(s.name, s.diff_id, s.image, s.verity_root, render.size(s.image_size)) for s in found.strata]
    render.show_table(("STRATUM", "DIFF ID", "IMAGE", "VERITY ROOT", "SIZE"), rows)
    render.show_json(plain["spec"])
