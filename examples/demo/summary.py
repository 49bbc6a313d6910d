"""The end: what is left on the host, how long things took, and whether all came out as it should."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from examples.demo import host_state
from examples.demo.screen import took
from examples.demo.stele import StepFailedError

if TYPE_CHECKING:
    from examples.demo.show import Show

ENDING_LIMIT_S = 5.0
ROWS = (
    "seal a release",
    "start an instance, until healthy",
    "upgrade, from the command to the end",
    "detect: from the system call to the decision",
    "freeze: from the system call to frozen",
    "record: from the system call to committed in the ledger",
    "cut: from the system call to off the network",
    "replace: from the violation to a healthy instance on the port",
    "visitors' longest gap in a quarantine",
    "collect and sign the evidence",
    "roll back, from the decision to serving",
    "roll back, from the command to the end",
    "prove what ran at an instant",
    "verify a proof, elsewhere",
)


def leave(show: Show, before: host_state.Snapshot) -> None:
    """Stop everything and compare the host with what it was."""
    show.screen.section("Leave the host as it was")
    try:
        show.stele.call("agent", "stop", "--remove")
    except StepFailedError as error:
        show.screen.expect(str(error), holds=False)
    limit = time.monotonic() + ENDING_LIMIT_S
    while True:
        after = host_state.take(show.where.tag, show.where.data)
        changes = host_state.compare(before, after, show.where.tag, show.where.data)
        if not any(change.owner == "ours" for change in changes) or time.monotonic() > limit:
            break  # a process that has answered its last request may still be ending
        time.sleep(0.1)
    for change in changes:
        if change.owner == "ours":
            show.screen.warn(f"left behind: {change}")
    aside = [change for change in changes if change.owner != "ours"]
    looked = ", ".join(f"{len(names)} {kind}{'' if len(names) == 1 else 's'}" for kind, names in after.parts.items() if names)
    show.screen.note(f"looked at {looked}")
    for change in aside[:8]:
        show.screen.note(f"changed meanwhile, not by the demo: {change}")
    left = [change for change in changes if change.owner == "ours"]
    show.screen.expect(
        "mounts, network namespaces, links, nft tables, cgroups, sysctls, loop devices and processes are as before", holds=not left
    )


def table(show: Show, total: float) -> None:
    """Measured times: the middle one of several, and the worst."""
    show.screen.section("Measured")
    rows = []
    for row in ROWS:
        values = show.times.get(row)
        if values:
            rows.append(
                (
                    row,
                    took(statistics.median(values)),
                    took(max(values)) if len(values) > 1 else "",
                    f"of {len(values)}" if len(values) > 1 else "",
                )
            )
    show.screen.table(rows, head=("WHAT", "MEDIAN", "WORST", ""))
    show.screen.note(f"the whole demo: {total:.0f} s")


def verdict(show: Show) -> int:
    """Say it; returns the exit code."""
    show.screen.say("")
    show.screen.say(f"What is left is {show.where.data.parent}, yours to look around in or to delete:")
    show.screen.note(f"stele --data {show.where.data} log --last 20")
    if show.screen.failed:
        show.screen.warn(f"{len(show.screen.failed)} things did not come out as they should:")
        for text in show.screen.failed:
            show.screen.warn(f"- {text}")
        return 1
    show.screen.expect("everything came out as it should", holds=True)
    return 0
