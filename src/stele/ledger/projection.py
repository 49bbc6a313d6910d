"""The SQLite projection: a cache for reading, rebuilt from the ledger at will, never proof of anything."""

from __future__ import annotations

import json
import sqlite3
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from stele.model.event import Entry

SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
  idx INTEGER PRIMARY KEY, workload TEXT NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL,
  time_ns INTEGER NOT NULL, actor TEXT NOT NULL, data TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_workload ON entries (workload, seq);
CREATE TABLE IF NOT EXISTS applied (one INTEGER PRIMARY KEY CHECK (one = 1), size INTEGER NOT NULL);
INSERT OR IGNORE INTO applied VALUES (1, 0);
"""


class Projection:
    """An open projection. If the file cannot be used it is deleted and begun anew."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._open(path)
        except sqlite3.DatabaseError:
            remove(path)
            self._open(path)

    def _open(self, path: Path) -> None:
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;" + SCHEMA)
        self.applied: int = self._db.execute("SELECT size FROM applied").fetchone()[0]

    def catch_up(self, entries: Iterable[tuple[int, Entry]]) -> None:
        """Apply entries at or above `applied`, and the new size, in one transaction."""
        with self._lock:
            rows = [
                (index, e.event.workload, e.seq, e.event.kind, e.event.time_ns, e.event.actor, json.dumps(e.event.data))
                for index, e in entries
                if index >= self.applied
            ]
            if not rows:
                return
            self._db.execute("BEGIN")
            self._db.executemany("INSERT OR REPLACE INTO entries VALUES (?,?,?,?,?,?,?)", rows)
            self._db.execute("UPDATE applied SET size = ?", (rows[-1][0] + 1,))
            self._db.execute("COMMIT")
            self.applied = rows[-1][0] + 1

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()


def remove(path: Path) -> None:
    """Delete a projection and its side files."""
    for name in (path.name, path.name + "-wal", path.name + "-shm"):
        path.with_name(name).unlink(missing_ok=True)
