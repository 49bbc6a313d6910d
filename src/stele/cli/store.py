"""stele store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from stele.cli import render
from stele.cli.context import Call, with_call
from stele.cli.exits import ANSWER_IS_NO, OK
from stele.model.units import parse_duration_ms

if TYPE_CHECKING:
    from stele.flow.storecheck import Report
    from stele.flow.upkeep import Record
    from stele.store.checking import Finding


@click.group(
    epilog="\b\nExample:\n  stele store check\n  stele store usage\n  stele store prune\n  stele store pack\n  stele store pin 4be1"
)
def store() -> None:
    """Look after the store."""


_wait = click.option(
    "--wait", default="10s", show_default=True, help="How long to wait for seals, pulls and pushes that are under way; 0s: not at all."
)


@store.command(
    epilog="\b\nExample:\n  stele store pack\n  stele store pack --keep 4be1 --json\n  stele store pack --keep-layers --wait 10m"
)
@click.option("--keep", multiple=True, metavar="RELEASE", help="Leave this one whole, too; may be given several times.")
@click.option("--keep-layers", is_flag=True, help="Releases that stay whole have their layers, too, for other tools.")
@_wait
@with_call
def pack(call: Call, keep: tuple[str, ...], keep_layers: bool, wait: str) -> None:
    """Keep old releases as deltas, from which Stele brings them back by itself when they are needed.

    The newest release of every workload stays ready to run, and so do those that run, that ran well last, that hold evidence, and that are
    pinned: their images stay, their content is packed. What is packed is unpacked and compared with its signed digests before anything
    is removed, layers too. `stele push` makes layers again. Other tools (skopeo, podman) do not find them in the folder any more:
    --keep-layers leaves them to releases that stay, and makes them again where they went before.

    Deltas are made beside whatever else goes on. Before something is removed, seals, pulls and pushes that are under way are waited for,
    and new ones begin afterwards; what was added meanwhile stays whole.
    """
    call.need_keys()
    from stele.flow import opening, packing

    found, seconds = opening.open_store(call.places), parse_duration_ms(wait) / 1000
    stay = packing.in_use(call.places) | dict.fromkeys(packing.pins(found), "pinned") | {found.find(name).digest: "named" for name in keep}
    with render.progress("packing", quiet=call.json) as say:
        done = packing.pack(
            found,
            stay,
            keep_layers=keep_layers,
            record=_recorder(call),
            say=say,
            wait=seconds,
            meanwhile=lambda: packing.in_use(call.places),
        )
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
    """Make RELEASE stay whole when others are packed; without one, list what is pinned.

    Pushes make deltas from pinned releases, too: pin what hosts still run that update rarely.
    """
    from stele.flow import opening, packing

    found = opening.open_store(call.places)
    if release is not None:
        packing.set_pin(found, found.find(release).digest, pinned=not remove)
    pinned = sorted(packing.pins(found))
    if call.json:
        render.show_json(pinned)
        return
    render.show_table(("PINNED",), [(digest,) for digest in pinned], empty="nothing is pinned")


@store.command(epilog="\b\nExample:\n  stele store check\n  stele store check --deep --json")
@click.option("--deep", is_flag=True, help="Unpack every release that is kept as a delta, too, and compare it with its signed digests.")
@with_call
def check(call: Call, deep: bool) -> int:
    """Check the whole store: every file against its digest, every index, every signature, and whether each release can be had.

    Nothing is changed. Ends with 1 if anything is damaged or lost; `stele store repair` mends what can be mended.
    """
    from stele.flow import opening, packing, storecheck
    from stele.trust.errors import SteleError

    begun = time.monotonic_ns()
    found = opening.open_store(call.places)
    try:
        running = packing.in_use(call.places)
    except SteleError as error:
        running = {}
        click.echo(f"the ledger cannot be read, so what runs is not known: {error.reason}", err=True)
    with render.progress("checking the store", quiet=call.json) as say:
        report = storecheck.check(found, running, say, deep=deep)
    took = time.monotonic_ns() - begun
    if call.json:
        render.show_json({**_plain(report), "proven": list(report.proven), "took_ns": took})
    else:
        files = report.files.states
        render.say_line(f"checked {len(files)} files, {render.size(sum(item.size for item in files.values()))}, in {render.took(took)}")
        _show(report, report.problems)
    return ANSWER_IS_NO if report.problems else OK


@store.command(
    epilog="\b\nExample:\n  stele store repair\n  stele store repair --from registry.example.com/team/shop\n"
    "  stele store repair --local --json"
)
@click.option("--from", "origins", multiple=True, metavar="REGISTRY/REPOSITORY", help="Ask this one, too; may be given several times.")
@click.option("--local", is_flag=True, help="Ask no registry that the ledger knows a release came from or went to.")
@click.option("--plain-http", is_flag=True, help="Speak http without TLS, to a registry that is not on this machine, too.")
@with_call
def repair(call: Call, origins: tuple[str, ...], local: bool, plain_http: bool) -> int:
    """Mend what `stele store check` finds: from what is whole beside it, from deltas, or from a registry; at its digest or not at all.

    Damaged bytes are set aside below store/damaged, not thrown away. What cannot be mended stays as it is, and is named. The ledger has
    what was found before it is touched, and what became of it.
    """
    call.need_keys()
    from stele.flow import opening, repairing

    found = opening.open_store(call.places)
    with render.progress("repairing the store", quiet=call.json) as say:
        done = repairing.run(call.places, found, origins, local=local, plain_http=plain_http, record=_recorder(call), say=say)
    if call.json:
        left = [item._asdict() for item in done.left]
        render.show_json({**_plain(done.report), "mended": [item._asdict() for item in done.mended], "problems": left})
    else:
        rows = [(item.path, item.how, item.aside) for item in done.mended]
        render.show_table(("FILE", "MENDED", "DAMAGED BYTES"), rows, empty="nothing was to be mended")
        _show(done.report, list(done.left))
    return ANSWER_IS_NO if done.left else OK


@store.command(
    epilog="\b\nExample:\n  stele store prune --dry-run\n  stele store prune --wait 10m\n  stele store prune --damaged --json"
    "\n  stele store prune --at registry.example.com/team/shop"
)
@click.option("--damaged", is_flag=True, help="Remove what repairs set aside, too.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be removed.")
@_wait
@click.option(
    "--at", metavar="REGISTRY/REPOSITORY", help="Prune this instead of the store: updates to releases that it does not have any more."
)
@click.option("--plain-http", is_flag=True, help="Speak http without TLS, to a registry that is not on this machine, too.")
@with_call
def prune(call: Call, damaged: bool, dry_run: bool, wait: str, at: str | None, plain_http: bool) -> None:
    """Remove files that nothing names: what seals and pulls that were killed left, and what was replaced.

    No release loses anything. A pull that was killed begins again afterwards. Nothing is removed while something is sealed, pulled,
    pushed or packed: those that are under way are waited for, and new ones begin when the prune has ended. Nor where a damaged index
    leaves it open what is needed. The ledger has the names of the files before they go.

    With --at: whoever removes a release from a registry leaves the updates to it that `stele push` wrote beside it; they go.
    """
    if at is not None:
        _prune_registry(call, at, dry_run=dry_run, plain_http=plain_http)
        return
    call.need_keys()
    from stele.flow import opening, pruning

    found = opening.open_store(call.places)
    seconds = parse_duration_ms(wait) / 1000
    with render.progress("waiting until nobody adds to the store", quiet=call.json):
        done = pruning.run(call.places, found, damaged=damaged, dry_run=dry_run, record=_recorder(call), wait=seconds)
    if call.json:
        gone = [item._asdict() for item in done.gone]
        render.show_json({"dry_run": dry_run, "bytes": done.held, "removed": gone, "strays": list(done.strays), "aside": done.aside})
        return
    words = {"unnamed": "nothing names it", "partial": "the beginning of a blob", "damaged": "set aside by a repair"}
    if dry_run:
        rows = [(item.path, render.size(item.held), words[item.what]) for item in done.gone]
        render.show_table(("FILE", "TAKES", "WHAT"), rows, empty="nothing is to be removed")
    render.say_line(f"{'would free' if dry_run else 'freed'} {render.size(done.held)}, {len(done.gone)} files")
    if done.aside:
        render.say_line(f"  {render.size(done.aside)} set aside by repairs stay; --damaged removes them")
    if done.strays:
        render.say_line(f"  {len(done.strays)} files that are not the store's stay (`stele store check --json` names them)")


def _prune_registry(call: Call, at: str, *, dry_run: bool, plain_http: bool) -> None:
    from stele.flow import registry_pruning

    with render.progress(f"looking at {at}", quiet=call.json) as say:
        done = registry_pruning.prune(at, plain_http=plain_http, dry_run=dry_run, say=say)
    if call.json:
        render.show_json({"dry_run": dry_run, "bytes": done.size, "removed": [item._asdict() for item in done.gone], "kept": done.kept})
        return
    if dry_run:
        render.show_table(("UPDATE", "SIZE"), [(item.tag, render.size(item.size)) for item in done.gone], empty="nothing is to be removed")
    render.say_line(
        f"{'would remove' if dry_run else 'removed'} {len(done.gone)} updates, {render.size(done.size)}; {done.kept} lead to releases"
    )


def _recorder(call: Call) -> Record:
    from stele.flow import sealing

    return sealing.event_recorder(call.places, lambda body: call.agent.call("POST", "/v1/store", {"kind": body.pop("kind"), "data": body}))


def _plain(report: Report) -> dict[str, Any]:
    return {
        "files": len(report.files.states),
        "bytes": sum(item.size for item in report.files.states.values()),
        "whole": list(report.whole),
        "packed": list(report.packed),
        "problems": [item._asdict() for item in report.problems],
        "notes": [item._asdict() for item in report.notes],
    }


def _show(report: Report, problems: list[Finding]) -> None:
    known = [item for item in report.taken.holdings if item.release is not None or item.wrong]
    lost = len(known) - len(report.whole) - len(report.packed)
    told = f", {lost} not to be had" if lost else ""
    render.say_line(f"  {len(report.whole)} releases are whole, {len(report.packed)} kept as deltas{told}")
    counts: dict[str, int] = {}
    for item in report.notes:
        counts[item.kind] = counts.get(item.kind, 0) + 1
    words = {
        "absent": "files are not kept, and made again when they are needed",
        "unnamed": "files are named by nothing: what a seal that broke off left, or what was replaced (`stele store prune` removes them)",
        "stray": "files do not belong to a store",
        "aside": "damaged files were set aside by repairs (in damaged/); `stele store prune --damaged` removes them",
        "odd": "entries of index.json are not as Stele writes them",
    }
    for kind, count in counts.items():
        render.say_line(f"  {count} {words[kind]}")
    names = {item.digest: f"{item.release.workload} {render.short(item.digest)}" for item in report.taken.holdings if item.release}
    rows = [
        (item.kind, item.path, item.reason, ", ".join(names.get(digest, render.short(digest)) for digest in item.releases))
        for item in problems
    ]
    render.show_table(("PROBLEM", "FILE", "WHAT", "NEEDED BY"), rows, empty="  no problems")


@store.command(epilog="\b\nExample:\n  stele store usage\n  stele store usage --strata\n  stele store usage --json | jq .total")
@click.option("--strata", is_flag=True, help="List the strata of every release.")
@with_call
def usage(call: Call, strata: bool) -> None:
    """Show what takes room on the disk: by workload and release, how much of it is shared with others, and what is kept as a delta."""
    from stele.flow import opening
    from stele.flow import usage as counting

    found = counting.usage(opening.open_store(call.places))
    if call.json:
        plain = [{**item._asdict(), "strata": [stratum._asdict() for stratum in item.strata]} for item in found.releases]
        render.show_json({**found._asdict(), "releases": plain})
        return
    rows: list[tuple[str, ...]] = []
    for item in sorted(found.releases, key=lambda item: item.workload):
        name = item.workload or "(another tool's image)"
        rows.append((name, render.short(item.digest), item.form, render.size(item.own), render.size(item.shared), render.size(item.deltas)))
        for stratum in item.strata if strata else ():
            where = f"{stratum.form}{f', in {stratum.shared_with} more' if stratum.shared_with else ''}"
            own, shared = (0, stratum.held) if stratum.shared_with else (stratum.held, 0)
            rows.append(("", f"  {stratum.name}", where, render.size(own), render.size(shared), ""))
    render.show_table(("WORKLOAD", "RELEASE", "KEPT", "OWN", "SHARED", "OF IT DELTAS"), rows, empty="the store is empty")
    for name, total in found.workloads.items():
        render.say_line(
            f"{name or '(other tools)'}: {render.size(total['own'])} its own, {render.size(total['shared'])} shared with others"
        )
    more = ((found.unnamed, "named by nothing"), (found.aside, "set aside by repairs"))
    told = "".join(f", {render.size(count)} {what}" for count, what in more if count)
    render.say_line(f"all together {render.size(found.total)} on the disk{told}")
