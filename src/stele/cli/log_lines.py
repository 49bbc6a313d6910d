"""One line an entry: aligned and coloured on a terminal, separated by tabs where it is piped."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from stele.cli import render
from stele.flow import log_rows

if TYPE_CHECKING:
    from stele.model.event import Entry

COLUMNS = ("INDEX", "TIME (UTC)", "WORKLOAD", "EVENT", "ACTOR", "WHAT")
_BAD = ("violation", "incident.unresolved", "deploy.failed", "instance.failed", "instance.frozen", "watcher.lost", "evidence.failed")
_GOOD = ("instance.active", "deploy.confirmed", "incident.resolved", "release.sealed")
_TURN = ("rollback.decided", "deploy.started", "release.quarantined", "network.cut", "quarantine.released", "write.refused")


def style(kind: str) -> str:
    """The colour of a kind; never the only thing that tells it apart."""
    if kind in _BAD:
        return "bold red"
    if kind in _GOOD:
        return "green"
    return "yellow" if kind in _TURN else "default"


class Lines:
    """Writes entries to standard output."""

    def __init__(self) -> None:
        self._tty = sys.stdout.isatty()
        self._day = ""
        self._width = 8  # of the workload's column; grows
        self.count = 0
        if self._tty:
            self._out = render.Styled()

    def say(self, index: int, entry: Entry) -> None:
        """Write one."""
        event = entry.event
        when, what = render.when(event.time_ns), log_rows.gist(entry)
        self.count += 1
        if not self._tty:
            if self.count == 1:
                sys.stdout.write("\t".join(COLUMNS) + "\n")
            cells = (str(index), when, event.workload or "-", event.kind, log_rows.who(entry), what)
            sys.stdout.write("\t".join(render.printable(cell.replace("\t", " ").replace("\n", " ")) for cell in cells) + "\n")
            return
        day, _, moment = when.partition("T")
        if day != self._day:
            self._out.line((f"── {day} (UTC) ", "bold"))
            self._day = day
        name = event.workload or "host"
        self._width = min(24, max(self._width, len(name)))
        by = f" by {log_rows.who(entry)}" if event.actor not in {"agent", "ledger"} else ""
        self._out.line(
            (moment.rstrip("Z") + "  ", "dim"),
            (f"{name:<{self._width}}  ", "cyan" if event.workload else "dim"),
            (f"{event.kind:<19} ", style(event.kind)),
            (what, "default"),
            (by, "dim"),
            (f"  #{index}", "dim"),
        )
