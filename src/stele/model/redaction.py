"""Redactions: which private fields of which entries are erased, as the ledger has it. Pure (docs/spec/sealed.md)."""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

import msgspec

from stele.model.event import FIELD_NAME
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from stele.model.event import Entry, Event

Targets = dict[int, tuple[str, ...]]  # index of an entry -> its fields, sorted
MAX_INDEXES = 2000  # of one entry: 20 bytes each at most, so that it fits


def erased(event: Event) -> Targets:
    """What a `log.redacted` event erases.

    Raises:
        SteleError: `ledger.bad-entry`: it is not of the shape of the spec.
    """
    groups = event.data.get("erased")
    found: Targets = {}
    if set(event.data) != {"erased"} or not isinstance(groups, list) or not groups:
        raise malformed()
    for group in groups:
        if not isinstance(group, dict) or set(group) != {"entries", "fields"}:
            raise malformed()
        entries, fields = group["entries"], group["fields"]
        if not _ascending(entries, int) or not _ascending(fields, str) or not all(map(FIELD_NAME.fullmatch, fields)):
            raise malformed()
        if entries[0] < 0 or not found.keys().isdisjoint(entries):
            raise malformed()
        found |= dict.fromkeys(entries, tuple(fields))
    return found


def _ascending(items: Any, kind: type) -> bool:
    if not isinstance(items, list) or not items or not all(type(item) is kind for item in items):
        return False
    return all(one < other for one, other in pairwise(items))


def malformed() -> SteleError:
    """The error for a redaction of another shape, or of what is not there."""
    return SteleError(
        "a redaction is malformed", remedy="the ledger or proof is damaged; compare with another copy", code="ledger.bad-entry"
    )


def data_of(targets: Targets) -> Iterator[dict[str, Any]]:
    """The `data` of as many `log.redacted` entries as targets (of one workload) need."""
    indexes = sorted(targets)
    for begin in range(0, len(indexes), MAX_INDEXES):
        part = sorted(indexes[begin : begin + MAX_INDEXES], key=lambda index: (targets[index], index))
        groups = [(fields, list(group)) for fields, group in groupby(part, key=lambda index: targets[index])]
        yield {"erased": [{"entries": group, "fields": list(fields)} for fields, group in groups]}


class Redacted:
    """What was redacted by some entries, taken in order: `by[index][field]` is the index of the entry that says so."""

    def __init__(self) -> None:
        self.by: dict[int, dict[str, int]] = {}

    def take(self, index: int, entry: Entry) -> None:
        """Take in one entry of any kind; a redaction that is malformed, or of what comes later, erases nothing."""
        if entry.event.kind != "log.redacted":
            return
        try:
            targets = erased(entry.event)
        except SteleError:
            return
        for target, fields in targets.items():
            if target < index:
                for field in fields:
                    self.by.setdefault(target, {}).setdefault(field, index)


class Selection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to redact: entries by their index, or all of a workload, a kind (or the beginning of one), an incident.

    `fields`: only these; none means all private ones.
    """

    indexes: frozenset[int] = frozenset()
    workload: str | None = None
    kind: str = ""
    incident: str = ""
    fields: tuple[str, ...] = ()

    def takes(self, index: int, entry: Entry) -> bool:
        """Whether it means this entry."""
        event = entry.event
        if self.indexes and index not in self.indexes:
            return False
        if self.workload is not None and event.workload != self.workload:
            return False
        if self.kind and event.kind != self.kind and not event.kind.startswith(self.kind.rstrip(".") + "."):
            return False
        return not self.incident or event.data.get("incident") == self.incident


def choose(entries: Iterable[tuple[int, Entry]], selection: Selection, size: int, before: Mapping[int, Mapping[str, int]]) -> Targets:
    """What of a ledger a selection erases.

    Args:
        entries: all that it may mean, with their index.
        selection: must narrow down.
        size: of the ledger.
        before: what was redacted already, and where that is recorded.

    Raises:
        SteleError: `redact.no-such-entry`, `redact.not-private`, `redact.nothing`, `redact.too-much`.
    """
    if not selection.indexes and selection.workload is None and not selection.kind and not selection.incident:
        raise SteleError(
            "this would redact the whole ledger", remedy="say which: by --entry, --workload, --kind or --incident", code="redact.too-much"
        )
    for index in sorted(selection.indexes):
        if not 0 <= index < size:
            raise SteleError(
                f"there is no entry {index}: the published ledger has {size}",
                remedy="`stele log` shows the index of every entry",
                code="redact.no-such-entry",
            )
    found: Targets = {}
    gone: list[str] = []
    for index, entry in entries:
        if not selection.takes(index, entry):
            continue
        wanted = set(selection.fields or entry.sealed)
        if index in selection.indexes:
            _must_be_private(index, entry, wanted)
        there = wanted & set(entry.sealed)
        left = tuple(sorted(there - set(before.get(index, ()))))
        gone += [f"{field} of entry {index} by entry {before[index][field]}" for field in sorted(there - set(left))]
        if left:
            found[index] = left
    if not found:
        raise SteleError(
            "there is nothing to erase: " + (f"already redacted: {'; '.join(gone[:5])}" if gone else "no entry has such a private field"),
            remedy="`stele log --json` shows which fields are private, and which of them are sealed",
            code="redact.nothing",
        )
    return found


def _must_be_private(index: int, entry: Entry, wanted: set[str]) -> None:
    for field in sorted(wanted - set(entry.sealed)):
        clear = field in entry.event.data
        why = "is in the log in clear, where nothing can be erased" if clear else "is not in it"
        raise SteleError(
            f"{field} of entry {index} cannot be redacted: it {why}",
            remedy=f"its private fields are: {', '.join(sorted(entry.sealed)) or 'none'}",
            code="redact.not-private",
        )
