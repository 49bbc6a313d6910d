"""When the ledger first recorded a release's signatures (docs/spec/trust-policy.md, What is decided).

The projection says where to look, the log's own entries decide: what the projection forgot counts as not recorded, and what it
invents is not there.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, NamedTuple

from stele.ledger.index import Index
from stele.ledger.reader import LedgerReader
from stele.model.event import HOST_WORKLOAD
from stele.model.selection import Selection
from stele.model.signing import KEY_KINDS, RECORDING_KINDS, ROOT_KIND, root_document, signed_keys
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from stele.model.event import Entry


class Recorded(NamedTuple):
    """By key id the index of the first entry that records a signature; the size of the ledger; the ledger's name."""

    indexes: dict[str, int]
    size: int
    origin: str


def open_reader(folder: Path) -> LedgerReader | None:
    """The published ledger, None if nothing was published yet."""
    try:
        return LedgerReader(folder)
    except SteleError as error:
        if error.code != "ledger.none":
            raise
        return None


def signatures(folder: Path, workload: str, release: str, first_key: str) -> Recorded:
    """Indexes of a release's signatures. `first_key`: whom entries without `keys` stand for.

    Raises:
        SteleError: `ledger.damaged`, `trust.*`: an entry cannot be read.
    """
    reader = open_reader(folder)
    if reader is None:
        return Recorded({}, 0, "")
    found: dict[str, int] = {}
    for index, entry in _entries(folder, reader, workload, RECORDING_KINDS):
        for key in signed_keys(entry.event, workload, release, first_key):
            found.setdefault(key, index)
    return Recorded(found, reader.size, reader.checkpoint.origin)


def key_changes(folder: Path) -> list[tuple[int, dict[str, Any], str]]:
    """Index, data and kind of every recorded change of keys, oldest first."""
    reader = open_reader(folder)
    if reader is None:
        return []
    found = _entries(folder, reader, HOST_WORKLOAD, KEY_KINDS)
    return [(index, entry.event.data, entry.event.kind) for index, entry in found]


def documents(folder: Path, *, whole: bool = False) -> list[tuple[int, bytes]]:
    """Index and text of every root document that the published ledger holds, oldest first (docs/spec/root.md).

    `whole`: look at every entry, as a verifier of a folder that others made must.
    """
    reader = open_reader(folder)
    if reader is None:
        return []
    found = _entries(folder, reader, HOST_WORKLOAD, (ROOT_KIND,), whole=whole)
    return [(index, document) for index, entry in found if (document := root_document(entry.event)) is not None]


def _entries(
    folder: Path, reader: LedgerReader, workload: str, kinds: Sequence[str], *, whole: bool = False
) -> Iterator[tuple[int, Entry]]:
    """Entries of these kinds, in order; from the projection as far as it goes, then from the log itself, or `whole` from that."""
    known, applied = ([], 0) if whole else _projected(folder / "projection.sqlite", workload, kinds, reader.size)
    for index in known:
        for _, entry in reader.entries_between(index, index + 1):
            if entry.event.kind in kinds and entry.event.workload == workload:
                yield index, entry
    for index, entry in reader.entries_between(applied, reader.size):
        if entry.event.kind in kinds and entry.event.workload == workload:
            yield index, entry


def _projected(path: Path, workload: str, kinds: Sequence[str], size: int) -> tuple[list[int], int]:
    index = Index.open(path)
    if index is None:
        return [], 0
    with index:
        applied = min(index.applied, size)
        try:
            found = index.find(Selection(workloads=(workload,), kinds=frozenset(kinds)), 0, applied)
            return sorted(int(each) for each in found), applied
        except (sqlite3.Error, TypeError, ValueError):
            return [], 0  # it is only a cache: the log has everything
