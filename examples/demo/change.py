"""Sections of ordinary life: seal, run, upgrade, and go back; the last two under visitors who never stop asking."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from examples.demo import load, prepare
from examples.demo.screen import took
from examples.demo.show import WORKLOAD, first, seconds_between, short
from examples.shop import build

if TYPE_CHECKING:
    from collections.abc import Callable

    from examples.demo.show import Show

WARM_UP = 40  # answered requests before and after a change, so that the change happens under load


def seal(show: Show) -> None:
    """Seal both versions; neither root nor the agent is needed for it."""
    show.screen.section("Seal two versions")
    show.screen.say("A Debian root file system with nginx, a site and a CGI script, and its spec, become one signed release each.")
    show.stele.call("init", "--keys-only")
    specs = prepare.specs(show.where)
    for version in build.VERSIONS:
        found = show.stele.call("seal", str(show.layout), "--reference", version, "-f", str(specs[version]))
        show.releases[version] = found["release"]
        show.measured("seal a release", found["took_ns"] / 1e9)
        size = found["bytes"] / (1 << 20)
        show.screen.say(
            f"{version} is {short(found['release'])}: {found['paths']} paths, {size:.0f} MiB, in {took(found['took_ns'] / 1e9)}"
        )
        for note in found["notes"]:
            show.screen.note(note)
    again = show.stele.call("seal", str(show.layout), "--reference", "v1", "-f", str(specs["v1"]))
    show.screen.expect("sealing the same input again gives the same release", holds=again["release"] == show.releases["v1"])
    show.screen.expect("the two versions are different releases", holds=show.releases["v1"] != show.releases["v2"])


def run(show: Show) -> None:
    """Start the agent and v1; ask for the page."""
    show.screen.section("Run version 1")
    show.stele.call("agent", "start")
    begun = time.monotonic()
    show.stele.call("apply", show.releases["v1"])
    show.screen.say(f"answered its health check and took the port, {took(time.monotonic() - begun)} after the command was typed")
    events = show.stele.events(WORKLOAD)
    span = seconds_between(first(events, "instance.starting"), first(events, "instance.healthy"))
    if span is not None:
        show.measured("start an instance, until healthy", span)
    show_page(show, "1")
    status = show.await_serving(confirmed=True)
    show.screen.say(f"{status['instance']} runs release {short(status['release'])}; its immutability: {status['enforced']}")
    show.screen.expect("version 1 has proved itself (confirm window) and is known good", holds=show.releases["v1"] in status["good"])
    show.moments["before"] = time.time_ns()


def show_page(show: Show, version: str) -> None:
    """Ask for the page as a visitor would, and show the line with the version."""
    show.screen.command(["curl", f"http://127.0.0.1:{show.where.port}/"])
    outcome, body = load.ask(show.where.port)
    lines = [re.sub(r"<[^>]+>", "", line) for line in body.decode("utf-8", "replace").splitlines() if "shop version" in line]
    for line in lines:
        show.screen.quote(line)
    show.screen.expect(f"the shop answers with version {version}", holds=outcome == "ok" and lines == [f"shop version {version}"])


def upgrade(show: Show) -> None:
    """v1 → v2."""
    show.screen.section("Upgrade to version 2 under requests")
    show.screen.say("Four visitors ask without pause, each time over a new connection; a fifth keeps one connection open.")
    under_load(show, "upgrade, from the command to the end", lambda: show.stele.call("apply", show.releases["v2"]), "v2")
    status = show.await_serving(confirmed=True)
    show.screen.expect("version 2 has proved itself too", holds=show.releases["v2"] in status["good"])


def rollback(show: Show) -> None:
    """v2 → v1, by stele's own memory of what was good."""
    show.screen.section("Roll back to version 1 under requests")
    show.screen.say("No build and no network: the earlier release is here, verified, and an instance of it is ready to start.")
    newest = show.newest()
    under_load(show, "roll back, from the command to the end", lambda: show.stele.call("rollback", WORKLOAD), "v1")
    # `stele log` has what is published, a moment after it is committed
    kinds = {"rollback.decided", "instance.active"}
    events = show.stele.await_events(WORKLOAD, after=newest, until=lambda found: kinds <= {each["kind"] for each in found}, timeout=30)
    span = seconds_between(first(events, "rollback.decided"), first(events, "instance.active"))
    show.screen.expect("the decision is in the ledger, before its effect", holds=span is not None and span >= 0)
    if span is not None:
        show.measured("roll back, from the decision to serving", span)
    show.await_serving(confirmed=True)
    show.moments["after"] = time.time_ns()


def under_load(show: Show, row: str, change: Callable[[], object], version: str) -> None:
    """Do `change` while visitors ask; none of their requests may be lost, and the last answers must be of `version`."""
    with load.Clients(show.where.port) as clients, load.KeepAlive(show.where.port) as kept:
        show.screen.expect("visitors are answered", holds=clients.await_answers(WARM_UP, timeout=20))
        begun = time.monotonic()
        change()
        show.measured(row, time.monotonic() - begun)
        wanted = int(version[1:])
        turned = clients.await_answers(WARM_UP, timeout=20, wanted=lambda request: request.version == wanted)
        _await_drained(show)
    found = load.account(clients.requests())
    show.screen.say(f"new connections: {found}; slowest answer {took(found.slowest_s)}, longest gap {took(found.longest_gap_s)}")
    show.screen.say(
        f"kept connection: {kept.answered} answered, {kept.lost} lost, {kept.closed} times closed by the server between two requests"
    )
    show.screen.expect(f"visitors now see {version}", holds=turned)
    show.screen.expect("no request was lost", holds=found.lost == 0 and kept.lost == 0 and found.total > 0)
    order = [request.version for request in sorted(clients.requests(), key=lambda request: request.begun) if request.version]
    show.screen.note(f"versions seen: {order.count(1)} answers of version 1, {order.count(2)} of version 2")
    show_page(show, version[1:])


def _await_drained(show: Show) -> None:
    limit = time.monotonic() + 30
    while show.stele.status(WORKLOAD).get("draining") and time.monotonic() < limit:
        time.sleep(0.05)
