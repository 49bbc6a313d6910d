"""The SQLite projection: a cache that may break."""

from __future__ import annotations

import sqlite3

from stele.ledger import projection
from stele.ledger.reader import LedgerReader
from stele.model.event import Event
from tests.ledgers import TRUSTED, event, opened, quiet, rows


def test_the_projection_follows_and_is_rebuilt(folder):
    with opened(folder) as ledger:
        ledger.append([event(1), event(2, workload="other")])
    expected = [(index, entry.event.workload, entry.seq, entry.event.kind) for index, entry in LedgerReader(folder).entries()]
    assert rows(folder) == expected
    projection.remove(folder / "projection.sqlite")
    with opened(folder):
        assert rows(folder) == expected
    (folder / "projection.sqlite").write_bytes(b"not a database at all" * 300)
    with opened(folder):
        assert rows(folder) == expected


def test_a_projection_of_a_longer_ledger_is_thrown_away(folder):
    with opened(folder) as ledger:
        ledger.append([event(1)])
    db = sqlite3.connect(folder / "projection.sqlite", isolation_level=None)
    db.execute("UPDATE applied SET size = 99")
    db.close()
    with opened(folder):
        assert len(rows(folder)) == 2


def test_a_projection_that_breaks_does_not_stop_the_ledger(folder, monkeypatch):
    ledger = quiet(folder, monkeypatch)
    ledger.append([event(1)])
    ledger.publish()
    db = sqlite3.connect(folder / "projection.sqlite", isolation_level=None)
    db.execute("DROP TABLE entries")
    db.close()
    ledger.append([event(2)])
    assert ledger.publish() == 4
    ledger.append([event(3)])
    assert ledger._unprojected == []  # nothing piles up for it
    assert ledger.publish() == 6
    ledger.close()
    assert LedgerReader(folder).check(TRUSTED) == []


def test_texts_that_sqlite_cannot_hold_do_not_stop_it(folder):
    with opened(folder) as ledger:
        ledger.append(
            [event(1, workload="\ud800"), Event(workload="x", kind="violation", time_ns=1, actor="\udfff", data={"\ud800": "\ud800"})]
        )
    assert len(rows(folder)) == 3
    assert LedgerReader(folder).check(TRUSTED) == []
