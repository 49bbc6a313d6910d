"""stele prove, stele verify."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from stele.cli import rebuild, render
from stele.cli.context import Call, with_call


@click.command(
    epilog="\b\nExample:\n"
    "  stele prove shop                                 what runs now\n"
    "  stele prove shop --at 2026-03-01T12:00:00Z       what ran then\n"
    "  stele prove shop --between 2026-03-01T00:00:00Z 2026-03-02T00:00:00Z\n"
    "  stele prove shop --never-ran sha256:18fb…        that a release was never started\n"
    "  stele prove --workloads                          which workloads there are, and no others"
)
@click.argument("workload", default="")
@click.option("--at", default="", help="The instant, UTC: 2026-03-01T12:00:00Z, with up to nine decimals [default: now].")
@click.option("--between", nargs=2, default=None, metavar="FROM UNTIL", help="Everything that happened between two instants.")
@click.option("--never-ran", default="", metavar="RELEASE", help="That RELEASE was never started as WORKLOAD.")
@click.option("--workloads", is_flag=True, help="All workloads that existed, without WORKLOAD.")
@click.option("--full", is_flag=True, help="Bring every entry of the workload, so that less is taken on the operator's word.")
@click.option("--whole-log", is_flag=True, help="Bring every entry of the ledger, so that every map is made anew.")
@click.option("--open", "reveal", is_flag=True, help="Bring the private values of its entries (who, why, paths), unless erased.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="File to write [default: named by the question].")
@click.option("--with-verifier", "verifier", type=click.Path(path_type=Path, file_okay=False), help="Put stele_verify.py into this folder.")
@with_call
def prove(
    call: Call,
    workload: str,
    at: str,
    between: tuple[str, str] | None,
    never_ran: str,
    workloads: bool,
    full: bool,
    whole_log: bool,
    reveal: bool,
    output: Path | None,
    verifier: Path | None,
) -> None:
    """Write one file that proves, offline and without trusting this machine, what WORKLOAD ran, or did not.

    It works for a workload that never existed, too: then it proves that. `--full` and `--whole-log` make larger files, which take less
    on the operator's word; every verdict says what was checked and what was not. Without `-o` the file is named by the question
    (shop.proof, shop.at-20260301T120000Z.proof, …): only an answer to the same question takes its place.
    """
    from stele.flow import proving

    if sum(map(bool, (between, never_ran, workloads))) > 1 or (between and at) or bool(workload) == workloads:
        raise click.UsageError("name a WORKLOAD, with at most one of --between and --never-ran; or --workloads alone")
    question = proving.Question(workload, at, between, never_ran, workloads, reveal)
    form = "log" if whole_log or (full and workloads) else "chain" if full else "light"
    if output is None:
        output = Path(proving.file_name(question))
    call.publish_committed()
    with render.progress("proving", quiet=call.json or form == "light"):
        made = proving.prove(call.places, question, form, output, verifier)
    if call.json:
        render.show_json(made)
        return
    for line in made.get("says", []):
        render.say_line(line)
    render.say_line("")
    render.say_line(f"wrote {output} ({form} form, {render.size(made['bytes'])}, {render.took(made['took_ns'])})")
    render.say_line(f"check it anywhere: stele verify {output} --trust trust.keys")
    if verifier is not None:
        render.say_line(f"or without Stele:  python3 {verifier / 'stele_verify.py'} {output} trust.keys")


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
    if Path(what).is_file():
        from stele.flow import proving

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
        render.say_line("whose word the time is:")
        for line in verdict["time"]:
            render.say_line(f"  · {line}")
        render.say_line("not checked:")
        for line in verdict["not_checked"]:
            render.say_line(f"  - {line}")
        return None
    with render.progress(f"verifying {what}", quiet=call.json):
        found = _release(call, what)
    if call.json:
        render.show_json(found)
    else:
        what_held = f"signature, {found['blobs']} blobs, {found['images']} images"
        render.say_line(f"release {found['release']} holds: {what_held}, {render.size(found['bytes'])} in {render.took(found['took_ns'])}")
    return None


def _release(call: Call, what: str) -> dict[str, Any]:
    """Verify a release; where there is none of that name, there is no such file either, which may have been meant."""
    from stele.flow import verifying
    from stele.trust.errors import SteleError

    try:
        return verifying.verify_release(call.places, what)
    except SteleError as error:
        if error.code != "store.unknown-release":
            raise
        there = "is no file (it is there, and something else)" if os.path.lexists(what) else "there is no such file"
        raise SteleError(
            f"{what[:100]!r}: {there}, and the store has no such release",
            remedy=f"a proof is named by its path, like shop.proof; of releases, {error.remedy}",
            code=error.code,
        ) from error
