"""The SQLite projection: a cache for reading, rebuilt from the ledger at will, never proof of anything."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
import zlib
from itertools import groupby
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from stele.model.event import Entry

log = logging.getLogger(__name__)
VERSION = 2  # another one is deleted and made anew
BLOCK = 256
SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
  idx INTEGER PRIMARY KEY, workload TEXT NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL,
  time_ns INTEGER NOT NULL, actor TEXT NOT NULL, data TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_workload ON entries (workload, seq);
CREATE TABLE IF NOT EXISTS blocks (
  block INTEGER PRIMARY KEY, first_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL, kinds INTEGER NOT NULL, actors INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS applied (one INTEGER PRIMARY KEY CHECK (one = 1), size INTEGER NOT NULL);
INSERT OR IGNORE INTO applied VALUES (1, 0);
"""


class Projection:
    """An open projection of a log of `size` entries. If the file cannot be used it is deleted and begun anew.

    It never stands in the way of the ledger: what fails is logged, and the projection is given up until the next opening.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._lock = threading.Lock()
        self._path = path
        self._db: sqlite3.Connection | None = None
        self.applied = 0
        for attempt in (1, 2):
            try:
                self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
                if _is_of_another_version(self._db):
                    raise sqlite3.DatabaseError("it is of another version")
                self._db.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA user_version={VERSION};{SCHEMA}")
                self.applied = int(self._db.execute("SELECT size FROM applied").fetchone()[0])
                if self.applied > size:
                    raise sqlite3.DatabaseError("it is of a longer ledger")
            except (sqlite3.Error, OSError, TypeError, ValueError) as error:
                self._give_up(error)
                if attempt == 1:
                    with contextlib.suppress(OSError):
                        remove(path)
                continue
            break

    @property
    def usable(self) -> bool:
        """Whether entries can be applied."""
        return self._db is not None

    def _give_up(self, error: Exception) -> None:
        log.warning("the projection %s cannot be used: %s", self._path.name, error)
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
        self._db, self.applied = None, 0

    def catch_up(self, entries: Iterable[tuple[int, Entry]]) -> None:
        """Apply entries at or above `applied`, which must follow it without a hole, and the new size, in one transaction."""
        with self._lock:
            if self._db is None:
                return
            try:
                rows = [_row(index, entry) for index, entry in entries if index >= self.applied]
                if not rows:
                    return
                size = self.applied + len(rows)
                with self._db:
                    self._db.execute("BEGIN")
                    self._db.executemany("INSERT OR REPLACE INTO entries VALUES (?,?,?,?,?,?,?)", rows)
                    self._db.executemany(_BLOCK, _blocks(rows))
                    self._db.execute("UPDATE applied SET size = ?", (size,))
                self.applied = size
            except (sqlite3.Error, OSError, ValueError) as error:
                self._give_up(error)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None


_BLOCK = """INSERT INTO blocks VALUES (?,?,?,?,?) ON CONFLICT (block) DO UPDATE SET first_ns = min(first_ns, excluded.first_ns),
  last_ns = max(last_ns, excluded.last_ns), kinds = kinds | excluded.kinds, actors = actors | excluded.actors"""


def bit(text: str) -> int:
    """The bit that stands for a kind or an actor in a block's mask; several may share one."""
    return 1 << zlib.crc32(text.encode("utf-8", "replace")) % 62


def _blocks(rows: list[tuple[int, str, int, str, int, str, str]]) -> Iterable[tuple[int, int, int, int, int]]:
    """What is true of each 256 entries: finding those of a time or a kind reads these, not the entries."""
    for block, group in groupby(rows, key=lambda row: row[0] // BLOCK):
        mine = list(group)
        times = [row[4] for row in mine]
        kinds = actors = 0
        for text in {row[3] for row in mine}:
            kinds |= bit(text)
        for text in {row[5] for row in mine}:
            actors |= bit(text)
        yield block, min(times), max(times), kinds, actors


def _is_of_another_version(db: sqlite3.Connection) -> bool:
    has_tables = db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None
    return has_tables and db.execute("PRAGMA user_version").fetchone()[0] != VERSION


def _row(index: int, entry: Entry) -> tuple[int, str, int, str, int, str, str]:
    event = entry.event
    texts = [text.encode("utf-8", "replace").decode() for text in (event.workload, event.kind, event.actor)]
    return index, texts[0], entry.seq, texts[1], event.time_ns, texts[2], json.dumps(event.data)


def places(path: Path, workload: str, count: int) -> list[int] | None:
    """Where the first `count` entries of a workload lie, as the projection has it; None if it does not know, or cannot be read."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as db:
            name = workload.encode("utf-8", "replace").decode()
            rows = db.execute("SELECT idx FROM entries WHERE workload = ? AND seq < ? ORDER BY seq", (name, count)).fetchall()
    except (sqlite3.Error, OSError):
        return None
    found = [row[0] for row in rows]
    return found if len(found) == count and found == sorted(found) else None


def remove(path: Path) -> None:
    """Delete a projection and its side files."""
    for name in (path.name, path.name + "-wal", path.name + "-shm"):
        path.with_name(name).unlink(missing_ok=True)
