"""The right edge of the log in memory: every chain's end, the partial tile of each level, what is not on disk as tiles yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stele.ledger import tiles
from stele.model import epoch
from stele.model.chains import Chains
from stele.model.event import Entry, decode_entry
from stele.trust import merkle
from stele.trust.digest import sha256

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Placed(msgspec.Struct, frozen=True, gc=False):
    """An entry with its bytes, their digest (`sha256:<hex>`), and what opens its private fields, or nothing."""

    raw: bytes
    entry: Entry
    digest: str
    opening: bytes


class Ends(msgspec.Struct, frozen=True):
    """What of the first `size` entries is not in a full tile: entries, and by level the hashes of its partial tile."""

    size: int
    tail: list[bytes]
    levels: list[list[bytes]]

    def root(self) -> bytes:
        """Root over all entries."""
        return tiles.fold(self.levels)

    def partial(self) -> list[tuple[str, bytes]]:
        """The partial tiles and bundle of the size."""
        out = []
        if self.tail:
            out.append((tiles.bundle_path(self.size // tiles.WIDTH, len(self.tail)), tiles.pack_bundle(self.tail)))
        for level, tile in enumerate(self.levels):
            if tile:
                out.append((tiles.tile_path(level, self.size >> (8 * (level + 1)), len(tile)), b"".join(tile)))
        return out


class Edge:
    """All that is needed of the first `size` entries to append more. Not thread-safe: its owner serialises."""

    def __init__(self, chains: Chains | None = None) -> None:
        self.size = 0
        self.chains = chains or Chains()
        self.trail = epoch.Trail()
        self.ends_in_epoch = False
        self.pending: list[tuple[str, bytes]] = []  # full tiles and bundles that nobody wrote yet
        self._tail: list[bytes] = []  # entries since the last bundle boundary
        self._levels: list[list[bytes]] = [[]]  # per tile level the hashes of its partial tile

    @classmethod
    def at(cls, folder: Path, size: int) -> Edge:
        """The edge of the first `size` entries as the tiles have it, with no chains; compare its root with a signed one.

        Raises:
            SteleError: `ledger.damaged`.
        """
        edge = cls()
        edge.size = size
        reader = tiles.HashReader(folder, size)
        level = 0
        edge._levels = []
        while size >> (8 * level):
            full, partial = tiles.widths(size, level)
            tile = reader.tile(level, full) if partial else b""
            edge._levels.append(tiles.hashes(tile))
            level += 1
        edge._levels = edge._levels or [[]]
        edge._tail = list(tiles.raw_entries(folder, size, size // tiles.WIDTH * tiles.WIDTH, size))
        if [merkle.leaf_hash(raw) for raw in edge._tail] != edge._levels[0]:
            raise tiles.damaged("the last entry bundle does not fit its hash tile")
        return edge

    def take_checked(self, raw: bytes, entry: Entry | None = None) -> Entry:
        """Count in an entry that somebody else made: what it says of the ledger itself must be true, too. Raises like `take`."""
        entry = decode_entry(raw) if entry is None else entry
        if entry.event.kind == "epoch":
            epoch.check(entry, self.size, self.chains, self.trail)
        self.take(raw, entry, sha256(raw))
        return entry

    def take(self, raw: bytes, entry: Entry, digest: str) -> None:
        """Count one entry in. `entry`: what `raw` decodes to. `digest`: `sha256:<hex>` of `raw`.

        Raises:
            SteleError: `ledger.damaged`, `ledger.bad-entry`, `ledger.bad-map`, `trust.not-canonical`; nothing was counted.
        """
        self.chains.take(entry, digest, self.size)
        self.trail.take(entry, self.size)
        self.ends_in_epoch = entry.event.kind == "epoch"
        self.extend((raw,))

    def extend(self, raws: Sequence[bytes]) -> None:
        """Count in entries that are known to be right, and leave chains to the caller."""
        begin = 0
        while begin < len(raws):
            part = raws[begin : begin + tiles.WIDTH - len(self._tail)]
            begin += len(part)
            self._tail += part
            self._levels[0] += map(merkle.leaf_hash, part)
            self.size += len(part)
            if len(self._tail) == tiles.WIDTH:
                self._fill(0)
                self.pending.append((tiles.bundle_path(self.size // tiles.WIDTH - 1, tiles.WIDTH), tiles.pack_bundle(self._tail)))
                self._tail = []

    def take_own(self, placed: Sequence[Placed]) -> None:
        """Count in what was numbered for this edge (`numbering.place`) and written: one entry or more."""
        for index, each in enumerate(placed, self.size):
            self.chains.put(each.entry, each.digest)
            self.trail.take(each.entry, index)
        self.extend([each.raw for each in placed])
        self.ends_in_epoch = placed[-1].entry.event.kind == "epoch"

    def _fill(self, level: int) -> None:
        """The tile of a level is full: it goes to disk, its root to the level above."""
        tile, self._levels[level] = self._levels[level], []
        self.pending.append((tiles.tile_path(level, (self.size >> (8 * (level + 1))) - 1, tiles.WIDTH), b"".join(tile)))
        if level + 1 == len(self._levels):
            self._levels.append([])
        self._levels[level + 1].append(merkle.root(tile))
        if len(self._levels[level + 1]) == tiles.WIDTH:
            self._fill(level + 1)

    def ends(self) -> Ends:
        """What is not in a full tile, as it is now."""
        return Ends(self.size, self._tail[:], [tile[:] for tile in self._levels])

    def root(self) -> bytes:
        """Root over all entries."""
        return tiles.fold(self._levels)

    def partial(self) -> list[tuple[str, bytes]]:
        """The partial tiles and bundle of the present size."""
        return self.ends().partial()
