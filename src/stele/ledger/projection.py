"""The SQLite projection: a cache for reading, rebuilt from the ledger at will, never proof of anything."""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import threading
import zlib
from typing import TYPE_CHECKING
from urllib.parse import quote

from stele.host import logs
from stele.ledger import regular
from stele.model.event import decode_entry
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from stele.model.event import Entry

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
# materialized: else each of the six makes the text of the entry anew
_ROWS = """WITH each (key, value) AS MATERIALIZED (SELECT key, value FROM json_each(?2))
  SELECT ?1 + key, value ->> 'workload', value ->> 'seq', value ->> 'kind', value ->> 'time_ns', value ->> 'actor', value ->> 'data'
  FROM each
"""
_FROM_JSON = f"INSERT OR REPLACE INTO entries {_ROWS}"
CHUNK = 16384  # entries a transaction: each writes a page of `by_workload` for every workload that it is about
CACHE_KIB = 16000
_NOT_READ = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


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
                if not is_safe(path):
                    raise sqlite3.DatabaseError("something else is in its place")
                self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
                self._db.executescript(f"PRAGMA synchronous=OFF; PRAGMA cache_size=-{CACHE_KIB};")
                if self._db.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                    if _is_of_another_version(self._db):
                        raise sqlite3.DatabaseError("it is of another version")
                    self._db.executescript(f"PRAGMA journal_mode=WAL;{SCHEMA}PRAGMA user_version={VERSION};")
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
        logs.of(__name__).warning("the projection %s cannot be used: %s", self._path.name, error)
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
        self._db, self.applied = None, 0

    def catch_up(self, raws: Iterable[bytes]) -> None:
        """Apply the entries from `applied` on. Each transaction moves the size along with its rows.

        If they cannot be read it is given up: what comes after them would get their numbers.

        Raises:
            SteleError: `ledger.damaged`, of reading them.
        """
        with self._lock:
            following = iter(raws)
            while self._db is not None:
                try:
                    chunk = list(itertools.islice(following, CHUNK))
                except (OSError, SteleError) as error:
                    self._give_up(error)
                    if isinstance(error, SteleError):
                        raise
                    return
                if not chunk:
                    return
                try:
                    self._apply(self._db, chunk)
                except (sqlite3.Error, OSError, ValueError, SteleError) as error:
                    self._give_up(error)

    def _apply(self, db: sqlite3.Connection, chunk: Sequence[bytes]) -> None:
        whole = b"[" + b",".join(chunk) + b"]"
        with db:
            db.execute("BEGIN")
            if _is_perhaps_no_text(whole):
                rows = [_row(index, decode_entry(raw)) for index, raw in enumerate(chunk, self.applied)]
                db.executemany("INSERT OR REPLACE INTO entries VALUES (?,?,?,?,?,?,?)", rows)
            else:
                # one statement, in which other threads run: a statement for each row would hold them up
                db.execute(_FROM_JSON, (self.applied, whole.decode("ascii")))
            size = self.applied + len(chunk)
            db.executemany(_BLOCK, _blocks(db, self.applied, size))
            db.execute("UPDATE applied SET size = ?", (size,))
        self.applied = size

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None


_BLOCK = """INSERT INTO blocks VALUES (?,?,?,?,?) ON CONFLICT (block) DO UPDATE SET first_ns = min(first_ns, excluded.first_ns),
  last_ns = max(last_ns, excluded.last_ns), kinds = kinds | excluded.kinds, actors = actors | excluded.actors"""


_SEEN = {
    "kind": "SELECT DISTINCT idx / ?, kind FROM entries WHERE idx >= ? AND idx < ?",
    "actor": "SELECT DISTINCT idx / ?, actor FROM entries WHERE idx >= ? AND idx < ?",
}
_TIMES = "SELECT idx / ? AS block, min(time_ns), max(time_ns) FROM entries WHERE idx >= ? AND idx < ? GROUP BY block"


def bit(text: str) -> int:
    """The bit that stands for a kind or an actor in a block's mask; several may share one."""
    return 1 << zlib.crc32(text.encode("utf-8", "replace")) % 62


def _blocks(db: sqlite3.Connection, begin: int, end: int) -> list[tuple[int, int, int, int, int]]:
    """What is true of each 256 entries: finding those of a time or a kind reads these, not the entries."""
    masks: dict[str, dict[int, int]] = {"kind": {}, "actor": {}}
    for column, found in masks.items():
        for block, text in db.execute(_SEEN[column], (BLOCK, begin, end)):
            found[block] = found.get(block, 0) | bit(text)
    times = db.execute(_TIMES, (BLOCK, begin, end)).fetchall()
    return [(block, first, last, masks["kind"][block], masks["actor"][block]) for block, first, last in times]


def _is_of_another_version(db: sqlite3.Connection) -> bool:
    has_tables = db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None
    return has_tables and db.execute("PRAGMA user_version").fetchone()[0] != VERSION


def _is_perhaps_no_text(raw: bytes) -> bool:
    """For SQLite."""
    return b"\\ud" in raw or b"\\u0000" in raw


def _row(index: int, entry: Entry) -> tuple[int, str, int, str, int, str, str]:
    event = entry.event
    texts = [text.encode("utf-8", "replace").decode() for text in (event.workload, event.kind, event.actor)]
    return index, texts[0], entry.seq, texts[1], event.time_ns, texts[2], json.dumps(event.data)


def places(path: Path, workload: str, begin: int, end: int) -> list[int] | None:
    """Where entries `begin` to `end` of a workload's chain lie, as the projection has it; None if it does not know or cannot be read."""
    if not is_safe(path):
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as db:
            name = workload.encode("utf-8", "replace").decode()
            asked = "SELECT idx FROM entries WHERE workload = ? AND seq >= ? AND seq < ? ORDER BY seq"
            rows = db.execute(asked, (name, begin, end)).fetchall()
    except (sqlite3.Error, OSError):
        return None
    found = [row[0] for row in rows]
    return found if len(found) == end - begin and found == sorted(found) else None


def problems(path: Path, raws: Iterable[bytes]) -> list[str]:
    """What of a projection would hide entries from who finds them by it, held against all entries in order. Nothing if there is none."""
    if not path.exists() or not is_safe(path):
        return []
    wrong: list[int] = []
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as db:
            db.execute("BEGIN")  # one state for all that is asked
            if _is_of_another_version(db):
                return []  # nobody uses it
            if db.execute("PRAGMA integrity_check(1)").fetchall() != [("ok",)]:
                raise sqlite3.DatabaseError("tables and indexes do not fit each other")
            ((applied,),) = db.execute("SELECT size FROM applied").fetchall()
            following = enumerate(itertools.islice(raws, applied))
            while chunk := list(itertools.islice(following, CHUNK)):
                wrong += _differing(db, chunk[0][0], [raw for _, raw in chunk])
    except (sqlite3.Error, TypeError, ValueError) as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NOT_READ:
            return []  # whoever asks reads without it, too
        return [f"the projection is damaged ({error}): `stele log rebuild` makes it anew"]
    return [f"by the projection `stele log` may not find entries {wrong[:20]}: `stele log rebuild` makes it anew"] if wrong else []


def _differing(db: sqlite3.Connection, begin: int, chunk: Sequence[bytes]) -> list[int]:
    """Which of these entries, from the index `begin` on, have another row, or none, or lie in a block that is passed over for them."""
    end = begin + len(chunk)
    found = {row[0]: row for row in db.execute("SELECT * FROM entries WHERE idx >= ? AND idx < ?", (begin, end))}
    plain = b",".join(b"{}" if _is_perhaps_no_text(raw) else raw for raw in chunk).decode("ascii")
    wrong = []
    for row, raw in zip(db.execute(_ROWS, (begin, f"[{plain}]")).fetchall(), chunk, strict=True):
        index = row[0]
        if found.get(index) != row and found.get(index) != _row(index, decode_entry(raw)):
            wrong.append(index)
    if wrong:
        return wrong
    for block, first, last, kinds, actors in _blocks(db, begin, end):
        known = db.execute("SELECT first_ns, last_ns, kinds & ?, actors & ? FROM blocks WHERE block = ?", (kinds, actors, block)).fetchone()
        if known is None or known[0] > first or known[1] < last or known[2:] != (kinds, actors):
            wrong += range(max(begin, block * BLOCK), min(end, (block + 1) * BLOCK))
    return wrong


def is_safe(path: Path) -> bool:
    """Whether SQLite may open it: no FIFO on which it would wait, nor a symlink, is in the place of it or of its side files."""
    return not any(regular.is_other(path.with_name(path.name + end)) for end in ("", "-wal", "-shm", "-journal"))


def remove(path: Path) -> None:
    """Delete a projection and its side files."""
    for name in (path.name, path.name + "-wal", path.name + "-shm", path.name + "-journal"):
        path.with_name(name).unlink(missing_ok=True)
