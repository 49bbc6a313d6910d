"""Where in the log the entries lie that somebody wants, by the projection: a hint that costs no proof, and no proof itself.

Whoever uses it reads the entries from the log and looks at them again. What is missing here is not shown; `stele log --no-index` reads all.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import sqlite3
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from stele.ledger.projection import BLOCK, VERSION, bit, is_safe
from stele.model.selection import glob_of, is_pattern, of_incident

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stele.model.selection import Selection

_MERGED = 64  # workloads whose chains are walked one by one


class Index:
    """A projection, for reading, as it is now. A context manager."""

    def __init__(self, db: sqlite3.Connection, applied: int) -> None:
        self._db, self.applied = db, applied

    @classmethod
    def open(cls, path: Path) -> Index | None:
        """Open a projection; None if there is none that can be used."""
        if not is_safe(path):
            return None
        try:
            db = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        except sqlite3.Error:
            return None
        try:
            db.execute("BEGIN")  # one state for all that is asked
            (version,), (applied,) = db.execute("PRAGMA user_version").fetchone(), db.execute("SELECT size FROM applied").fetchone()
        except (sqlite3.Error, TypeError):
            db.close()
            return None
        if version != VERSION or not isinstance(applied, int):
            db.close()
            return None
        return cls(db, applied)

    def find(self, selection: Selection, begin: int, end: int, *, newest_first: bool = False) -> Iterator[int]:
        """Indices of entries from `begin` to before `end` that may be wanted, in order. Reads no more than it yields needs.

        Raises:
            sqlite3.Error: the file is damaged.
        """
        blocks = self._blocks(selection, begin, end)
        if not blocks:
            return
        begin, end = max(begin, blocks[0] * BLOCK), min(end, (blocks[-1] + 1) * BLOCK)
        names = self._names(selection)
        if names is not None and len(names) <= _MERGED:
            chains = [self._chain(name, selection, begin, end, newest_first=newest_first) for name in names]
            yield from heapq.merge(*chains, reverse=newest_first)
            return
        for block in reversed(blocks) if newest_first else blocks:
            where, values = _where(selection)
            values = [max(begin, block * BLOCK), min(end, (block + 1) * BLOCK), *values]
            order = "DESC" if newest_first else "ASC"
            rows = self._db.execute(f"SELECT idx FROM entries WHERE idx >= ? AND idx < ?{where} ORDER BY idx {order}", values)  # noqa: S608
            yield from (row[0] for row in rows)

    def _blocks(self, selection: Selection, begin: int, end: int) -> list[int]:
        where, values = "", list[int | float]()
        if selection.kinds is not None:
            where, values = where + " AND kinds & ?", [*values, _mask(selection.kinds)]
        if selection.actors and not any(map(is_pattern, selection.actors)):
            where, values = where + " AND actors & ?", [*values, _mask(selection.actors)]
        found = self._db.execute(
            f"SELECT block FROM blocks WHERE block >= ? AND block <= ? AND last_ns >= ? AND first_ns < ?{where} ORDER BY block",  # noqa: S608
            [begin // BLOCK, (end - 1) // BLOCK, min(selection.since_ns, 2**63 - 1), min(selection.until_ns, 2**63 - 1), *values],
        )
        return [row[0] for row in found]

    def _names(self, selection: Selection) -> list[str] | None:
        """The workloads that are meant; None for all."""
        if selection.incident and not selection.workloads:
            return sorted(set(of_incident(selection.incident)))
        if not selection.workloads:
            return None
        names = {text for text in selection.workloads if not is_pattern(text)}
        for pattern in set(selection.workloads) - names:
            names |= {name for name in self.workloads() if fnmatchcase(name, glob_of(pattern))}
        return sorted(names)

    def workloads(self) -> Iterator[str]:
        """The names of all workloads, sorted; "" for the host. Costs their number, not that of the entries."""
        row = self._db.execute("SELECT min(workload) FROM entries").fetchone()
        while row[0] is not None:
            yield row[0]
            row = self._db.execute("SELECT min(workload) FROM entries WHERE workload > ?", (row[0],)).fetchone()

    def _chain(self, name: str, selection: Selection, begin: int, end: int, *, newest_first: bool) -> Iterator[int]:
        where, values = _where(selection, workloads=False)
        order = "DESC" if newest_first else "ASC"
        text = name.encode("utf-8", "replace").decode()
        rows = self._db.execute(
            f"SELECT idx FROM entries WHERE workload = ? AND idx >= ? AND idx < ?{where} ORDER BY seq {order}",  # noqa: S608
            [text, begin, end, *values],
        )
        yield from (row[0] for row in rows)

    def close(self) -> None:
        """Close it."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _mask(texts: frozenset[str] | tuple[str, ...]) -> int:
    mask = 0
    for text in texts:
        mask |= bit(text)
    return mask


def _where(selection: Selection, *, workloads: bool = True) -> tuple[str, list[object]]:
    """Conditions on a row of `entries`; they let through at least what `Selection.matches` does."""
    parts: list[str] = []
    values: list[object] = []
    if selection.kinds is not None:
        parts.append(f"kind IN ({','.join('?' * len(selection.kinds))})")
        values += sorted(selection.kinds)
    if selection.since_ns > 0 or selection.until_ns < 1 << 63:
        parts.append("time_ns >= ? AND time_ns < ?")
        values += [min(selection.since_ns, 2**63 - 1), min(selection.until_ns, 2**63 - 1)]
    named = (("workload", selection.workloads if workloads else ()), ("actor", selection.actors))
    for column, texts in named:
        if texts:
            parts.append("(" + " OR ".join(f"{column} GLOB ?" if is_pattern(text) else f"{column} = ?" for text in texts) + ")")
            values += [glob_of(text) if is_pattern(text) else text for text in texts]
    if selection.release:
        parts.append("instr(data, ?)")
        values.append("sha256:" + selection.release)
    if selection.incident:
        parts.append("instr(data, ?)")
        values.append(json.dumps(selection.incident)[1:-1])  # as the projection has it
    return "".join(f" AND {part}" for part in parts), values
