"""stele seal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stele.cli import sealed
from stele.cli.context import Call, with_call
from stele.cli.secret import with_secrets

KINDS = ["auto", "folder", "docker-archive", "oci-layout", "registry", "root-tar", "debian", "containerfile"]


@click.command(
    epilog="\b\nExample:\n  stele seal ./rootfs -f stele.yaml\n"
    "  stele seal myapp.tar --kind docker-archive\n  stele seal ./layout --reference v1.2 --platform linux/arm64\n"
    "  stele seal registry.example.com/team/shop:1.4\n  stele seal Containerfile\n  stele seal base.debian.yaml\n"
    "  stele seal --from shop -f stele.yaml     (other settings only)"
)
@click.argument("source", required=False)
@click.option(
    "--from", "base", metavar="RELEASE", default="", help="In place of SOURCE: a release in the store, to be sealed with other settings."
)
@click.option(
    "-f",
    "--file",
    "spec_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=Path("stele.yaml"),
    show_default=True,
    help="The spec.",
)
@click.option("--kind", type=click.Choice(KINDS), default="auto", show_default=True, help="What SOURCE is.")
@click.option("--reference", default="", help="Which image, where SOURCE holds several.")
@click.option("--platform", default="", help="Which platform of an image for several, as linux/arm64 [default: this machine's].")
@click.option("--plain-http", is_flag=True, help="Speak http without TLS, to a registry that is not on this machine, too.")
@click.option("--build-arg", "arguments", multiple=True, metavar="NAME=VALUE", help="For a Containerfile's ARG; recorded, so no secrets.")
@click.option("--build-network", "network", is_flag=True, help="Let a Containerfile's RUN steps use the network.")
@click.option(
    "--compression",
    type=click.Choice(["zstd", "gzip", "none"]),
    default="zstd",
    show_default=True,
    help="Of the OCI layers; the digest depends on it.",
)
@click.option("--paranoid", is_flag=True, help="Read every file again, also those that look unchanged since they were last sealed.")
@click.option("--delta", is_flag=True, help="Make the deltas for updates to this release now [default: when it is pushed].")
@click.option("--key", default="", help="What signs: a key file, signer, or URI of a key service [default: the data folder's key].")
@with_secrets
@with_call
def seal(call: Call, source: str | None, base: str, spec_file: Path, delta: bool, passphrase_file: Path | None, **given: Any) -> None:
    """Seal SOURCE and the spec into one signed release.

    SOURCE is a folder, a docker archive, an OCI layout, an image in a registry (REGISTRY/REPOSITORY[:TAG|@DIGEST]; with docker:// before
    it where a path has that name, too), a tar archive of a root file system, a Containerfile (built with buildah), or a list of
    Debian packages (installed with mmdebstrap). Needs neither root nor the agent. The same content gives the same
    digest, for anyone, anywhere.
    """
    if (source is None) == (not base):
        raise click.UsageError("give either SOURCE or --from RELEASE")
    sealed.seal(call, source, base, spec_file, passphrase_file, delta=delta, given=given)
