"""What must be kept and what must go: legal holds, and redactions that refuse under one. Every decision is an entry first."""

from __future__ import annotations

import contextlib
import secrets
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from stele.flow import opening
from stele.flow.record import Recorder
from stele.host import medium
from stele.ledger import recorded
from stele.ledger.openings import Openings
from stele.ledger.reader import LedgerReader
from stele.model import hold, private, redaction
from stele.model.event import HOST_WORKLOAD, decode_entry
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from stele.flow.places import Places
    from stele.model.event import Entry
    from stele.model.hold import Hold, On
    from stele.model.redaction import Selection, Targets

NOTHING_PRIVATE = b'","sealed":{},"seq":'  # in the one spelling of canonical JSON
MARKS = (b'"kind":"hold.', b'"kind":"log.redacted"')  # the one spelling of canonical JSON; anything else in it that looks so is no harm


class Register(NamedTuple):
    """What the published ledger says of holds and redactions."""

    standing: hold.Standing
    redacted: redaction.Redacted


class Plan(NamedTuple):
    """What a redaction would erase, and which holds are on it. `entries`: those entries, by index."""

    targets: Targets
    entries: dict[int, Entry]
    holds: dict[int, tuple[Hold, ...]]

    def plain(self) -> dict[str, Any]:
        """As plain data, without any private value."""
        return {
            "entries": [
                {
                    "index": index, "time_ns": entry.event.time_ns, "workload": entry.event.workload, "kind": entry.event.kind,
                    "fields": list(self.targets[index]), "holds": [item.id for item in self.holds.get(index, ())],
                }
                for index, entry in sorted(self.entries.items())
            ],
            "fields": sum(map(len, self.targets.values())),
        }  # fmt: skip


def register(places: Places, *, opened: bool = False) -> Register:
    """Read the whole published ledger for holds and redactions: nothing else says what stands. `opened`: with reasons and persons."""
    found = Register(hold.Standing(), redaction.Redacted())
    reader = recorded.open_reader(places.ledger)
    if reader is not None:
        kept = Openings(places.ledger)
        for index, raw in enumerate(reader.raw_entries(0, reader.size)):
            if any(mark in raw for mark in MARKS):
                entry = decode_entry(raw)
                entry = kept.open(index, entry) if opened else entry
                found.standing.take(index, entry)
                found.redacted.take(index, entry)
    return found


def plan(places: Places, selection: Selection) -> Plan:
    """What a selection means, and what forbids it. Changes nothing.

    Raises:
        SteleError: `redact.*`.
    """
    known, reader = register(places), recorded.open_reader(places.ledger)
    coverage = hold.Coverage(known.standing.holds.values())
    holds: dict[int, tuple[Hold, ...]] = {}
    entries: dict[int, Entry] = {}

    def meant() -> Iterator[tuple[int, Entry]]:
        for index, entry in _all(reader, None if known.standing.holds or not selection.indexes else selection.indexes):
            held = coverage.take(index, entry)
            if selection.takes(index, entry):
                if entry.sealed:
                    entries[index] = entry
                    if held:
                        holds[index] = held
                yield index, entry

    targets = redaction.choose(meant(), selection, reader.size if reader else 0, known.redacted.by)
    chosen = {index: entries[index] for index in targets}
    return Plan(targets, chosen, {index: found for index, found in holds.items() if index in targets})


def _all(reader: LedgerReader | None, indexes: Iterable[int] | None) -> Iterator[tuple[int, Entry]]:
    """All entries, or those of the given indexes, in order."""
    if reader is None:
        return
    if indexes is None:
        yield from reader.entries()
        return
    for index in sorted(indexes):
        if 0 <= index < reader.size:
            for raw in reader.raw_entries(index, index + 1):
                yield index, decode_entry(raw)


def listing(places: Places, *, ended: bool) -> list[dict[str, Any]]:
    """Every hold that stands, or with `ended` every one that ever was, the oldest first."""
    standing = register(places, opened=True).standing
    rows = [_plain(item) for item in standing.holds.values()]
    if ended:
        for item, index, entry in standing.ended.values():
            private = entry.event.private
            end = {"index": index, "time_ns": entry.event.time_ns, "reason": private.get("reason", ""), "person": private.get("person", "")}
            rows.append({**_plain(item), "released": end})
    return sorted(rows, key=lambda row: row["index"])


def _plain(item: Hold) -> dict[str, Any]:
    return {
        "hold": item.id, "on": item.on.plain(), "index": item.placed_at, "time_ns": item.time_ns,
        "reason": item.reason, "person": item.person, "released": None,
    }  # fmt: skip


class Custody:
    """Holds and redactions of a ledger that is open for writing. Thread-safe.

    `erasing`: whether the ledger has yet to erase what its entries say. `redacted` hears of every redaction that is recorded: index,
    entry as it was, fields.
    """

    def __init__(
        self,
        places: Places,
        record: Recorder,
        publish: Callable[[], int],
        erasing: Callable[[], bool],
        redacted: Callable[[int, Entry, tuple[str, ...]], None] = lambda index, entry, fields: None,
    ) -> None:
        self._places, self._record, self._publish, self._erasing, self._redacted = places, record, publish, erasing, redacted
        self._lock = threading.Lock()  # so that no hold comes between looking for holds and recording what they would forbid

    def place(self, on: On, reason: str, person: str) -> dict[str, Any]:
        """Place a hold; returns its id and where the record stands.

        Raises:
            SteleError: `ledger.*`.
        """
        with self._lock:
            self._publish()
            standing = register(self._places).standing
            name = f"hold-{secrets.token_hex(3)}"
            while name in standing.holds or name in standing.ended:
                name = f"hold-{secrets.token_hex(3)}"
            self._record.by(person)(HOST_WORKLOAD, "hold.placed", hold=name, on=on.plain(), reason=reason)
            self._publish()
        return {"hold": name, "on": on.plain()}

    def release(self, name: str, reason: str, person: str) -> dict[str, Any]:
        """End a hold. What it forbade may be done from now on; that it stood, and who ended it, stays.

        Raises:
            SteleError: `hold.unknown`, `ledger.*`.
        """
        with self._lock:
            self._publish()
            found = register(self._places).standing.holds.get(name)
            if found is None:
                raise SteleError(f"no hold {name!r} stands", remedy="`stele hold list` shows those that do", code="hold.unknown")
            self._record.by(person)(HOST_WORKLOAD, "hold.released", hold=name, reason=reason)
            self._publish()
        return {"hold": name, "on": found.on.plain()}

    def held(self, names: Iterable[str]) -> dict[str, tuple[Hold, ...]]:
        """Those of some incidents and releases that must be kept, with the holds that say so.

        Raises:
            SteleError: `ledger.*`: what cannot be asked is not destroyed.
        """
        self._publish()
        holds = register(self._places).standing.holds
        if not holds:
            return {}
        coverage = hold.Coverage(holds.values())
        for index, entry in _all(recorded.open_reader(self._places.ledger), None):
            coverage.take(index, entry)
        return {name: found for name in names if (found := coverage.keeping(name))}

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """No hold is placed or ended meanwhile: for looking for holds and recording what they would forbid."""
        with self._lock:
            yield

    def keep(self, what: str, *names: str) -> None:
        """Refuse to destroy what incidents or releases of these names are about, if a hold is on one. Call it `undisturbed`.

        Raises:
            SteleError: `hold.forbids`.
        """
        found = self.held(names)
        hold.forbid(what, (item for holds in found.values() for item in holds))

    def redact(self, selection: Selection, reason: str, person: str) -> dict[str, Any]:
        """Erase private fields of entries: record it, then erase them wherever the ledger has them.

        Raises:
            SteleError: `redact.*`, `hold.forbids`, `ledger.*`; only after `redact.unfinished` something may have changed.
        """
        with self._lock:
            self._publish()
            found = plan(self._places, selection)
            hold.forbid("what this would erase", (item for holds in found.holds.values() for item in holds))
            record = self._record.by(person)
            groups: dict[str, Targets] = {}
            for index, fields in found.targets.items():
                groups.setdefault(found.entries[index].event.workload, {})[index] = fields
            events = [
                record.event(workload, "log.redacted", reason=reason, **data)
                for workload, targets in sorted(groups.items())
                for data in redaction.data_of(targets)
            ]
            record.commit(*events)
            try:
                size = self._publish()  # the ledger erases what its entries say, once a checkpoint covers them
            except SteleError as error:
                raise unfinished(f"nothing can be published: {error.reason}", error.remedy) from error
        for index, entry in found.entries.items():
            self._redacted(index, entry, found.targets[index])
        left = kept_still(self._places, found)
        if left:
            raise unfinished(f"{len(left)} fields can still be opened", "mend the disk, then start the agent again or run this again")
        if self._erasing():
            raise unfinished("the write-ahead log still has the bytes", "free space or mend the disk")
        return {**found.plain(), "recorded": len(events), "size": size, "not_guaranteed": not_guaranteed(self._places)}


def unfinished(why: str, remedy: str) -> SteleError:
    """The error for a redaction that is recorded, but not carried out yet."""
    return SteleError(
        f"the redaction is recorded, but not finished: {why}",
        remedy=f"{remedy}; the ledger goes on with it by itself",
        code="redact.unfinished",
    )


def audit(folder: Path, reader: LedgerReader) -> list[str]:
    """What of a ledger's redactions is not as it should be: under a hold, of another workload's entries, not finished here, or unsaid."""
    problems: list[str] = []
    standing, redacted = hold.Standing(), redaction.Redacted()
    kept, lost = Openings(folder), dict[int, list[str]]()
    are_here = kept.can_be_read
    for index, raw in enumerate(reader.raw_entries(0, reader.size)):
        has_private = are_here and NOTHING_PRIVATE not in raw
        if not has_private and not any(mark in raw for mark in MARKS):
            continue
        entry = decode_entry(raw)
        standing.take(index, entry)
        redacted.take(index, entry)
        if has_private and (closed := private.closed(kept.open(index, entry))):
            lost[index] = closed
        if entry.event.kind == "log.redacted":
            problems += _judge(reader, kept, index, entry, tuple(standing.holds.values()))
    if lost:  # one that was recorded since erases what an earlier checkpoint covers, too
        for index, entry in LedgerReader(folder).entries_between(reader.size, LedgerReader(folder).size):
            redacted.take(index, entry)
    unsaid = [index for index, fields in lost.items() if not redacted.by.get(index, {}).keys() >= {*fields}]
    if unsaid:
        problems.append(f"private values of entries {unsaid[:20]} cannot be opened, and no redaction says so: they were damaged or removed")
    return problems


def _judge(reader: LedgerReader, kept: Openings, at: int, entry: Entry, holds: tuple[Hold, ...]) -> list[str]:
    problems = []
    try:
        targets = redaction.erased(entry.event)
    except SteleError as error:
        return [f"entry {at}: {error.reason}"]
    coverage = hold.Coverage(holds)
    for index, target in _all(reader, None if any(item.on.release for item in holds) else targets):
        held = coverage.take(index, target)
        if index >= at:
            break
        if index not in targets:
            continue
        problems += [f"entry {at} redacts entry {index}, on which {item.id} stood" for item in held]
        if target.event.workload != entry.event.workload:
            problems.append(f"entry {at} redacts entry {index} of another workload")
        for field in targets[index]:
            if field not in target.sealed:
                problems.append(f"entry {at} redacts {field} of entry {index}, which has no such private field")
            elif field in kept.of(index, target):
                problems.append(f"{field} of entry {index} can still be opened, though entry {at} redacts it")
    if any(index >= at for index in targets):
        problems.append(f"entry {at} redacts entries after it")
    return problems


def kept_still(places: Places, found: Plan) -> list[tuple[int, str]]:
    """What of a plan can still be opened."""
    kept = Openings(places.ledger)
    left = []
    for index, fields in sorted(found.targets.items()):
        there = kept.of(index, found.entries[index])
        left += [(index, field) for field in fields if field in there]
    return left


def not_guaranteed(places: Places) -> list[str]:
    """What erasing cannot promise on this host, in plain words."""
    said = []
    found = medium.of(places.ledger)
    if found.keeps_old:
        said.append(f"the file system ({found.filesystem}) writes elsewhere what is overwritten: old blocks stay until it reuses them")
    elif found.filesystem:
        said.append(f"the file system ({found.filesystem}) was told to overwrite in place; below it, nobody can look")
    if found.flash is not False:
        said.append("flash storage keeps old blocks until it erases them by itself; only encrypting or destroying the device is sure")
    return [
        *said,
        "snapshots, backups and other copies of the data folder still have what was erased here",
        "evidence bundles, logs of the agent and of instances, and proofs that carry openings are not touched",
    ]


@contextlib.contextmanager
def alone(places: Places) -> Iterator[Custody]:
    """Custody of a ledger that no agent holds.

    Raises:
        SteleError: `ledger.locked`: ask the agent.
    """
    with contextlib.closing(opening.open_ledger(places)) as ledger:
        yield Custody(places, Recorder.of_caller(ledger.append), ledger.publish, lambda: ledger.erasing)
