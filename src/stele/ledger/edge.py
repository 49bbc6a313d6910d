"""The right edge of the log in memory: every chain's end, the partial tile of each level, what is not on disk as tiles yet. Pure."""

from __future__ import annotations

from stele.ledger import tiles
from stele.model.event import Entry, decode_entry
from stele.trust import merkle
from stele.trust.digest import sha256


class Edge:
    """All that is needed of the first `size` entries to append more. Not thread-safe: its owner serialises."""

    def __init__(self) -> None:
        self.size = 0
        self.heads: dict[str, tuple[int, str]] = {}  # workload: entries, digest of the last
        self.ends_in_epoch = False
        self.pending: list[tuple[str, bytes]] = []  # full tiles and bundles that nobody wrote yet
        self._tail: list[bytes] = []  # entries since the last bundle boundary
        self._levels: list[list[bytes]] = [[]]  # per tile level the hashes of its partial tile

    def take(self, raw: bytes, entry: Entry | None = None) -> Entry:
        """Count one entry in. `entry`: what `raw` decodes to, if it is known already.

        Raises:
            SteleError: `ledger.damaged`, `ledger.bad-entry`, `trust.not-canonical`; nothing was counted.
        """
        entry = decode_entry(raw) if entry is None else entry
        name = entry.event.workload
        if (entry.seq, entry.prev) != self.heads.get(name, (0, "")):
            raise tiles.damaged(f"entry {self.size} does not continue the chain of {name or 'the host'}")
        self.heads[name] = (entry.seq + 1, sha256(raw))
        self.ends_in_epoch = entry.event.kind == "epoch"
        self._tail.append(raw)
        self._push(0, merkle.leaf_hash(raw))
        self.size += 1
        if self.size % tiles.WIDTH == 0:
            self.pending.append((tiles.bundle_path(self.size // tiles.WIDTH - 1, tiles.WIDTH), tiles.pack_bundle(self._tail)))
            self._tail = []
        return entry

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
        carry: bytes | None = None
        for tile in self._levels:
            hashes = [*tile, carry] if carry is not None else tile
            # full tiles below count as one hash in the next level; the partial ones fold from the right
            carry = merkle.root(hashes) if hashes else None
        return carry if carry is not None else merkle.EMPTY_ROOT

    def partial(self) -> list[tuple[str, bytes]]:
        """The partial tiles and bundle of the present size."""
        out = []
        if self._tail:
            out.append((tiles.bundle_path(self.size // tiles.WIDTH, len(self._tail)), tiles.pack_bundle(self._tail)))
        for level, tile in enumerate(self._levels):
            if tile:
                out.append((tiles.tile_path(level, self.size >> (8 * (level + 1)), len(tile)), b"".join(tile)))
        return out
