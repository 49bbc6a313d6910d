"""Options that every command shares which reads the ledger: what is wanted, and from where."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

WAIT_S = 2.0  # for what is committed to be published
LOOK_S = 0.02
ASKED_S = 2.0  # an agent that says nothing for so long is not waited for
if TYPE_CHECKING:
    from collections.abc import Callable

    from stele.cli.context import Call
    from stele.flow.log_view import LogView
    from stele.model.selection import Selection

_OPTIONS = (
    click.option("-w", "--workload", "workloads", multiple=True, metavar="NAME", help="Only this workload, or 'web-*'; '' is the host."),
    click.option(
        "-k", "--kind", "kinds", multiple=True, metavar="KIND",
        help="Only such events: a kind, its first word (instance), a pattern ('*.failed'), or deploys, incidents, releases, instances, "
        "custody, agent; several times.",
    ),
    click.option("--actor", "actors", multiple=True, metavar="WHO", help="Only what this one did: agent, operator, ledger; several times."),
    click.option("--person", "persons", multiple=True, metavar="WHO", help="Only what this person did, as far as that can be opened here."),
    click.option("--since", default="", metavar="TIME", help="From then on: 2h (ago), 2026-03-01, 2026-03-01T12:00:00Z."),
    click.option("--until", default="", metavar="TIME", help="Before then; spelled alike."),
    click.option("--release", default="", metavar="DIGEST", help="Only what names this release (4 digits of it are enough)."),
    click.option("--incident", default="", metavar="NAME", help="Only what belongs to this incident."),
)  # fmt: skip
_LEDGER = (
    click.option("--from", "where", default=None, metavar="URL|FOLDER", help="Another ledger: a copy, or one that is served or published."),
    click.option(
        "--trust", type=click.Path(path_type=Path, exists=True, dir_okay=False), default=None,
        help="Trusted keys [default: the data folder's trust.keys].",
    ),
    click.option("--no-index", "read_all", is_flag=True, help="Look at every entry, instead of where the projection says."),
)  # fmt: skip


def reading(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add all of them."""
    function = ledger_options(function)
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def ledger_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add those that say which ledger."""
    for option in reversed(_LEDGER):
        function = option(function)
    return function


def parse_period(since: str, until: str) -> tuple[int, int]:
    """From when, and until just before when."""
    from stele.flow.times import parse_when

    now = time.time_ns()
    return parse_when(since, now) if since else 0, parse_when(until, now) if until else 1 << 63


def selection(given: dict[str, Any], *, everything: bool = False) -> Selection:
    """What the options select. `everything`: also what only says that time passed."""
    from stele.model import selection as model

    since_ns, until_ns = parse_period(given["since"], given["until"])
    return model.Selection(
        workloads=given["workloads"],
        kinds=model.parse_kinds(given["kinds"], everything=everything),
        actors=given["actors"],
        persons=given["persons"],
        since_ns=since_ns,
        until_ns=until_ns,
        release=model.parse_release(given["release"]) if given["release"] else "",
        incident=given["incident"],
    )


def catch_up(call: Call) -> None:
    """Wait until what the agent had committed when this began is published, but no longer than WAIT_S; then say what is not.

    Without an agent nothing is waited for: whoever commits without one publishes before it ends.
    """
    if not os.path.exists(call.places.agent_socket):
        return
    from stele.cli import render
    from stele.trust.errors import SteleError

    deadline, goal = time.monotonic() + WAIT_S, -1
    while True:
        try:
            found = call.agent.call("GET", "/v1/ledger", timeout=ASKED_S)
        except SteleError:
            return  # it is gone, busy, or not for this user to ask: what is published is all there is to know
        goal = found["committed"] if goal < 0 else goal
        missing = goal - found["published"]
        if missing <= 0 or found["read_only"]:
            return
        if time.monotonic() >= deadline:
            render.warn(f"committed and not published yet: the newest {missing} entries", "`stele log --follow` shows them when they are")
            return
        time.sleep(LOOK_S)


def view(call: Call, given: dict[str, Any]) -> LogView:
    """The ledger that the options name; of this data folder's, what was committed before now is waited for."""
    from stele.flow import log_view

    if given["where"] is None:
        catch_up(call)
    return log_view.open_view(call.places, given["where"], given["trust"], read_all=given["read_all"])
