"""A ledger that does not fit is held read-only and says why; it is never healed by signing; what fits again says that it did not."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from stele.ledger import read_only
from stele.ledger.read_only import ReadOnlyLedger
from stele.ledger.reader import LedgerReader
from stele.ledger.sequencer import Ledger, Terms
from stele.trust import merkle, note
from stele.trust.errors import SteleError
from tests.ledgers import OTHER, SIGNER, TRUSTED, Clock, event, opened, quiet
from tests.refusals import code


def harmed(folder: Path) -> tuple[Path, bytes]:
    """A ledger with a tile that is not its own; the tile and what it was."""
    with opened(folder) as ledger:
        ledger.append([event(1), event(2)])
    path = next((folder / "tile" / "0" / "000.p").iterdir())
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    return path, data


def held(folder: Path) -> contextlib.closing[Ledger | ReadOnlyLedger]:
    return contextlib.closing(Ledger.open_or_hold(folder, Terms(SIGNER, Clock())))


def test_a_damaged_ledger_is_held_and_says_why(folder):
    harmed(folder)
    before = (folder / "checkpoint").read_bytes()
    with held(folder) as ledger:
        assert ledger.read_only is not None
        assert ledger.read_only.code == "ledger.damaged"
        assert ledger.size == ledger.published == 3
        assert code(ledger.append, [event(3)]) == code(ledger.publish) == "ledger.damaged"
        assert code(Ledger.open, folder, signer=SIGNER, clock=Clock()) == "ledger.locked"  # nobody else writes it either
        assert len(list(LedgerReader(folder).entries())) == 3  # reading goes on
    said = read_only.marked(folder)
    assert said is not None
    assert said["reason"] == ledger.read_only.reason
    assert (folder / "checkpoint").read_bytes() == before
    assert code(Ledger.open, folder, signer=SIGNER, clock=Clock()) == "ledger.damaged"
    assert (read_only.marked(folder) or {})["time_ns"] == said["time_ns"]  # since the first time


def test_a_whole_ledger_is_not_read_only(folder):
    with held(folder) as ledger:
        assert isinstance(ledger, Ledger)
        assert ledger.read_only is None
        ledger.append([event(1)])
    assert read_only.marked(folder) is None


def test_when_its_bytes_are_back_it_says_that_they_were_not(folder):
    path, data = harmed(folder)
    with held(folder) as ledger:
        why = ledger.read_only
    path.write_bytes(data)
    with opened(folder) as ledger:
        ledger.append([event(3)])
    assert read_only.marked(folder) is None
    kinds = [(entry.event.kind, entry.event.data.get("reason")) for _, entry in LedgerReader(folder).entries()]
    assert ("ledger.restored", why.reason) in kinds
    assert LedgerReader(folder).check(TRUSTED) == []
    with opened(folder):
        pass
    assert [entry.event.kind for _, entry in LedgerReader(folder).entries()].count("ledger.restored") == 1


def test_a_running_ledger_goes_read_only_when_somebody_writes_into_it(folder, monkeypatch):
    ledger = quiet(folder, monkeypatch)
    ledger.append([event(1)])
    assert ledger.read_only is None
    path = folder / "tile" / "0" / "000.p" / "2"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 64)
    assert code(ledger.publish) == "ledger.damaged"
    assert ledger.read_only is not None
    assert code(ledger.append, [event(2)]) == "ledger.damaged"
    assert not (folder / "checkpoint").exists()
    ledger.close()
    assert read_only.marked(folder) is not None


def test_a_disk_that_fails_does_not_make_it_read_only(folder, monkeypatch):
    ledger = quiet(folder, monkeypatch)
    ledger.append([event(1)])
    (folder / "checkpoints").rmdir()
    (folder / "checkpoints").write_bytes(b"")
    assert code(ledger.publish) == "ledger.write-failed"
    assert ledger.read_only is None
    (folder / "checkpoints").unlink()
    (folder / "checkpoints").mkdir()
    assert ledger.publish() == 2
    ledger.close()


def test_a_mark_that_cannot_be_read_is_none(folder):
    with opened(folder):
        pass
    for data in (b"", b"{}\n", b"[]\n", b"\xff", b'{"code":1}\n'):
        (folder / ".state" / read_only.MARK).write_bytes(data)
        assert read_only.marked(folder) is None


def test_two_sequencers_by_a_replaced_lock_file(folder, monkeypatch):
    """Whoever replaces the lock file lets a second process in. The first notices before it acknowledges or signs anything more."""
    first = quiet(folder, monkeypatch)
    first.append([event(1)])
    (folder / ".state" / "lock").unlink()
    second = Ledger.open(folder, signer=SIGNER, clock=Clock())
    second.append([event(2)])
    assert code(first.append, [event(3)]) == "ledger.damaged"
    assert code(first.publish) == "ledger.damaged"
    assert first.read_only is not None
    assert read_only.marked(folder) is None  # the other's ledger is well
    assert second.publish() == 3
    first.close()
    second.append([event(4)])
    second.close()
    assert LedgerReader(folder).check(TRUSTED) == []
    assert [entry.event.data["number"] for _, entry in LedgerReader(folder).entries("shop")] == [1, 2, 4]


# ---- cosigning ---------------------------------------------------------------------------------------


def test_a_checkpoint_is_shown_to_the_cosigner_before_anybody_else_sees_it(folder, monkeypatch):
    monkeypatch.setattr("stele.ledger.sequencer.PUBLISH_EVERY_S", 3600)
    seen: dict[int, note.Checkpoint] = {}

    def cosign(signed: bytes, size: int, prove) -> bytes:
        head = note.open_checkpoint(signed, TRUSTED)
        assert head.size == size
        assert not (folder / "checkpoints" / str(size)).exists()
        for old, other in seen.items():
            assert merkle.is_consistent(old, size, other.root, head.root, prove(old))
        seen[size] = head
        return signed + "— witness.example/w AAAAAAA=\n".encode()

    ledger = Ledger.open(folder, signer=SIGNER, clock=Clock(), cosign=cosign)
    for number in range(4):
        ledger.append([event(number)] * 100)
        ledger.publish()
    ledger.close()
    assert sorted(seen) == [101, 202, 303, 404]
    for path in (folder / "checkpoint", folder / "checkpoints" / "404"):
        assert path.read_bytes().endswith(b"AAAAAAA=\n")
    assert LedgerReader(folder).check(TRUSTED) == []


@pytest.mark.parametrize(("refusal", "final"), [("witness.no-quorum", False), ("trust.bad-signature", False), ("ledger.damaged", True)])
def test_a_cosigner_may_hold_publication_back_but_nothing_else(folder, monkeypatch, refusal, final):
    """What a witness shows to be a fork ends it; anything else is tried again, and appending goes on meanwhile."""
    monkeypatch.setattr("stele.ledger.sequencer.PUBLISH_EVERY_S", 3600)
    answers = [SteleError("no", remedy="no", code=refusal)]

    def cosign(signed: bytes, _size: int, _prove) -> bytes:
        if answers:
            raise answers.pop()
        return signed

    ledger = Ledger.open(folder, signer=SIGNER, clock=Clock(), cosign=cosign)
    ledger.append([event(1)])
    assert code(ledger.publish) == refusal
    assert not (folder / "checkpoint").exists()
    assert ledger.published == 0
    if final:
        assert ledger.read_only is not None
        assert code(ledger.append, [event(2)]) == "ledger.damaged"
    else:
        ledger.append([event(2)])
        assert ledger.publish() == 4
    ledger.close()


def test_a_cosigner_that_changes_the_checkpoint_is_refused(folder, monkeypatch):
    monkeypatch.setattr("stele.ledger.sequencer.PUBLISH_EVERY_S", 3600)
    ledger = Ledger.open(folder, signer=SIGNER, clock=Clock(), cosign=lambda signed, size, prove: OTHER.sign(note.split_note(signed)[0]))
    ledger.append([event(1)])
    assert code(ledger.publish) == "ledger.write-failed"
    assert not (folder / "checkpoint").exists()
    ledger.close()


def test_what_was_signed_at_a_size_is_published_as_it_was(folder, monkeypatch):
    """A crash between archive and checkpoint: the archived note has its cosignatures, and no second one is signed at its size."""
    ledger = quiet(folder, monkeypatch)
    ledger.append([event(1)])
    ledger.publish()
    (folder / "checkpoint").unlink()
    ledger.close()
    archived = (folder / "checkpoints" / "2").read_bytes()
    with opened(folder) as ledger:
        assert ledger.publish() == 2
    assert (folder / "checkpoint").read_bytes() == archived
