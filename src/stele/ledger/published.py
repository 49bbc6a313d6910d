"""Reading a published ledger from wherever it lies; whatever is returned was checked against the signed root on its way.

Costs what is asked for, not what the ledger holds: one bundle, its hash tile, and the tiles above that.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from stele.ledger import source as sources
from stele.ledger import tiles
from stele.trust import merkle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stele.ledger.source import Source
    from stele.trust.note import Checkpoint

CACHED = 512  # tiles of 8 KiB


class Published:
    """The log that a checkpoint commits to. The caller opened that checkpoint: its signature held. Not thread-safe."""

    def __init__(self, source: Source, checkpoint: Checkpoint) -> None:
        """Read the right edge of the tree, which must lead to the signed root.

        Raises:
            SteleError: `ledger.damaged`: it does not, or is not there; `http.*`.
        """
        self._source, self.checkpoint = source, checkpoint
        self._cache: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._edge: dict[tuple[int, int], bytes] = {}
        levels: list[list[bytes]] = []
        while self.size >> (8 * len(levels)):
            level = len(levels)
            full, partial = tiles.widths(self.size, level)
            if partial:
                self._edge[level, full] = self._fetch(level, full, partial)
            levels.append(tiles.hashes(self._edge.get((level, full), b"")))
        if tiles.fold(levels) != checkpoint.root:
            raise tiles.damaged("its hash tiles do not lead to the signed root")

    @property
    def size(self) -> int:
        """Entries that the checkpoint covers."""
        return self.checkpoint.size

    def _fetch(self, level: int, number: int, width: int) -> bytes:
        name = tiles.tile_path(level, number, tiles.WIDTH)
        data = sources.prefix(self._source, name, width)
        if data is None:
            raise tiles.damaged(f"tile {tiles.tile_path(level, number, width)} is missing or short")
        return data

    def tile(self, level: int, number: int) -> bytes:
        """The hashes of a tile that the tree has, in its fullest form for this size.

        Raises:
            SteleError: `ledger.damaged`, `http.*`.
        """
        if (level, number) in self._edge:
            return self._edge[level, number]
        known = self._cache.get((level, number))
        if known is not None:
            self._cache.move_to_end((level, number))
            return known
        if number >= tiles.widths(self.size, level)[0]:
            raise ValueError("the tree has no such tile")
        data = self._fetch(level, number, tiles.WIDTH)
        above, at = divmod(number, tiles.WIDTH)
        expected = self.tile(level + 1, above)[32 * at : 32 * at + 32]
        if merkle.root(tiles.hashes(data)) != expected:
            raise tiles.damaged(f"tile {tiles.tile_path(level, number, tiles.WIDTH)} is not what the signed root commits to")
        self._cache[level, number] = data
        if len(self._cache) > CACHED:
            self._cache.popitem(last=False)
        return data

    def bundle(self, number: int) -> list[bytes]:
        """The entries of one bundle that the tree has.

        Raises:
            SteleError: `ledger.damaged`, `http.*`.
        """
        width = min(tiles.WIDTH, self.size - number * tiles.WIDTH)
        name = tiles.bundle_path(number, tiles.WIDTH)
        data = sources.prefix(self._source, name, width)
        if data is None:
            raise tiles.damaged(f"the entry bundle {tiles.bundle_path(number, width)} is missing or cut off")
        entries = tiles.unpack_bundle(data)
        if b"".join(map(merkle.leaf_hash, entries)) != self.tile(0, number):
            raise tiles.damaged(f"the entry bundle {tiles.bundle_path(number, width)} is not what the signed root commits to")
        return entries

    def entries(self, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Index and bytes of entries begin to end. Raises like `bundle`."""
        for number in range(begin // tiles.WIDTH, -(-end // tiles.WIDTH)):
            first = number * tiles.WIDTH
            for index, raw in enumerate(self.bundle(number), first):
                if begin <= index < end:
                    yield index, raw

    def subtree(self, begin: int, end: int) -> bytes:
        """Root over leaves begin to end, `begin` aligned as RFC 6962 splits."""
        return tiles.subtree(self.tile, begin, end)

    def inclusion(self, index: int) -> list[bytes]:
        """Audit path of one entry."""
        return merkle.inclusion(index, self.size, self.subtree)

    def consistency(self, old: int) -> list[bytes]:
        """Consistency proof from size `old`."""
        return merkle.consistency(old, self.size, self.subtree)

    def root_at(self, old: int) -> bytes:
        """The root that the log had when it held its first `old` entries: what an earlier checkpoint must say."""
        if old == 0:
            return merkle.EMPTY_ROOT
        return self.checkpoint.root if old == self.size else self.subtree(0, old)
