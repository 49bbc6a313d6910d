"""stele log monitor."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import threading
import time
from pathlib import Path
from typing import Any

import click

from stele.cli import render
from stele.cli.context import Call, with_call
from stele.model.units import parse_duration_ms


@click.command(
    epilog="\b\nExample:\n  stele log monitor https://logs.example.com/shop/ --trust shop-trust.keys --state /var/lib/monitor/shop\n"
    "  stele log monitor ./ledger-copy --trust trust.keys --once --json\n"
    "  stele log monitor https://logs.example.com/shop/ --trust t.keys --expect expected.yaml --on-alarm '/usr/local/bin/page ledger'\n"
    "  stele log monitor https://logs.example.com/shop/ --trust t.keys --witnesses policy"
)
@click.argument("ledger")
@click.option("--trust", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True, help="The ledger's trust.keys.")
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="The monitor's own folder [default: monitor/NAME in the data folder].",
)
@click.option("--expect", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=None, help="Which entries are expected.")
@click.option(
    "--witnesses",
    "policy",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="A witness policy with addresses: each look asks these witnesses what they cosigned last.",
)
@click.option("--every", default="10s", show_default=True, help="How often to look.")
@click.option("--stale", default="5m", show_default=True, help="Alarm if it has not grown for so long; 0s: never.")
@click.option("--on-alarm", default="", help="Run this command (no shell) for each new alarm, with the alarm as JSON on standard input.")
@click.option("--once", is_flag=True, help="Look once, for cron.")
@with_call
def monitor(
    call: Call,
    ledger: str,
    trust: Path,
    state: Path | None,
    expect: Path | None,
    policy: Path | None,
    every: str,
    stale: str,
    on_alarm: str,
    once: bool,
) -> None:
    """Follow LEDGER, an address or a folder, from outside: alarm if it shows two histories, was set back, or records what it should not.

    Every new entry is checked, and what was verified is kept in the monitor's folder, so that a restart goes on where it was. Exit code
    1: an alarm (with --once), or one after which nothing can be followed; both signed notes are kept. 4: it cannot be read (--once).
    """
    from stele.flow import monitoring
    from stele.ledger.monitor import Monitor
    from stele.ledger.source import source_of
    from stele.model import expectations
    from stele.trust import quorum, trust_keys
    from stele.witness.heads import Heads

    asked = quorum.parse(policy.read_bytes()).witnesses if policy else ()
    keys = trust_keys.parse(trust.read_bytes())
    expected = expectations.parse(expect.read_bytes()) if expect else None
    origin = keys.ledgers[0].name if keys.ledgers else keys.roots[0].origin
    place = state or call.places.data / "monitor" / origin.replace("/", "_")
    ended = threading.Event()
    pause = parse_duration_ms(every) / 1000
    if not once:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
    with source_of(ledger) as source:
        following = Monitor(place, source, keys, clock=time.time_ns, expected=expected, stale_ns=parse_duration_ms(stale) * 1_000_000)
        try:
            with contextlib.closing(Heads(place / "cosigned", (*asked, *keys.policy.witnesses), following.believed)) as heads:
                well = monitoring.follow(
                    following,
                    once=once,
                    wait=lambda: ended.wait(pause),
                    tell=lambda found: _tell(call, found),
                    command=shlex.split(on_alarm),
                    heads=heads,
                )
        finally:
            following.close()
    if not well:
        raise SystemExit(1)


def _tell(call: Call, found: dict[str, Any]) -> None:
    if call.json:
        render.say_line(json.dumps(found, sort_keys=True))
    else:
        witnessed = f", {found['witnessed']} witnessed" if found["witnessed"] else ""
        render.say_line(f"{render.when(time.time_ns())}  {found['size']} entries verified ({found['fresh']} new{witnessed})")
        for alarm in found["alarms"]:
            render.say_line(f"ALARM {alarm['kind']}: {alarm['reason']}")
            for path in alarm["evidence"]:
                render.say_line(f"      kept: {path}")
    render.flush()
