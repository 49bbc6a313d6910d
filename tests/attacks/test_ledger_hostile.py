"""Hostile hands in the writer's files, clocks that jump, backups put back, hostile entries: nothing of it gets signed."""

from __future__ import annotations

import os
import shutil
import zlib
from pathlib import Path

import pytest

from stele.ledger import mapfile, read_only, sequencer, tiles, wal
from stele.ledger.openings import Openings
from stele.ledger.past import PastLedger
from stele.ledger.reader import LedgerReader
from stele.ledger.sequencer import Ledger
from stele.ledger.source import FolderSource
from stele.model.event import LATEST_NS, Entry, decode_entry
from stele.trust import merkle, note
from stele.trust.errors import SteleError
from tests.ledgers import SIGNER, START, TRUSTED, Clock, event, opened


@pytest.fixture(autouse=True)
def _small(monkeypatch) -> None:
    monkeypatch.setattr(sequencer, "PUBLISH_EVERY_S", 3600)
    monkeypatch.setattr(wal, "STEP", 1 << 16)


def written(folder: Path, batches: int = 4, each: int = 5, *, recycle: bool = False) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        if recycle:
            patch.setattr(sequencer, "RECYCLE_BYTES", 2000)
        with opened(folder) as ledger:
            for _ in range(batches):
                ledger.append([event(number, workload=f"w{number % 3}") for number in range(each)])
                ledger.publish()
    return folder


def heads(folder: Path) -> dict[int, bytes]:
    """Every signed root."""
    found: dict[int, bytes] = {}
    for path in [*(folder / "checkpoints").iterdir(), folder / "checkpoint"]:
        head = note.open_checkpoint(path.read_bytes(), TRUSTED)
        assert found.setdefault(head.size, head.root) == head.root, "two roots at one size"
    return found


def opening(folder: Path) -> str:
    """Code of the refusal, or "opened": then it has been written to and published, too, and all is whole."""
    read_only.unmark(folder)
    before = heads(folder)
    try:
        ledger = Ledger.open(folder, signer=SIGNER, clock=Clock())
    except SteleError as error:
        assert heads(folder) == before
        return error.code
    ledger.append([event(9)])
    ledger.publish()
    ledger.close()
    after = heads(folder)
    assert before.items() <= after.items()
    assert LedgerReader(folder).check(TRUSTED) == []
    return "opened"


@pytest.mark.parametrize("recycle", [False, True])
def test_attack_flip_bits_anywhere_in_the_writers_own_files(tmp_path, recycle):
    base = written(tmp_path / "base", recycle=recycle)
    signed = heads(base)
    answers = set()
    for name in ("wal.0", "wal.1", "lock"):
        path = base / ".state" / name
        if not path.exists():
            continue
        used = len(path.read_bytes().rstrip(b"\0")) + 40
        for at in range(0, used, max(1, used // 60)):
            folder = tmp_path / "copy"
            shutil.copytree(base, folder)
            data = bytearray(path.read_bytes())
            if at < len(data):
                data[at] ^= 1 << at % 8
            (folder / ".state" / name).write_bytes(data)
            answer = opening(folder)
            answers.add(answer)
            assert answer in {"opened", "ledger.damaged"}, (name, at, answer)
            assert signed.items() <= heads(folder).items()
            shutil.rmtree(folder)
    assert answers == {"opened", "ledger.damaged"}


@pytest.mark.parametrize("name", ["projection.sqlite", "map/nodes", "map/roots"])
@pytest.mark.parametrize("harm", ["flip", "cut", "zeros", "gone", "other"])
def test_attack_caches_that_lie_are_made_again_or_refused(tmp_path, name, harm):
    folder = written(tmp_path / "ledger", recycle=True)
    path = folder / name
    data = path.read_bytes()
    middle = len(data) // 2
    other = written(tmp_path / "other", batches=2) / name
    changed = {
        "flip": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "cut": data[:middle],
        "zeros": bytes(len(data)),
        "other": other.read_bytes(),
    }
    path.unlink() if harm == "gone" else path.write_bytes(changed[harm])
    if name.startswith("map") and harm == "flip":  # of a map that is not the newest: nobody needs it to go on, and a check tells
        assert all("map" in text for text in LedgerReader(folder).check(TRUSTED))
        mapfile.remove(folder)
    assert opening(folder) == "opened"


FILES = (
    "checkpoint", "checkpoints/6", "tile/0/000.p/24", "tile/entries/000.p/24", "map/nodes", "map/roots", "projection.sqlite",
    "projection.sqlite-wal", "projection.sqlite-shm", ".state/wal.0", ".state/openings/0", ".state/read-only",
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["fifo", "symlink", "endless", "huge"])
def test_attack_nothing_but_a_regular_file_is_read(tmp_path, name, kind):
    """Nobody who reads or opens such a folder waits for a FIFO, follows a symlink, or reads without end: the time limit of tests tells."""
    folder = written(tmp_path / "ledger")
    path = folder / name
    data = path.read_bytes() if path.exists() else b""
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "huge":
        path.write_bytes(data)
        os.truncate(path, 1 << 40)
    else:
        (tmp_path / "elsewhere").write_bytes(data)
        path.symlink_to(tmp_path / "elsewhere" if kind == "symlink" else "/dev/zero")
    signed = name.startswith(("checkpoint", "tile"))
    found: list[str] = []
    try:
        found = LedgerReader(folder).check(TRUSTED)
        reader = LedgerReader(folder)
        list(reader.chain("w0", 0, 2))
        Openings(folder).of(0, Entry(event=event(1), seq=0, prev="", sealed={"path": "0" * 64}))
        read_only.marked(folder)
        with PastLedger(folder) as past:
            past.around(START)
    except SteleError as error:
        found.append(error.reason)
    assert not signed or found
    with FolderSource(folder) as source:
        for each in FILES:
            try:
                source.read(each)
            except SteleError as error:
                assert error.code == "ledger.damaged"
    if kind in {"fifo", "endless"}:
        try:
            with opened(folder) as ledger:
                ledger.append([event(9)])
        except SteleError as error:
            assert error.code in {"ledger.damaged", "ledger.bad-map"}


def frames_of(path: Path) -> tuple[bytes, list[bytes]]:
    """The header of a write-ahead log and its entries."""
    log = wal.Wal(path.parent)
    log.close()
    return path.read_bytes()[: wal.HEADER.size], log.recovered


def test_attack_reorder_double_or_drop_entries_of_the_write_ahead_log(tmp_path):
    """With every CRC made right again: what was signed tells."""
    base = written(tmp_path / "base")
    path = base / ".state" / "wal.0"
    head, entries = frames_of(path)
    seed = wal._seed(1, 0)
    swapped = [entries[1], entries[0], *entries[2:]]
    for changed in (swapped, entries[1:], entries[:-3], [*entries[:2], entries[1], *entries[2:]], entries[:7] + entries[8:], []):
        folder = tmp_path / "copy"
        shutil.copytree(base, folder)
        data = head + bytes(wal._frames(changed, seed)[0])
        (folder / ".state" / "wal.0").write_bytes(data.ljust(1 << 16, b"\0"))
        assert opening(folder) == "ledger.damaged"
        shutil.rmtree(folder)


def test_attack_reorder_entries_bundles_and_tiles(tmp_path):
    folder = written(tmp_path / "ledger", batches=3, each=250)
    reader = LedgerReader(folder)
    raws = list(reader.raw_entries(0, 512))
    raws[10], raws[11] = raws[11], raws[10]
    bundle = folder / tiles.bundle_path(0, 256)
    data = bundle.read_bytes()
    bundle.write_bytes(tiles.pack_bundle(raws[:256]))
    assert any("altered: entries [10, 11]" in text for text in LedgerReader(folder).check(TRUSTED))
    bundle.write_bytes(data)
    for one, two in ((tiles.bundle_path(0, 256), tiles.bundle_path(1, 256)), (tiles.tile_path(0, 0, 256), tiles.tile_path(0, 1, 256))):
        first, second = (folder / one).read_bytes(), (folder / two).read_bytes()
        (folder / one).write_bytes(second)
        (folder / two).write_bytes(first)
        assert LedgerReader(folder).check(TRUSTED)
        (folder / one).write_bytes(first)
        (folder / two).write_bytes(second)
    assert LedgerReader(folder).check(TRUSTED) == []


def test_attack_the_write_ahead_log_of_an_earlier_day(tmp_path):
    folder = written(tmp_path / "ledger", recycle=True)
    early = {path.name: path.read_bytes() for path in (folder / ".state").iterdir()}
    written(folder, recycle=True)
    for name in ("wal.0", "wal.1"):
        (folder / ".state" / name).write_bytes(early[name])
    assert opening(folder) == "ledger.damaged"


def test_attack_a_backup_put_back(tmp_path):
    """All of it, signed archive included: it fits itself. Whoever kept a later checkpoint, a witness above all, can refute what follows."""
    folder = written(tmp_path / "ledger")
    backup = tmp_path / "backup"
    shutil.copytree(folder, backup)
    written(folder)
    kept = note.open_checkpoint((folder / "checkpoint").read_bytes(), TRUSTED)
    shutil.rmtree(folder)
    shutil.copytree(backup, folder)
    with opened(folder) as ledger:
        ledger.append([event(number + 500) for number in range(100)])
    forked = LedgerReader(folder)
    assert forked.check(TRUSTED) == []
    assert forked.size > kept.size
    assert not merkle.is_consistent(kept.size, forked.size, kept.root, forked.checkpoint.root, forked.consistency(kept.size))
    # and where only a part was put back, the rest tells at once
    shutil.copytree(backup, tmp_path / "part")
    shutil.copy(folder / "checkpoint", tmp_path / "part" / "checkpoint")
    assert opening(tmp_path / "part") == "ledger.damaged"


class Jumping(Clock):
    """A clock that jumps as it is told to."""

    def __init__(self, *moments: int) -> None:
        super().__init__()
        self.moments = list(moments)

    def __call__(self) -> int:
        return self.moments.pop(0) if self.moments else super().__call__()


@pytest.mark.parametrize("moments", [[START + 10**18, START - 10**18, 0, START], [0, 1, 0], [LATEST_NS - 1, 0], [START] * 4])
def test_attack_the_clock_jumps(tmp_path, moments):
    """The log's own clock, its epochs, never goes back, and what a jump hides is said."""
    folder = tmp_path / "ledger"
    clock = Jumping(*moments)
    with opened(folder, clock=clock) as ledger:
        for number in range(4):
            ledger.append([event(number)])
            ledger.publish()
    reader = LedgerReader(folder)
    assert reader.check(TRUSTED) == []
    epochs = [entry.event.time_ns for _, entry in reader.entries() if entry.event.kind == "epoch"]
    assert epochs == sorted(set(epochs))
    assert opening(folder) == "opened"


DOUBLED = (
    b'{"actor":"agent","actor":"operator","data":{},"kind":"heartbeat","prev":"","sealed":{},"seq":0,"time_ns":1,"v":1,"workload":"x"}'
)
HOSTILE = {
    "a key twice": DOUBLED,
    "a key twice, far down": DOUBLED.replace(b'"actor":"agent",', b"").replace(b'"data":{}', b'"data":{"a":1,"a":2}'),
    "keys in another order": DOUBLED.replace(b'"actor":"agent","actor":"operator","data":{}', b'"data":{},"actor":"operator"'),
    "white space": DOUBLED.replace(b'"actor":"agent",', b" "),
    "a number in another spelling": DOUBLED.replace(b'"actor":"agent",', b"").replace(b'"seq":0', b'"seq":-0'),
    "a float": DOUBLED.replace(b'"actor":"agent",', b"").replace(b'"time_ns":1', b'"time_ns":1.0'),
    "a field more": DOUBLED.replace(b'"actor":"agent",', b'"aaa":1,'),
    "no JSON": b"\xff\xfe",
    "nothing known": b"{}",
}


@pytest.mark.parametrize("why", HOSTILE)
def test_attack_an_entry_that_reads_in_two_ways(tmp_path, why):
    """Whoever can write the write-ahead log, CRC and all, puts it after the checkpoint: it is refused, not skipped, and never signed."""
    folder = written(tmp_path / "ledger", batches=1)
    path = folder / ".state" / "wal.0"
    head, entries = frames_of(path)
    with pytest.raises(SteleError):
        decode_entry(HOSTILE[why])
    data = head + bytes(wal._frames([*entries, HOSTILE[why]], wal._seed(1, 0))[0])
    path.write_bytes(data.ljust(1 << 16, b"\0"))
    assert opening(folder) in {"trust.not-canonical", "ledger.bad-entry"}


def test_attack_entries_that_are_too_large(tmp_path):
    folder = tmp_path / "ledger"
    with opened(folder) as ledger:
        first = ledger.append([event(text="")])[0].entry
        room = 65535 - len(Entry(event=first.event, seq=1, prev=first.digest()).encode())
        (largest,) = ledger.append([event(text="x" * room)])
        assert len(largest.entry.encode()) == 65535
        for size in (room + 1, 70_000, 1 << 20):
            with pytest.raises(SteleError) as raised:
                ledger.append([event(1), event(text="x" * size)])
            assert raised.value.code == "ledger.entry-too-large"
        assert ledger.size == 2
    assert LedgerReader(folder).check(TRUSTED) == []
    assert opening(folder) == "opened"


def test_attack_lengths_that_lead_out_of_a_file(tmp_path):
    """Lengths of records and of bundled entries are believed only as far as the file goes."""
    folder = written(tmp_path / "ledger", batches=1)
    bundle = next((folder / "tile" / "entries" / "000.p").iterdir())
    data = bundle.read_bytes()
    for changed in (b"\xff\xff" + data[2:], data + b"\xff\xff", data[:-1], b"\x00\x00" + data, data + b"\x00"):
        bundle.write_bytes(changed)
        assert LedgerReader(folder).check(TRUSTED) or changed.startswith(data)
    bundle.write_bytes(data)
    log = folder / ".state" / "wal.0"
    whole = bytearray(log.read_bytes())
    end = len(bytes(whole).rstrip(b"\0"))
    for length in (0xFFFF, 1, 0x8000):
        crc = zlib.crc32(b"")
        whole[end : end + wal.RECORD.size] = wal.RECORD.pack(length, 0xFFFF, crc)
        log.write_bytes(whole)
        assert opening(folder) == "opened"
        whole = bytearray(log.read_bytes())
        end = len(bytes(whole).rstrip(b"\0"))
