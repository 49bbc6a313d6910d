"""Tiles at their boundaries, and what is left of them."""

from __future__ import annotations

from stele.ledger import tiles, wal
from stele.ledger.reader import LedgerReader
from stele.trust import merkle
from tests.ledgers import TRUSTED, event, opened, quiet
from tests.refusals import code


def test_every_size_around_the_first_tile_boundary(folder, monkeypatch):
    ledger = quiet(folder, monkeypatch)
    ledger.append([event(number) for number in range(250)])
    for _ in range(8):
        size = ledger.publish()
        reader = LedgerReader(folder)
        assert reader.size == size
        assert reader.check(TRUSTED) == []
        hashes = [merkle.leaf_hash(raw) for raw in reader.raw_entries(0, size)]
        for index in (0, 128, 249, size - 1):
            assert merkle.root_from_inclusion(index, size, hashes[index], reader.inclusion(index)) == reader.checkpoint.root
        assert merkle.is_consistent(200, size, merkle.root(hashes[:200]), reader.checkpoint.root, reader.consistency(200))
        ledger.append([event(size)])
    ledger.close()
    assert (folder / "tile/0/000").stat().st_size == 8192


def test_beyond_65536_entries(folder, monkeypatch):
    """Level 2 tiles, and that a reader of the older checkpoint is not disturbed by the newer one."""
    ledger = quiet(folder, monkeypatch)
    for _ in range(16):
        ledger.append([event(number, kind="violation") for number in range(4095)])
    assert ledger.publish() == 65521
    before = LedgerReader(folder)
    ledger.append([event(number, kind="violation") for number in range(14)])
    assert ledger.publish() == 65536
    at_boundary = LedgerReader(folder)
    ledger.append([event(number, kind="violation") for number in range(300)])
    assert ledger.publish() == 65837
    after = LedgerReader(folder)
    for reader in (before, at_boundary, after):
        raws = list(reader.raw_entries(65000, reader.size))
        for index in (65000, reader.size - 1):
            leaf = merkle.leaf_hash(raws[index - 65000])
            assert merkle.root_from_inclusion(index, reader.size, leaf, reader.inclusion(index)) == reader.checkpoint.root
    steps = after.consistency(before.size)
    assert merkle.is_consistent(before.size, after.size, before.checkpoint.root, after.checkpoint.root, steps)
    assert after.check(TRUSTED) == []
    ledger.close()
    assert (folder / "tile/1/000").stat().st_size == 8192
    assert (folder / "tile/2/000.p/1").stat().st_size == 32
    assert wal.Wal(folder / ".state").base > 0  # it was recycled on the way
    with opened(folder) as ledger:
        assert ledger.size == 65837


def test_partial_tiles_do_not_pile_up(folder, monkeypatch):
    ledger = quiet(folder, monkeypatch)
    for number in range(40):
        ledger.append([event(number)])
        ledger.publish()
    names = sorted(int(path.name) for path in (folder / "tile/entries/000.p").iterdir())
    assert names == [78, 80]  # of this checkpoint and of the one before it, for whoever is reading that
    ledger.close()
    with opened(folder):
        assert [path.name for path in (folder / "tile/entries/000.p").iterdir()] == ["80"]
    assert LedgerReader(folder).check(TRUSTED) == []


def test_numbers_of_tiles():
    assert tiles.tile_path(0, 1234067, 256) == "tile/0/x001/x234/067"
    assert tiles.tile_path(3, 5, 7) == "tile/3/005.p/7"
    assert tiles.bundle_path(999, 256) == "tile/entries/999"
    assert tiles.bundle_path(1000, 255) == "tile/entries/x001/000.p/255"
    assert [tiles.widths(70_000, level) for level in range(3)] == [(273, 112), (1, 17), (0, 1)]


def test_bundles_read_back_or_are_refused():
    entries = [b"a", b"", b"x" * 65535]
    data = tiles.pack_bundle(entries)
    assert tiles.unpack_bundle(data) == entries
    for cut in (1, 2, 4, 6, 100, len(data) - 1):
        assert code(tiles.unpack_bundle, data[:cut]) == "ledger.damaged"
