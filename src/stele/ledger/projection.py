"""The SQLite projection: a cache for reading, rebuilt from the ledger at will, never proof of anything."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from stele.model.event import Entry

log = logging.getLogger(__name__)
SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
  idx INTEGER PRIMARY KEY, workload TEXT NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL,
  time_ns INTEGER NOT NULL, actor TEXT NOT NULL, data TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_workload ON entries (workload, seq);
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
                self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;" + SCHEMA)
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
