"""What a ledger says of keys and roots is looked up once for each checkpoint, and a revocation counts at the very next question."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from stele.ledger import projection, recorded
from stele.ledger.index import Index
from stele.ledger.reader import LedgerReader
from tests.counted import counted
from tests.ledgers import OTHER, event, opened, quiet


@pytest.fixture
def looks(monkeypatch) -> list[Path]:
    """One for each time that a ledger's projection is asked."""
    return counted(monkeypatch, Index, "open")


def revoked(number: int):
    return event(number, workload="", kind="key.revoked", key=f"{number:064x}", **{"from": number})


def keys(folder: Path) -> list[int]:
    return [int(data["key"], 16) for _, data, _ in recorded.key_changes(folder)]


def test_one_look_answers_all_questions_under_a_checkpoint(folder, looks):
    with opened(folder) as ledger:
        ledger.append([revoked(1), event(workload="", kind="trust.root", document="of trust")])
    for _ in range(3):
        assert keys(folder) == [1]
        assert [text for _, text in recorded.documents(folder)] == [b"of trust"]
    assert len(looks) == 1


def test_a_revocation_counts_at_the_next_question(folder, monkeypatch):
    assert keys(folder) == []
    with opened(folder) as ledger:
        ledger.append([event()])
    ledger = quiet(folder, monkeypatch)
    try:
        for number in range(1, 4):
            assert keys(folder) == list(range(1, number))
            ledger.append([revoked(number)])
            ledger.publish()
    finally:
        ledger.close()
    assert keys(folder) == [1, 2, 3]


def test_another_ledger_in_the_place_of_one_is_asked_itself(folder, tmp_path):
    for place, signer, number in ((folder, None, 1), (tmp_path / "other", OTHER, 2)):
        with opened(place, **({"signer": signer} if signer else {})) as ledger:
            ledger.append([revoked(number)])
    assert keys(folder) == [1]
    folder.rename(tmp_path / "was")
    assert keys(folder) == []
    (tmp_path / "other").rename(folder)
    assert keys(folder) == [2]


def test_a_copy_in_its_place_is_asked_itself(folder, tmp_path, looks):
    with opened(folder) as ledger:
        ledger.append([revoked(1)])
    assert keys(folder) == [1]
    shutil.copytree(folder, tmp_path / "copy")
    folder.rename(tmp_path / "was")
    (tmp_path / "copy").rename(folder)
    assert keys(folder) == [1]
    assert len(looks) == 2


def test_a_projection_that_forgot_and_is_made_anew_is_asked_again(folder):
    with opened(folder) as ledger:
        ledger.append([revoked(1)])
    path = folder / "projection.sqlite"
    whole = path.read_bytes()
    forgot = projection.Projection(path, 2)
    assert forgot._db is not None
    forgot._db.execute("DELETE FROM entries")
    forgot.close()
    assert keys(folder) == []  # it says where to look
    path.write_bytes(whole)
    assert keys(folder) == [1]
    path.unlink()
    assert keys(folder) == [1]


def test_few_folders_are_kept(tmp_path):
    for number in range(10):
        with opened(tmp_path / str(number)) as ledger:
            ledger.append([revoked(number)])
    for _ in range(2):
        for number in range(10):
            assert keys(tmp_path / str(number)) == [number]
            assert len(recorded._known._kept) <= recorded.MOST_KNOWN


def test_threads_never_miss_what_was_published_before_they_asked(folder, monkeypatch):
    ledger = quiet(folder, monkeypatch)
    published, ending, wrong = 0, threading.Event(), list[object]()

    def ask() -> None:
        while not ending.is_set():
            least = published
            found = keys(folder)
            if found != list(range(1, len(found) + 1)) or len(found) < least:
                wrong.append((least, found))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(1, 40):
            ledger.append([revoked(number)])
            ledger.publish()
            published = number
    finally:
        ending.set()
        for thread in threads:
            thread.join()
        ledger.close()
    assert not wrong
    assert keys(folder) == list(range(1, 40))
    assert LedgerReader(folder).size == 78
