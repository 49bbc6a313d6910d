"""Checkpoints are on disk before their files are: what a power cut takes of those comes back from the write-ahead log."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stele.host import durable
from stele.ledger import notes, read_only, wal
from stele.ledger.archive import Archive
from stele.ledger.reader import LedgerReader
from stele.trust import note
from tests.ledgers import OTHER, SIGNER, TRUSTED, event, opened
from tests.refusals import code

SIZES = (6, 12, 18)


@pytest.fixture
def cut(folder, tmp_path, monkeypatch) -> Path:
    """What a killed writer leaves that published three times."""
    monkeypatch.setattr("stele.ledger.sequencer.PUBLISH_EVERY_S", 3600)
    with opened(folder) as ledger:
        for size in SIZES:
            ledger.append([event(number) for number in range(5)])
            assert ledger.publish() == size
        return Path(shutil.copytree(folder, tmp_path / "cut"))


def heads(folder: Path) -> dict[str, bytes]:
    paths = [folder / "checkpoint", *(folder / "checkpoints" / str(size) for size in SIZES)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_publishing_waits_for_no_file_but_the_write_ahead_log(folder, monkeypatch):
    with opened(folder) as ledger:
        ledger.append([event()])
        ledger.publish()
        synced: list[str] = []
        monkeypatch.setattr(durable, "write", lambda path, *_, **__: synced.append(path.name))
        monkeypatch.setattr(durable, "sync_dir", lambda path: synced.append(path.name))
        ledger.append([event()])
        size = ledger.publish()
        assert LedgerReader(folder).size == size
        assert synced == []


@pytest.mark.parametrize("lost", ["missing", "empty", "cut short", "zeros at the end", "the ones before"])
def test_what_a_power_cut_took_of_checkpoints_is_there_again(cut, lost):
    whole = heads(cut)
    for name, data in whole.items():
        path = cut / name
        if lost == "missing":
            path.unlink()
        elif lost == "the ones before":
            path.unlink() if name == "checkpoints/18" else None
        else:
            path.write_bytes({"empty": b"", "cut short": data[:100]}.get(lost, data[:100] + bytes(len(data) - 100)))
    if lost == "the ones before":
        (cut / "checkpoint").write_bytes(whole["checkpoints/12"])
    with opened(cut) as ledger:
        assert heads(cut) == whole
        assert ledger.published == 18
    assert LedgerReader(cut).check(TRUSTED) == []


def test_the_head_may_be_what_a_power_cut_tore_of_an_older_one(cut):
    """Its name was on disk already, its data not yet; that of the newest is not either."""
    whole = heads(cut)
    (cut / "checkpoint").write_bytes(bytes(60) + whole["checkpoints/12"][60:])
    with opened(cut) as ledger:
        assert heads(cut) == whole
        assert ledger.published == 18


def test_cosignatures_that_came_later_stay(cut):
    path = cut / "checkpoints" / "18"
    path.write_bytes(path.read_bytes() + OTHER.sign(note.unverified(path.read_bytes()).body()).rpartition(b"\n\n")[2])
    (cut / "checkpoint").unlink()
    richer = path.read_bytes()
    with opened(cut):
        assert (cut / "checkpoint").read_bytes() == path.read_bytes() == richer


def test_a_checkpoint_that_no_record_holds_is_synced_in_its_files(folder, monkeypatch):
    monkeypatch.setattr(wal, "MAX_ENTRY", 1000)
    with opened(folder) as ledger:
        ledger.append([event()])
        synced: list[str] = []
        real = durable.write
        monkeypatch.setattr(durable, "write", lambda path, data, **more: synced.append(path.name) or real(path, data, **more))
        assert ledger.publish() == 2
        assert synced == ["2", "checkpoint"]


def forged(signer: note.Signer, size: int) -> bytes:
    return signer.sign(note.Checkpoint(SIGNER.name, size, bytes(32)).body())


@pytest.mark.parametrize(
    ("kept", "refused"),
    [
        (forged(OTHER, 12), "trust.unknown-signer"),  # to be written, and by somebody else
        (forged(SIGNER, 19), "ledger.damaged"),  # of more entries than there are
        (forged(SIGNER, 12), "ledger.damaged"),  # signed, but not the root of these entries: somebody has the key
        (b"no note", "trust.bad-note"),
    ],
)
def test_attack_put_a_checkpoint_into_the_write_ahead_log(cut, kept, refused):
    for name in heads(cut):
        (cut / name).unlink()
    log = wal.Wal(cut / ".state")
    assert log.note(kept)
    log.close()
    assert code(lambda: opened(cut).__enter__()) == refused


def test_of_two_of_one_size_the_later_was_shown(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    first, second = SIGNER.sign(body := note.Checkpoint(SIGNER.name, 3, bytes(32)).body()), SIGNER.sign(body, 7)
    notes.restore(tmp_path, Archive(tmp_path), [first, second], 3, TRUSTED)
    assert (tmp_path / "checkpoint").read_bytes() == (tmp_path / "checkpoints" / "3").read_bytes() == second


@pytest.mark.parametrize("kept", ["all", "none"])
def test_attack_alter_a_committed_entry_and_lose_the_checkpoints_that_cover_it(cut, kept):
    """Or a disk does, that wrote the end of the write-ahead log and not what is before: nothing is signed in place of that."""
    path = cut / ".state" / "wal.0"
    data = bytearray(path.read_bytes())
    begin, following = data.index(b'{"actor"'), data.index(SIGNER.name.encode() + b"\n12\n")
    if kept == "none":
        for name in heads(cut):
            (cut / name).unlink()
    for at in (begin, following - 20):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert code(lambda: opened(cut).__enter__()) == "ledger.damaged"
    end = data.rindex(b"\xe2\x80\x94 ")  # of the last note: a power cut takes it, with its files
    path.write_bytes(data[:end] + bytes(len(data) - end))
    for name in ("checkpoint", "checkpoints/18"):
        (cut / name).unlink(missing_ok=True)
    read_only.unmark(cut)
    with opened(cut) as ledger:
        assert (ledger.published, ledger.size) == (12, 18)
