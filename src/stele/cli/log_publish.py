"""stele log publish."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from stele.cli import render
from stele.cli.context import Call, with_call


@click.command(
    epilog="\b\nExample:\n  stele log publish s3://acme-ledger/shop --retain 7y\n"
    "  stele log publish s3://ledger --endpoint http://127.0.0.1:7070 --retain 30d --mode compliance\n"
    "  stele log publish s3://ledger --legal-hold"
)
@click.argument("where", metavar="s3://BUCKET[/PREFIX]")
@click.option("--endpoint", default=None, metavar="URL", help="Where the storage is, if it is not Amazon's.")
@click.option("--region", default=None, help="Region [default: AWS_REGION, the profile's, or us-east-1].")
@click.option("--profile", default=None, help="Profile in ~/.aws [default: AWS_PROFILE].")
@click.option("--retain", default="", metavar="TIME", help="Lock what is full for so long: 90d, 7y [default: the bucket's own rule].")
@click.option(
    "--mode", type=click.Choice(["governance", "compliance"]), default="governance", show_default=True,
    help="Who may shorten it: those with a special right, or nobody at all.",
)  # fmt: skip
@click.option("--legal-hold", is_flag=True, help="Lock it until the hold is taken off, besides.")
@click.option(
    "--lock-partial", is_flag=True, help="Lock partial tiles, too: the newest 255 entries, at the cost of a copy of them per call."
)
@click.option("--without-lock", is_flag=True, help="Publish to a bucket without object lock, unprotected.")
@click.option("--again", is_flag=True, help="Look at every file from the first on, and put what is missing.")
@click.option("--workers", type=click.IntRange(1, 64), default=8, show_default=True, help="Uploads at once.")
@click.option(
    "--ledger", type=click.Path(path_type=Path, exists=True, file_okay=False), default=None,
    help="Another ledger folder [default: the data folder's].",
)  # fmt: skip
@click.option(
    "--trust", type=click.Path(path_type=Path, exists=True, dir_okay=False), default=None,
    help="Trusted keys [default: the data folder's trust.keys].",
)  # fmt: skip
@with_call
def publish(call: Call, where: str, ledger: Path | None, trust: Path | None, **given: object) -> None:
    """Copy what is new of the ledger to S3-compatible object storage, locked there so that nobody can take it back.

    Only what was checked against the signed root is uploaded, entries before the checkpoint; cut off, it goes on where it was. If what is
    published there is not this ledger's past, nothing is uploaded and the exit code is 1. Credentials come from the environment or the
    profile, as for AWS's own tools.
    """
    from stele.flow import publishing

    options = publishing.Options(**given)  # type: ignore[arg-type]
    if ledger is None:
        call.publish_committed()
    with render.progress(f"publishing to {where}", quiet=call.json) as step:
        said = 0

        def say(count: int) -> None:
            nonlocal said
            if sys.stderr.isatty() or count >= said + 1000:  # in a file, a line now and then
                said = count
                step(f"{count} files uploaded")

        made = publishing.publish(call.places, where, options, ledger=ledger, trust=trust, say=say)
    if call.json:
        render.show_json(made)
        return
    new = made["size"] - made["before"]
    render.say_line(f"{where} has {made['size']} entries, {new} of them new: {made['put']} files, {render.size(made['bytes'])}")
    if made["found"]:
        render.say_line(f"  {made['found']} files were there already, and are the same")
    render.say_line(f"  {_protection(options.without_lock, made['locked_until'], options.mode, hold=options.legal_hold)}")


def _protection(without: bool, until: int, mode: str, *, hold: bool) -> str:
    if without:
        return "not locked: whoever has the credentials can replace and remove it"
    parts = [f"until {datetime.fromtimestamp(until, UTC):%Y-%m-%d} ({mode})"] if until else []
    parts += ["by a legal hold"] if hold else []
    return "full tiles and checkpoints are locked " + " and ".join(parts)
