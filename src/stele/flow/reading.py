"""Reading the ledger without the agent: events, incidents, checks, and rebuilding the projection."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stele.flow import custody, log_view, opening, rooted
from stele.flow.record import Recorder
from stele.ledger import mapfile, projection, recorded
from stele.ledger.openings import Openings
from stele.ledger.reader import LedgerReader
from stele.model import private
from stele.model.selection import GROUPS, Selection
from stele.trust import trust_keys
from stele.trust.root import Root

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stele.flow.places import Places
    from stele.model.event import Entry


_INCIDENT_KINDS = frozenset({*GROUPS["incidents"], "evidence.accessed"})


def entries(places: Places) -> Iterator[tuple[int, Entry]]:
    """Every published entry, with its private fields as far as they can be opened; none if nothing was published yet."""
    reader = recorded.open_reader(places.ledger)
    if reader is None:
        return
    kept = Openings(places.ledger)
    for index, entry in reader.entries():
        yield index, kept.open(index, entry)


def incidents(places: Places) -> list[dict[str, Any]]:
    """One record per incident, oldest first; found by the projection, where there is one."""
    if not places.ledger.joinpath("checkpoint").exists():
        return []
    with log_view.open_view(places) as view:
        return fold_incidents(view.entries(Selection(kinds=_INCIDENT_KINDS)))


def check(places: Places, ledger: str | None, trust: str | None) -> dict[str, Any]:
    """Check a whole ledger against trusted keys; `problems` is empty if everything fits."""
    keys = trust_keys.parse(Path(trust).read_bytes() if trust else places.trust.read_bytes())
    folder = Path(ledger) if ledger else places.ledger
    reader = LedgerReader(folder)
    believed = rooted.believed(keys, folder, whole=True)
    problems = reader.check(believed) + (rooted.problems(folder, believed) if isinstance(believed, Root) else [])
    if not problems:  # what is not whole has no redactions to speak of
        problems = custody.audit(folder, reader) + projection.problems(folder / "projection.sqlite", reader.raw_entries(0, reader.size))
    return {"problems": problems, "size": reader.size, "origin": reader.checkpoint.origin}


def rebuild(places: Places) -> int:
    """Delete the projection and the epoch maps and make them anew; returns how many entries there are.

    Raises:
        SteleError: `ledger.locked` while an agent runs (it keeps the projection up to date itself).
    """
    with contextlib.closing(opening.open_ledger(places)):
        pass  # holds the lock for a moment: while somebody else writes, the projection is theirs
    projection.remove(places.ledger / "projection.sqlite")
    mapfile.remove(places.ledger)
    with contextlib.closing(opening.open_ledger(places)) as ledger:
        ledger.project()
        return ledger.size


def record_access(places: Places, incident: str, how: str) -> None:
    """Record an access to evidence where no agent runs."""
    with contextlib.closing(opening.open_ledger(places)) as ledger:
        record = Recorder.of_caller(ledger.append)
        record(incident.rpartition("-")[0], "evidence.accessed", incident=incident, how=how[:200])


def fold_incidents(entries: Iterable[tuple[int, Entry]]) -> list[dict[str, Any]]:
    """One plain record per incident, oldest first, from a workload's or the whole ledger's entries. Pure."""
    found: dict[str, dict[str, Any]] = {}
    for _, entry in entries:
        event, data = entry.event, entry.event.facts()
        incident = data.get("incident")
        if not isinstance(incident, str) or not incident:
            continue
        record = found.setdefault(
            incident,
            {
                "incident": incident, "workload": event.workload, "time_ns": event.time_ns, "kind": "", "syscall": "", "path": "",
                "instance": "", "release": "", "pid": 0, "comm": "", "argv": [], "freeze_ns": 0, "replace_ns": 0, "in_flight": 0,
                "outcome": "", "state": "", "evidence": "", "accessed": 0, "sealed": [],
            },
        )  # fmt: skip
        if event.kind == "violation":
            record.update(
                {key: data.get(key, record[key]) for key in ("kind", "syscall", "path", "instance", "release", "pid", "comm", "argv")}
            )
            record["time_ns"], record["sealed"] = event.time_ns, private.closed(entry)
        elif event.kind == "instance.frozen":
            record["freeze_ns"], record["state"] = int(data.get("took_ns", 0)), "frozen, collecting"
            record["frozen_at_ns"] = event.time_ns
        elif event.kind == "network.cut":
            record["in_flight"] = int(data.get("in_flight", 0))
        elif event.kind == "incident.resolved":
            record["replace_ns"] = event.time_ns - int(record["time_ns"])
            record["outcome"] = f"replaced by {data.get('instance', '')}"
        elif event.kind == "incident.unresolved":
            record["outcome"] = f"not replaced: {data.get('reason', private.CLOSED)}"
        elif event.kind == "evidence.sealed":
            record["evidence"], record["state"] = str(data.get("root", "")), "frozen, evidence sealed"
        elif event.kind == "evidence.accessed":
            record["accessed"] += 1
        elif event.kind == "quarantine.released":
            record["state"] = "released, evidence kept"
    return [record for record in found.values() if record["instance"]]
