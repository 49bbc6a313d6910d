"""When the ledger first recorded a release's signatures (docs/spec/trust-policy.md, What is decided).

The projection says where to look, the log's own entries decide: what the projection forgot counts as not recorded, and what it
invents is not there.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

import msgspec

from stele.ledger import regular
from stele.ledger.index import Index
from stele.ledger.reader import LedgerReader
from stele.model.event import HOST_WORKLOAD
from stele.model.selection import Selection
from stele.model.signing import KEY_KINDS, RECORDING_KINDS, ROOT_KIND, root_document, signed_keys
from stele.trust import note
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from stele.model.event import Entry


MOST_KNOWN = 4  # folders
_Seen = tuple[object, ...]


class Recorded(msgspec.Struct, frozen=True):
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
    return [(index, entry.event.data, entry.event.kind) for index, entry in _known.of(folder) if entry.event.kind in KEY_KINDS]


def documents(folder: Path, *, whole: bool = False) -> list[tuple[int, bytes]]:
    """Index and text of every root document that the published ledger holds, oldest first (docs/spec/root.md).

    `whole`: look at every entry, as a verifier of a folder that others made must.
    """
    if whole:
        reader = open_reader(folder)
        found = tuple(_entries(folder, reader, HOST_WORKLOAD, (ROOT_KIND,), whole=True)) if reader else ()
    else:
        found = tuple(each for each in _known.of(folder) if each[1].event.kind == ROOT_KIND)
    return [(index, document) for index, entry in found if (document := root_document(entry.event)) is not None]


class _Known:
    """What ledgers say of keys and roots of trust. Each command asks several times, and asks again, because a revocation counts at once.

    What was found is good for the very checkpoint that it was found under, and the very projection, which may be made anew.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[_Seen, tuple[tuple[int, Entry], ...]]] = {}

    def of(self, folder: Path) -> tuple[tuple[int, Entry], ...]:
        """Index and entry of every change of keys and every root document, oldest first."""
        seen = _seen(folder)  # before it is read: what changes meanwhile is found to have changed
        try:
            signed = regular.read(folder / "checkpoint", note.MAX_NOTE)
        except FileNotFoundError:
            return ()
        name = os.path.abspath(folder)
        with self._lock:
            known = self._kept.get(name)
        if known is not None and known[0] == (signed, *seen):
            return known[1]
        reader = open_reader(folder)
        if reader is None:
            return ()
        found = tuple(_entries(folder, reader, HOST_WORKLOAD, (*KEY_KINDS, ROOT_KIND)))
        with self._lock:
            if name not in self._kept and len(self._kept) >= MOST_KNOWN:
                self._kept.clear()
            self._kept[name] = (reader.note, *seen), found
        return found


_known = _Known()


def _seen(folder: Path) -> tuple[tuple[int, ...], ...]:
    """What tells one ledger folder from another, and one state of its projection: the file, and the journal of what is not in that yet."""
    found: list[tuple[int, ...]] = []
    for name in ("", "projection.sqlite", "projection.sqlite-wal"):
        try:
            info = os.stat(f"{folder}/{name}", follow_symlinks=False)
        except OSError:
            found.append(())
            continue
        file = info.st_size, info.st_mtime_ns
        # a journal that is empty was made by reading
        found.append((info.st_dev, info.st_ino, *(file if name else ())) if info.st_size or not name else ())
    return tuple(found)


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
