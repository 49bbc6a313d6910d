"""Opening does not list what ever was published, and misses nothing for that."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stele.ledger import archive
from stele.ledger.reader import LedgerReader
from stele.ledger.sequencer import Ledger
from stele.trust import canonical
from tests.counted import counted
from tests.ledgers import OTHER, SIGNER, TRUSTED, Clock, event, opened
from tests.refusals import code


@pytest.fixture(autouse=True)
def _worth(monkeypatch) -> None:
    monkeypatch.setattr(archive, "WORTH", 0)


@pytest.fixture
def listed(monkeypatch) -> list[Path]:
    """One for each time that the archive is listed."""
    return counted(monkeypatch, archive, "sizes")


def add(folder: Path, count: int = 1) -> None:
    for number in range(count):
        with opened(folder) as ledger:
            ledger.append([event(number)])


def test_it_is_listed_once_and_not_again(folder, listed):
    add(folder, 40)  # the write-ahead log begins anew among them
    assert len(listed) == 1
    assert LedgerReader(folder).check(TRUSTED) == []


@pytest.mark.parametrize("name", ["40.tsr", "README", ".x.tmp"])
def test_what_somebody_else_adds_is_looked_at_once(folder, listed, name):
    add(folder, 3)
    (folder / "checkpoints" / name).write_bytes(b"?")
    add(folder, 3)
    assert len(listed) == 2


def test_what_somebody_else_changes_meanwhile_is_looked_at_next_time(folder, listed):
    add(folder)
    with opened(folder) as ledger:
        (folder / "checkpoints" / "2.tsr").write_bytes(b"?")
        ledger.append([event()])
    assert len(listed) == 1
    add(folder, 2)
    assert len(listed) == 2


def test_a_writer_that_was_killed_left_no_word(folder, tmp_path, listed, monkeypatch):
    add(folder)
    monkeypatch.setattr("stele.ledger.sequencer.PUBLISH_EVERY_S", 3600)
    with opened(folder) as ledger:
        ledger.append([event()])
        ledger.publish()
        listed.clear()
        killed = Path(shutil.copytree(folder, tmp_path / "killed"))
    add(killed)
    assert len(listed) == 1


def test_a_state_that_was_set_back_is_refused(folder, tmp_path):
    """Of all but the archive an older copy is brought back: what was published since is missing."""
    add(folder, 3)
    shutil.copytree(folder, tmp_path / "older")
    add(folder, 2)
    for path in (tmp_path / "older").rglob("*"):
        if path.is_file() and path.parent.name != "checkpoints":
            place = folder / path.relative_to(tmp_path / "older")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    assert code(Ledger.open, folder, signer=SIGNER, clock=Clock()) == "ledger.damaged"


def test_a_newer_checkpoint_that_appears_is_looked_at(folder, tmp_path):
    add(folder, 3)
    with opened(tmp_path / "other", signer=OTHER) as ledger:
        for _ in range(4):
            ledger.append([event()])
            ledger.publish()
    shutil.copyfile(tmp_path / "other" / "checkpoints" / "8", folder / "checkpoints" / "8")
    assert code(Ledger.open, folder, signer=SIGNER, clock=Clock()) == "trust.unknown-signer"
    (folder / "checkpoints" / "8").unlink()
    add(folder)


WORDS = st.one_of(
    st.binary(max_size=60),
    st.dictionaries(
        st.sampled_from(["newest", "dev", "ino", "mtime_ns", "ctime_ns", "x"]),
        st.one_of(st.integers(-5, 1 << 62), st.booleans(), st.text(max_size=3), st.none()),
    ).map(canonical.encode),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(WORDS)
def test_any_other_word_is_no_word(tmp_path, listed, word):
    folder = tmp_path / "ledger"
    if not folder.exists():
        add(folder)
    (folder / ".state" / "archive").write_bytes(word)
    listed.clear()
    found = archive.Archive(folder)
    assert found.newer(1) == [(size, folder / "checkpoints" / str(size)) for size in (2,)]
    assert len(listed) == 1


def test_one_spelling_of_a_size(tmp_path):
    for name in ("1", "20", "3", "04", "0", "+5", "٣", "6.tsr", ".7.tmp"):
        (tmp_path / name).touch()
    assert archive.sizes(tmp_path) == [1, 3, 20]
    assert archive.sizes(tmp_path / "none") == []
