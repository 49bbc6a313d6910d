"""The right edge of the log in memory: every chain's end, the partial tile of each level, what is not on disk as tiles yet."""

from __future__ import annotations

from pathlib import Path

from stele.ledger import tiles
from stele.model import epoch
from stele.model.chains import Chains
from stele.model.event import Entry, decode_entry
from stele.trust import merkle
from stele.trust.digest import sha256


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
        self._tail.append(raw)
        self._push(0, merkle.leaf_hash(raw))
        self.size += 1
        if self.size % tiles.WIDTH == 0:
            self.pending.append((tiles.bundle_path(self.size // tiles.WIDTH - 1, tiles.WIDTH), tiles.pack_bundle(self._tail)))
            self._tail = []

    def _push(self, level: int, digest: bytes) -> None:
        if level == len(self._levels):
            self._levels.append([])
        tile = self._levels[level]
        tile.append(digest)
        if len(tile) == tiles.WIDTH:
            self.pending.append((tiles.tile_path(level, self.size >> (8 * (level + 1)), tiles.WIDTH), b"".join(tile)))
            self._push(level + 1, merkle.root(tile))
            self._levels[level] = []

    def root(self) -> bytes:
        """Root over all entries."""
        return tiles.fold(self._levels)

    def partial(self) -> list[tuple[str, bytes]]:
        """The partial tiles and bundle of the present size."""
        out = []
        if self._tail:
            out.append((tiles.bundle_path(self.size // tiles.WIDTH, len(self._tail)), tiles.pack_bundle(self._tail)))
        for level, tile in enumerate(self._levels):
            if tile:
                out.append((tiles.tile_path(level, self.size >> (8 * (level + 1)), len(tile)), b"".join(tile)))
        return out
