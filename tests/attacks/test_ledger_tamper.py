"""What somebody who can write the ledger's files, but has not its key, can do unnoticed: nothing. Each test is one attack."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from stele.ledger import read_only, sequencer, tiles, wal
from stele.ledger.edge import Edge
from stele.ledger.reader import LedgerReader
from stele.ledger.sequencer import Ledger
from stele.model.event import decode_entry
from stele.trust import merkle, note
from stele.trust.errors import SteleError
from tests.ledgers import OTHER, SIGNER, TRUSTED, Clock, event, opened


@pytest.fixture(autouse=True)
def _no_publishing_by_itself(monkeypatch):
    monkeypatch.setattr(sequencer, "PUBLISH_EVERY_S", 3600)


def written(folder: Path, count: int = 7, *, publish_every: int = 3, signer: note.Signer = SIGNER) -> Path:
    with opened(folder, signer=signer, clock=Clock()) as ledger:
        for number in range(count):
            ledger.append([event(number, workload="shop" if number % 3 else "other")])
            if number % publish_every == publish_every - 1:
                ledger.publish()
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return written(tmp_path / "ledger")


def problems(folder: Path) -> list[str]:
    """What a check says; that it cannot even begin counts as well."""
    try:
        return LedgerReader(folder).check(TRUSTED)
    except SteleError as error:
        return [error.reason]


def shown(folder: Path) -> list[Path]:
    """Every file that readers are shown: not the writer's own state."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and ".state" not in path.parts and "projection" not in path.name)


def is_needed(folder: Path, path: Path) -> bool:
    """Whether a reader of the present checkpoint reads it: partial tiles of the checkpoint before are left for others."""
    return ".p" not in str(path) or path.name == str(LedgerReader(folder).size)


def opening(folder: Path) -> str:
    """Code of the refusal, or "opened"; nothing may be signed in any case."""
    before = (folder / "checkpoint").read_bytes()
    read_only.unmark(folder)  # of the attack before this one
    try:
        Ledger.open(folder, signer=SIGNER, clock=Clock()).close()
    except SteleError as error:
        assert (folder / "checkpoint").read_bytes() == before
        return error.code
    return "opened"


def test_the_untouched_ledger_is_whole(folder):
    assert problems(folder) == []
    assert len(shown(folder)) == 3 + 1 + 4 + 2  # archived checkpoints, the checkpoint, two sizes of a tile and of a bundle, the maps


def test_attack_flip_any_byte_of_any_file(folder):
    count = 0
    for path in shown(folder):
        data, needed = path.read_bytes(), is_needed(folder, path)
        # all the 2,420 bytes of an ML-DSA-44 signature are alike: a few of them
        for at in [*range(min(len(data), 300)), *range(300, len(data), 41 if "checkpoint" in str(path.relative_to(folder)) else 1)]:
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
            found = problems(folder)
            assert bool(found) == needed, (path, at, found)
            count += 1
        path.write_bytes(data)
    assert count > 4000
    assert problems(folder) == []


def test_attack_cut_any_file_short_or_lengthen_it(folder):
    for path in shown(folder):
        data, needed = path.read_bytes(), is_needed(folder, path)
        for changed in (
            *(data[:cut] for cut in range(0, len(data), 7 if len(data) < 2000 else 23)),
            data + b"\0",
            data + data,
            data + b"\n",
        ):
            path.write_bytes(changed)
            found = problems(folder)
            # a fuller tile begins with the same hashes: bytes after the last that is needed are never read
            assert found or not needed or changed[: len(data)] == data, (path, len(changed))
        path.write_bytes(data)


def test_attack_remove_any_file(folder):
    for path in shown(folder):
        data, needed = path.read_bytes(), is_needed(folder, path)
        path.unlink()
        # a missing archived checkpoint is not missed here: it is for those who kept a copy; maps can be made again
        assert bool(problems(folder)) == (needed and path.parent.name not in {"checkpoints", "map"}), path
        path.write_bytes(data)


def test_attack_swap_archived_checkpoints(folder):
    one, two, *_ = sorted((folder / "checkpoints").iterdir())
    one.write_bytes(two.read_bytes())
    assert any("is of size" in text for text in problems(folder))


def test_attack_put_an_old_checkpoint_back(folder):
    """Time is turned back: the later archive tells, and the writer goes on from what is really committed."""
    old = (folder / "checkpoints" / "4").read_bytes()
    newest = (folder / "checkpoint").read_bytes()
    (folder / "checkpoint").write_bytes(old)
    assert any("cut back" in text for text in problems(folder))
    with opened(folder) as ledger:
        ledger.publish()
    again = (folder / "checkpoint").read_bytes()
    assert again.partition(b"\n\n")[0] == newest.partition(b"\n\n")[0]  # the same root at the same size, not another one
    assert problems(folder) == []


def test_attack_cut_the_whole_ledger_back(folder, tmp_path):
    """Checkpoint, archive and WAL of an earlier day: a whole ledger, which those who kept a later checkpoint can refute."""
    early = written(tmp_path / "early", 4)
    assert problems(early) == []
    kept = note.open_checkpoint((folder / "checkpoint").read_bytes(), TRUSTED)
    shown_now = LedgerReader(early)
    assert kept.size > shown_now.size  # nothing can prove that the shorter one contains the longer one


def test_attack_cut_back_all_but_the_archive(folder, tmp_path):
    early = written(tmp_path / "early", 4)
    for path in (folder / "checkpoints").iterdir():
        shutil.copy(path, early / "checkpoints" / path.name)
    assert any("cut back" in text for text in problems(early))
    assert opening(early) == "ledger.damaged"


def rewrite(folder: Path, change: int) -> bytes:
    """Replace an entry and compute everything again that needs no key: chains, epochs stay as they were. Returns the root."""
    reader = LedgerReader(folder)
    raws = list(reader.raw_entries(0, reader.size))
    raws[change] = raws[change].replace(b'"actor":"test"', b'"actor":"evil"')
    hashes = [merkle.leaf_hash(raw) for raw in raws]
    (folder / tiles.bundle_path(0, len(raws))).write_bytes(tiles.pack_bundle(raws))
    (folder / tiles.tile_path(0, 0, len(raws))).write_bytes(b"".join(hashes))
    return merkle.root(hashes)


@pytest.mark.parametrize("change", [0, 1, 5])
def test_attack_rewrite_an_entry_and_all_tiles_without_the_key(folder, change):
    rewrite(folder, change)
    found = problems(folder)
    assert any("do not lead to the signed root" in text for text in found)
    assert any("was rewritten" in text for text in found)
    assert opening(folder) == "ledger.damaged"


def test_attack_rewrite_it_and_sign_with_another_key(folder):
    root = rewrite(folder, 1)
    head = LedgerReader(folder).checkpoint
    (folder / "checkpoint").write_bytes(OTHER.sign(note.Checkpoint(head.origin, head.size, root).body()))
    assert any("do not trust" in text for text in problems(folder))
    assert opening(folder) == "trust.unknown-signer"


def test_attack_a_whole_ledger_with_another_key(folder, tmp_path):
    fork = written(tmp_path / "fork", signer=OTHER)
    assert LedgerReader(fork).check([OTHER.verifier]) == []
    assert any("do not trust" in text for text in problems(fork))


def test_attack_the_operator_rewrites_with_the_key(folder, tmp_path):
    """Whoever has the key can make another ledger. Archived and kept checkpoints tell."""
    fork = tmp_path / "fork"
    with opened(fork, clock=Clock()) as ledger:
        for number in range(8):
            ledger.append([event(number + 100)])
            ledger.publish()
    assert problems(fork) == []
    kept = note.open_checkpoint((folder / "checkpoints" / "4").read_bytes(), TRUSTED)
    forked = LedgerReader(fork)
    assert not merkle.is_consistent(kept.size, forked.size, kept.root, forked.checkpoint.root, forked.consistency(kept.size))
    honest = LedgerReader(folder)
    assert merkle.is_consistent(kept.size, honest.size, kept.root, honest.checkpoint.root, honest.consistency(kept.size))
    shutil.copy(folder / "checkpoints" / "4", fork / "checkpoints" / "4")
    assert any("was rewritten" in text for text in problems(fork))
    assert opening(fork) in {"ledger.damaged", "opened"}  # an archive below the checkpoint is looked at by `check`


def test_attack_the_operator_leaves_an_entry_out_and_signs(tmp_path):
    """With the key, but without computing epochs and chains anew: the replay of the whole ledger tells."""
    folder = written(tmp_path / "ledger")
    reader = LedgerReader(folder)
    raws = [raw for index, raw in enumerate(reader.raw_entries(0, reader.size)) if index != 2]
    hashes = [merkle.leaf_hash(raw) for raw in raws]
    (folder / tiles.bundle_path(0, len(raws))).write_bytes(tiles.pack_bundle(raws))
    (folder / tiles.tile_path(0, 0, len(raws))).write_bytes(b"".join(hashes))
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoint").write_bytes(SIGNER.sign(note.Checkpoint(SIGNER.verifier.name, len(raws), merkle.root(hashes)).body()))
    found = problems(folder)
    assert any("does not continue the chain" in text for text in found)
    assert any("does not commit to what precedes it" in text for text in found)


def flips(data: bytes, count: int) -> Iterator[tuple[int, bytes]]:
    for at in range(0, len(data), max(1, len(data) // count)):
        yield at, data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]


def test_attack_alter_the_writers_own_log_below_a_signed_checkpoint(folder):
    """The WAL is believed only where it leads to every root that was signed."""
    path = folder / ".state" / "wal.0"
    data = path.read_bytes()
    used = data.rstrip(b"\0")
    last = len(used) - len((folder / "checkpoint").read_bytes()) - wal.RECORD.size  # the newest checkpoint: its file has it, too
    for at, changed in flips(used, 60):
        path.write_bytes(changed + data[len(used) :])
        assert opening(folder) == ("ledger.damaged" if at < last else "opened"), at
        if at >= last:
            assert problems(folder) == []
    path.write_bytes(data)
    path.unlink()
    assert opening(folder) == "ledger.damaged"


def test_attack_alter_the_writers_log_above_the_checkpoint(tmp_path):
    """What is committed and not yet signed is protected by its CRC only, against accidents: it is seconds old at most."""
    folder = tmp_path / "ledger"
    ledger = Ledger.open(folder, signer=SIGNER, clock=Clock())
    ledger.append([event(0)])
    ledger.publish()
    ledger.append([event(1), event(2)])
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    ledger.close()
    path = copy / ".state" / "wal.0"
    data = bytearray(path.read_bytes())
    data[len(bytes(data).rstrip(b"\0")) - 3] ^= 1
    path.write_bytes(data)
    with opened(copy) as again:
        assert again.size == 3  # one entry and an epoch, and of the batch what still fits
    assert problems(copy) == []


def test_attack_alter_the_newest_tiles_while_nobody_runs(folder):
    for path in shown(folder):
        if path.parent.name == "checkpoints" or not is_needed(folder, path):
            continue
        data = path.read_bytes()
        for at, changed in flips(data, 40):
            path.write_bytes(changed)
            answer = opening(folder)
            assert answer.startswith(("ledger.", "trust.")) or path.read_bytes() == data, (path, at, answer)
            path.write_bytes(data)
    assert problems(folder) == []


def test_attack_alter_a_tile_while_the_writer_runs(tmp_path):
    """A full tile is written once. One that is there with other bytes stops the writer for good: nothing is healed by signing."""
    folder = tmp_path / "ledger"
    ledger = Ledger.open(folder, signer=SIGNER, clock=Clock())
    ledger.append([event(0)])
    ledger.publish()
    (folder / "tile/0/000").write_bytes(b"\xff" * 8192)
    before = (folder / "checkpoint").read_bytes()
    ledger.append([event(number) for number in range(300)])
    for call in (ledger.publish, lambda: ledger.append([event(1)]), ledger.publish):
        with pytest.raises(SteleError) as raised:
            call()
        assert raised.value.code == "ledger.damaged"
    ledger.close()
    assert (folder / "checkpoint").read_bytes() == before


def test_attack_plant_an_archived_checkpoint(folder):
    """A made-up future checkpoint stops the writer rather than being believed."""
    (folder / "checkpoints" / "99").write_bytes(OTHER.sign(note.Checkpoint(SIGNER.verifier.name, 99, bytes(32)).body()))
    assert opening(folder) == "trust.unknown-signer"
    (folder / "checkpoints" / "99").write_bytes(SIGNER.sign(note.Checkpoint(SIGNER.verifier.name, 99, bytes(32)).body()))
    assert opening(folder) == "ledger.damaged"


@pytest.mark.parametrize("torn", [b"", bytes(64), None])
def test_power_cut_tears_tiles_that_were_never_synced(folder, torn):
    """No attack: the disk lost tiles that are newer than the WAL's base. The WAL and the signed root bring them back."""
    for path in shown(folder):
        if "tile" in path.parts:
            path.unlink() if torn is None else path.write_bytes(torn)
    assert problems(folder) != []
    assert opening(folder) == "opened"
    assert problems(folder) == []


def test_the_edge_refuses_what_does_not_continue_a_chain(folder):
    edge = Edge()
    raws = list(LedgerReader(folder).raw_entries(0, 3))
    edge.take_checked(raws[0])
    with pytest.raises(SteleError) as raised:
        edge.take_checked(raws[0])
    assert raised.value.code == "ledger.damaged"
    assert edge.size == 1
    assert decode_entry(raws[0]).seq == 0


def test_attack_restore_a_backup_and_go_on(folder, tmp_path):
    """An older copy is whole, and its writer cannot know that it is old: two histories under one key, which two checkpoints prove."""
    backup = tmp_path / "backup"
    shutil.copytree(folder, backup)
    for place, number in ((folder, 100), (backup, 200)):
        with opened(place) as ledger:
            ledger.append([event(number)])
    assert problems(folder) == problems(backup) == []
    mine, other = LedgerReader(folder).checkpoint, LedgerReader(backup).checkpoint
    assert mine.size == other.size
    assert mine.root != other.root
    # with the archive of the one, the other is found out, and cannot be opened any more
    shutil.copy(folder / "checkpoint", backup / "checkpoints" / str(mine.size))
    assert any("was rewritten" in text for text in problems(backup))
    assert opening(backup) == "ledger.damaged"
