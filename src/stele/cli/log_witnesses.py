"""stele log witnesses, stele log timestamps: who else puts a name to this ledger's checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stele.cli import render
from stele.cli.context import Call, call_of, with_call
from stele.model.units import parse_duration_ms

SECOND_NS = 1_000_000_000


@click.group(
    invoke_without_command=True,
    epilog="\b\nExample:\n  stele log witnesses\n  stele log witnesses set policy --on-timeout block --timeout 10s",
)
@click.option("--json", "sub_json", is_flag=True, help="Print JSON instead of a table.")
@click.pass_context
def witnesses(ctx: click.Context, sub_json: bool) -> None:
    """What is published and what is witnessed, and how it stands with each witness. Needs no agent and no network."""
    if ctx.invoked_subcommand is not None:
        return
    call = call_of(ctx, json=sub_json)
    call.need_keys()
    from stele.flow import cosigning

    found = cosigning.standing(call.places)
    if call.json:
        render.show_json(found)
        return
    _say_standing(found)


def _say_standing(found: dict[str, Any]) -> None:
    mode = "nothing is published without the quorum" if found["block"] else "published without the quorum after"
    wait = f" {found['timeout_ms'] / 1000:g} s"
    render.say_line(f"published: {found['published']} entries")
    if found["witnesses"]:
        missing = found["published"] - found["witnessed"]
        render.say_line(f"witnessed: {found['witnessed']} entries" + (f" ({missing} published ones are not witnessed)" if missing else ""))
        render.say_line(f"quorum {found['quorum']}; {mode}{'' if found['block'] else wait}")
        rows = [
            (each["name"], each["url"] or "not asked", str(each["size"] or "never"), render.when(each["seconds"] * SECOND_NS))
            for each in found["witnesses"]
        ]
        for each in found["behind"]:
            render.say_line(
                f"ALARM: {each['witness']} said at {render.when(each['time_ns'])} that it had cosigned {each['named']} entries, and it had"
                f" cosigned {each['cosigned']}: it was set back, or lies (entry {each['entry']}; docs/guide/witness.md)"
            )
        render.show_table(("WITNESS", "ADDRESS", "COSIGNED SIZE", "AT (UTC, ITS CLOCK)"), rows)
    else:
        render.say_line("witnessed: nobody is asked (`stele log witnesses set`): whoever has the key can show two histories")


@witnesses.command("set", epilog="\b\nExample:\n  stele log witnesses set policy --on-timeout block --timeout 10s")
@click.argument("policy", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--on-timeout",
    type=click.Choice(["block", "publish"]),
    default="publish",
    show_default=True,
    help="Without the quorum: publish nothing, or publish and add what comes later.",
)
@click.option("--timeout", default="5s", show_default=True, help="How long publishing waits for the quorum.")
@with_call
def set_(call: Call, policy: Path, on_timeout: str, timeout: str) -> None:
    """Ask the witnesses of POLICY (C2SP tlog-policy; docs/guide/witness.md has an example) from the agent's next start on.

    Their keys and the quorum go into trust.keys, for those who verify.
    """
    call.need_keys()
    from stele.flow import cosigning

    found = cosigning.set_witnesses(call.places, policy.read_bytes(), block=on_timeout == "block", timeout_ms=parse_duration_ms(timeout))
    _say_set(call, {"witnesses": len(found.witnesses), "quorum": found.quorum, "block": on_timeout == "block"})


@witnesses.command(epilog="\b\nExample:\n  stele log witnesses clear")
@with_call
def clear(call: Call) -> None:
    """Ask nobody any more, and take the witnesses out of trust.keys."""
    call.need_keys()
    from stele.flow import cosigning

    cosigning.set_witnesses(call.places, b"quorum none\n", block=False, timeout_ms=5000)
    _say_set(call, {"witnesses": 0})


def _say_set(call: Call, found: dict[str, Any]) -> None:
    if call.json:
        render.show_json(found)
        return
    render.say_line("set. A running agent takes it over when it is started again: `stele agent stop`, `stele agent start`")
    render.say_line(f"{call.places.trust} changed: give it to those who verify")


@click.group(
    invoke_without_command=True,
    epilog="\b\nExample:\n  stele log timestamps set http://tsa.example.com/tsr --root tsa-ca.pem\n  stele log timestamps now",
)
@click.option("--json", "sub_json", is_flag=True, help="Print JSON instead of text.")
@click.pass_context
def timestamps(ctx: click.Context, sub_json: bool) -> None:
    """RFC 3161 timestamps of checkpoints, for sites without a witness: that a checkpoint existed by then, by an authority's word.

    It does not show that there is no other ledger: an authority stamps whatever it is given. Only a witness does that.
    """
    if ctx.invoked_subcommand is not None:
        return
    call = call_of(ctx, json=sub_json)
    call.need_keys()
    from stele.flow import cosigning

    found = cosigning.standing(call.places)
    if call.json:
        render.show_json({"authorities": found["authorities"], "timestamp": found["timestamp"], "published": found["published"]})
        return
    render.say_line(f"authorities: {', '.join(found['authorities']) or 'none'}; published: {found['published']} entries")
    _say_stamp(found["timestamp"])


def _say_stamp(stamp: dict[str, Any] | None) -> None:
    if stamp is None:
        render.say_line("nothing is stamped yet")
    else:
        render.say_line(f"{stamp['size']} entries existed by {render.when(stamp['time_ns'])}, says {stamp['authority']}")


@timestamps.command("set", epilog="\b\nExample:\n  stele log timestamps set http://tsa.example.com/tsr --root tsa-ca.pem --every 10m")
@click.argument("urls", nargs=-1, required=True)
@click.option(
    "--root",
    "roots",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    required=True,
    help="PEM or DER: certificates that the authority's must lead to. May be given several times.",
)
@click.option("--every", default="60s", show_default=True, help="How often the newest checkpoint is stamped.")
@with_call
def set_timestamps(call: Call, urls: tuple[str, ...], roots: tuple[Path, ...], every: str) -> None:
    """Have an authority at one of URLS (asked in this order) stamp the newest checkpoint, from the agent's next start on."""
    call.need_keys()
    from stele.flow import cosigning

    cosigning.set_timestamps(call.places, urls, [path.read_bytes() for path in roots], every_ms=parse_duration_ms(every))
    _say_set(call, {"authorities": list(urls)})


@timestamps.command("clear", epilog="\b\nExample:\n  stele log timestamps clear")
@with_call
def clear_timestamps(call: Call) -> None:
    """Ask no authority any more, and take their certificates out of trust.keys."""
    call.need_keys()
    from stele.flow import cosigning

    cosigning.set_timestamps(call.places, (), (), every_ms=60_000)
    _say_set(call, {"authorities": []})


@timestamps.command(epilog="\b\nExample:\n  stele log timestamps now")
@with_call
def now(call: Call) -> None:
    """Have the newest published checkpoint stamped at once."""
    call.need_keys()
    from stele.flow import cosigning, stamping

    found = stamping.stamp(call.places)
    stamp = None if found is None else {"size": found[0], **cosigning.plain_stamp(found[1])}
    if call.json:
        render.show_json(stamp)
    else:
        _say_stamp(stamp)
