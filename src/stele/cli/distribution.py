"""stele push, stele pull."""

from __future__ import annotations

import click

from stele.cli import render
from stele.cli.context import Call, with_call


@click.command(
    epilog="\b\nExample:\n  stele push shop registry.example.com/team/shop:1.4\n  stele push 4be1 localhost:5000/shop --no-delta"
)
@click.argument("release")
@click.argument("target", metavar="REGISTRY/REPOSITORY[:TAG]")
@click.option("--plain-http", is_flag=True, help="Speak http without TLS, to a registry that is not on this machine, too.")
@click.option(
    "--delta/--no-delta",
    default=True,
    show_default=True,
    help="Make deltas from the release before, those known good and those pinned, so that pulls move less.",
)
@with_call
def push(call: Call, release: str, target: str, *, plain_http: bool, delta: bool) -> None:
    """Copy RELEASE, its signatures, SBOM, provenance and deltas to a registry. Only what is missing there moves.

    Credentials are taken from docker's and podman's configuration and their helpers.
    """
    from stele.flow import pushing, sealing

    with render.progress(f"pushing {release}", quiet=call.json) as say:
        record = sealing.event_recorder(call.places, lambda body: call.agent.call("POST", "/v1/record", body))
        done = pushing.push(call.places, release, target, plain_http=plain_http, delta=delta, say=say, record=record)
    if call.json:
        render.show_json(done)
        return
    render.say_line(f"pushed {done['release']}")
    render.say_line(f"  as      {done['reference']}")
    render.say_line(f"  moved   {render.size(done['sent'])} in {render.took(done['took_ns'])}")


@click.command(
    epilog="\b\nExample:\n  stele pull registry.example.com/team/shop:1.4\n  stele pull localhost:5000/shop@sha256:4be1…   (by digest)"
)
@click.argument("source", metavar="REGISTRY/REPOSITORY[:TAG|@DIGEST]")
@click.option("--plain-http", is_flag=True, help="Speak http without TLS, to a registry that is not on this machine, too.")
@click.option("--whole", is_flag=True, help="Take whole strata, never deltas; look for all that refers to it, too, if it is here.")
@with_call
def pull(call: Call, source: str, *, plain_http: bool, whole: bool) -> None:
    """Bring a release into the store. Nothing of it is visible there before a signature by a trusted key held.

    The cheapest way is taken: strata that are here already, an update or deltas from a release that is here, whole strata. An
    update leaves out SBOM, provenance and what others signed later. What a pull that was killed had brought is gone on with.
    """
    call.need_keys()
    from stele.flow import pulling, sealing

    with render.progress(f"pulling {source}", quiet=call.json) as say:
        record = sealing.event_recorder(call.places, lambda body: call.agent.call("POST", "/v1/record", body))
        done = pulling.pull(call.places, source, plain_http=plain_http, whole=whole, say=say, record=record)
    for digest, reason in done["damaged"].items():
        render.warn(
            f"release {render.short(digest)} is damaged here, and nothing was built on it: {reason}",
            "`stele store check` names all that is damaged, `stele store repair` mends it",
        )
    if call.json:
        render.show_json(done)
        return
    render.say_line(f"pulled {done['workload']} {done['release']}")
    way = {"nothing": "all strata were here", "update": "by an update", "deltas": "by deltas", "strata": "as whole strata"}[done["way"]]
    render.say_line(f"  moved   {render.size(done['received'])} in {render.took(done['took_ns'])}, {way}")
    if done["way"] == "update":
        render.say_line("  left    SBOM, provenance and later signatures, which an update does not bring (`stele pull --whole` does)")
