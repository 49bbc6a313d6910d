"""A published ledger as it was at any instant: epochs around it, checkpoints of then, maps of then. What proofs are made of.

Nothing is replayed where the maps are kept (docs/spec/epoch-map.md); where they are not, they are made again in memory.
"""

from __future__ import annotations

import contextlib
import logging
from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple, Self

from stele.ledger import regular, tiles
from stele.ledger.mapfile import MapFile, Root
from stele.ledger.reader import LedgerReader, archived
from stele.model import epoch, epochmap
from stele.model.chains import Chains
from stele.model.event import decode_entry
from stele.trust import merkle, note
from stele.trust.digest import sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stele.model.epochmap import Found, Kept, Leaf, Stub

log = logging.getLogger(__name__)


MAX_TIMESTAMP = 1 << 20


class SignedHead(NamedTuple):
    """A checkpoint that covers an epoch: the note, its size, RFC 3161 answers over it; and the epoch's entry."""

    note: bytes
    size: int
    entry: bytes
    timestamps: tuple[bytes, ...]


class _Replayed:
    """The maps of all epochs, made in memory from all entries."""

    def __init__(self, reader: LedgerReader) -> None:
        self._roots: list[Root] = []
        chains, trail = Chains(), epoch.Trail()
        for index, raw in enumerate(reader.raw_entries(0, reader.size)):
            entry = decode_entry(raw)
            if entry.event.kind == "epoch":
                epoch.check(entry, index, chains, trail)
                self._roots.append(Root(index, chains.root, chains.workloads, entry.event.time_ns))
            chains.take(entry, sha256(raw), index)
            trail.take(entry, index)

    def around(self, time_ns: int) -> tuple[Root | None, Root | None]:
        at = bisect_left(self._roots, time_ns, key=lambda root: root.time_ns)
        return self._roots[at - 1] if at else None, self._roots[at] if at < len(self._roots) else None

    def root(self, index: int) -> Root | None:
        return next((root for root in self._roots if root.epoch == index), None)

    @staticmethod
    def load(stub: Stub) -> Kept:
        return epochmap.no_stubs(stub)

    def close(self) -> None:
        pass


class PastLedger:
    """A ledger folder as it was when its checkpoint was read, and at every epoch before."""

    def __init__(self, folder: Path, doubted: Callable[[bytes], bool] = lambda _: False) -> None:
        """`doubted`: whether a note should not be used, because a newer one is signed with better keys."""
        self._folder, self._doubted = folder, doubted
        self.reader = LedgerReader(folder)
        self._hashes = tiles.HashReader(folder, self.reader.size)
        last = tiles.raw_entry(folder, self.reader.size, self.reader.size - 1)
        said = decode_entry(last).event.data.get("map_root")
        self._maps: MapFile | _Replayed
        try:
            self._maps = MapFile(folder)
            found = self._maps.root(self.reader.size - 1)
            fits = found is not None and epochmap.hash_of(found.node).hex() == said
        except OSError:
            fits = False
        if not fits:
            log.warning("the epoch maps are missing or do not fit: they are made again from all %d entries", self.reader.size)
            self._maps = _Replayed(self.reader)
            found = self._maps.root(self.reader.size - 1)
        if found is None:
            raise tiles.damaged("its last entry is not an epoch")
        self.newest = found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._maps.close()

    # --- epochs and their maps

    def around(self, time_ns: int) -> tuple[Root | None, Root | None]:
        """The last epoch that is stamped before an instant, and the one after it; None where no checkpoint covers one."""
        if time_ns > self.newest.time_ns:
            return self.newest, None
        return self._maps.around(time_ns)

    def find(self, at: Root, key: int) -> Found:
        """Where the path of a key ends in the map of an epoch.

        Raises:
            SteleError: `ledger.bad-map`.
        """
        return epochmap.find(at.node, key, self._maps.load)

    def workloads(self, at: Root) -> tuple[list[Leaf], bytes]:
        """The leaves of all workloads in the map of an epoch, sorted by key, and the hash of the map's other half."""
        root = self._maps.load(at.node) if isinstance(at.node, epochmap.Stub) else at.node
        half, rest = (root.left, epochmap.hash_of(root.right)) if isinstance(root, epochmap.Branch) else (root, epochmap.EMPTY)
        return [leaf for leaf in epochmap.leaves(half, self._maps.load) if isinstance(leaf, epochmap.Leaf)], rest

    # --- the log

    def head(self, at: Root) -> SignedHead:
        """The checkpoint of then; where none was signed just there, the next one."""
        entry = tiles.raw_entry(self._folder, self.reader.size, at.epoch)
        try:
            signed = regular.read(self._folder / "checkpoints" / str(at.epoch + 1), note.MAX_NOTE)
        except OSError:
            later = next((path for size, path in archived(self._folder) if at.epoch < size <= self.reader.size), None)
            signed = regular.read(later, note.MAX_NOTE) if later is not None else self.reader.note
        if self._doubted(signed):
            signed = self.reader.note
        size = note.unverified(signed).size
        stamps: tuple[bytes, ...] = ()
        with contextlib.suppress(OSError):  # docs/spec/timestamps.md
            stamps = (regular.read(self._folder / "checkpoints" / f"{size}.tsr", MAX_TIMESTAMP),)
        return SignedHead(signed, size, entry, stamps)

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Audit path of an entry in the tree of a size."""
        return merkle.inclusion(index, size, self._hashes.subtree)

    def chain(self, workload: str, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Index and bytes of a workload's entries from `begin` up to `end`, as its own count goes. Not checked."""
        return self.reader.chain(workload, begin, end)

    def raw_entries(self, begin: int, end: int) -> Iterator[bytes]:
        """Entries as bytes. Not checked."""
        return self.reader.raw_entries(begin, end)
