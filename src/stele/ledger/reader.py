"""Reading a ledger without its lock: beside a running sequencer, or a copy. Everything read is checked against the checkpoint."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from stele.ledger import archive, projection, regular, tiles
from stele.ledger.mapfile import MapFile
from stele.model import epoch, epochmap
from stele.model.chains import Chains
from stele.model.event import HOST_WORKLOAD, Entry, decode_entry
from stele.trust import merkle, note
from stele.trust import root as roots
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from stele.trust.root import Root


class LedgerReader:
    """A ledger folder as it was when its checkpoint was read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self.note = regular.read(folder / "checkpoint", note.MAX_NOTE)
        except FileNotFoundError as error:
            raise SteleError(
                f"there is no published ledger in {folder}",
                remedy="seal or apply something first, or name the right folder",
                code="ledger.none",
            ) from error
        self.checkpoint = note.claimed(self.note)
        self._hashes = tiles.HashReader(folder, self.checkpoint.size)

    @property
    def size(self) -> int:
        """Entries that the checkpoint covers."""
        return self.checkpoint.size

    def raw_entries(self, begin: int, end: int) -> Iterator[bytes]:
        """Entries begin to end as bytes, from the bundles; not yet checked against the tree."""
        return tiles.raw_entries(self._folder, self.size, begin, end)

    def entries(self, workload: str | None = None) -> Iterator[tuple[int, Entry]]:
        """All entries, or those of one workload, with their index."""
        for index, raw in enumerate(self.raw_entries(0, self.size)):
            entry = decode_entry(raw)
            if workload is None or entry.event.workload == workload:
                yield index, entry

    def entries_between(self, begin: int, end: int) -> Iterator[tuple[int, Entry]]:
        """Entries begin to end with their index."""
        for index, raw in enumerate(self.raw_entries(begin, end), begin):
            yield index, decode_entry(raw)

    def inclusion(self, index: int) -> list[bytes]:
        """Audit path of one entry in the checkpoint's tree."""
        return merkle.inclusion(index, self.size, self._hashes.subtree)

    def consistency(self, old: int) -> list[bytes]:
        """Consistency proof from size `old` to the checkpoint's."""
        return merkle.consistency(old, self.size, self._hashes.subtree)

    def chain(self, workload: str, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Index and bytes of the entries `begin` to `end` of a workload's chain. Not checked: whoever uses them checks the chain.

        The projection says where they lie; where it does not know, all entries are looked at.
        """
        if begin >= end:
            return
        known = projection.places(self._folder / "projection.sqlite", workload, begin, end)
        if known is None:
            mine = (
                (index, raw) for index, raw in enumerate(self.raw_entries(0, self.size)) if decode_entry(raw).event.workload == workload
            )
            yield from itertools.islice(mine, begin, end)
            return
        for number, group in itertools.groupby(known, key=lambda index: index // tiles.WIDTH):
            wanted = list(group)
            if len(wanted) == 1:  # as a rule, where there are many workloads
                yield wanted[0], tiles.raw_entry(self._folder, self.size, wanted[0])
                continue
            first = number * tiles.WIDTH
            bundle = list(self.raw_entries(first, min(first + tiles.WIDTH, self.size)))
            for index in wanted:
                yield index, bundle[index - first]

    def check(self, trusted: Sequence[note.Verifier] | Root) -> list[str]:
        """Check everything; returns what does not fit, nothing if all does."""
        problems: list[str] = []
        try:
            head = roots.open_newest(self.note, trusted).checkpoint
        except SteleError as error:
            return [f"checkpoint: {error.reason}"]
        hashes: list[bytes] = []
        chains = Chains()
        maps: dict[int, tuple[bytes, int, int]] = {}
        trail = epoch.Trail()
        try:
            for index, raw in enumerate(self.raw_entries(0, self.size)):
                hashes.append(merkle.leaf_hash(raw))
                problems += self._check_entry(index, raw, chains, trail, maps)
        except SteleError as error:
            problems.append(error.reason)
        if len(hashes) == head.size and merkle.root(hashes) != head.root:
            problems.append(f"the entries do not lead to the signed root of size {head.size}: {self._culprits(hashes)}")
        problems += self._check_tiles(hashes)
        problems += self._check_archive(trusted, hashes)
        problems += self._check_map(maps)
        return problems

    def _check_entry(
        self, index: int, raw: bytes, chains: Chains, trail: epoch.Trail, maps: dict[int, tuple[bytes, int, int]]
    ) -> list[str]:
        problems = []
        try:
            entry = decode_entry(raw)
        except SteleError as error:
            return [f"entry {index}: {error.reason}"]
        if entry.event.kind == "epoch":
            try:
                epoch.check(entry, index, chains, trail)
            except SteleError as error:
                problems.append(error.reason)
            maps[index] = epochmap.hash_of(chains.root), chains.workloads, entry.event.time_ns
        trail.take(entry, index)
        try:
            chains.take(entry, sha256(raw), index)
        except SteleError as error:
            problems.append(error.reason)
            chains.put(entry, sha256(raw))  # so that only the first that is wrong is named
        if index == self.size - 1 and entry.event.kind != "epoch":
            problems.append("the last entry is not an epoch")
        return problems

    def _check_map(self, maps: dict[int, tuple[bytes, int, int]]) -> list[str]:
        """The maps on disk, every node of them, against those that the entries make. What is missing is no harm: it can be made."""
        try:
            file = MapFile(self._folder)
        except OSError:
            return []
        except SteleError as error:
            return [error.reason]
        with file:
            try:
                return file.check(maps)
            except SteleError as error:
                return [error.reason]

    def _culprits(self, hashes: Sequence[bytes]) -> str:
        """Which entries differ from the level-0 tiles, for the reader's eye."""
        found = []
        for number in range(-(-len(hashes) // tiles.WIDTH)):
            try:
                tile = self._hashes.tile(0, number)
            except SteleError:
                continue
            for offset, digest in enumerate(hashes[number * tiles.WIDTH : (number + 1) * tiles.WIDTH]):
                if tile[32 * offset : 32 * offset + 32] != digest:
                    found.append(number * tiles.WIDTH + offset)
        return f"altered: entries {found[:20]}" if found else "the tiles were altered along"

    def _check_tiles(self, hashes: list[bytes]) -> list[str]:
        problems = []
        level, current = 0, hashes
        while current:
            for number in range(-(-len(current) // tiles.WIDTH)):
                try:
                    tile = self._hashes.tile(level, number)
                except SteleError as error:
                    problems.append(error.reason)
                    continue
                if tile != b"".join(current[number * tiles.WIDTH : (number + 1) * tiles.WIDTH]):
                    problems.append(f"hash tile {level}/{number} does not fit the entries")
            current = [merkle.root(current[i : i + tiles.WIDTH]) for i in range(0, len(current) // tiles.WIDTH * tiles.WIDTH, tiles.WIDTH)]
            level += 1
        return problems

    def _check_archive(self, trusted: Sequence[note.Verifier] | Root, hashes: Sequence[bytes]) -> list[str]:
        problems = []
        old = {size: root for size, root in roots.good_heads(trusted).items() if size <= self.size}
        for size, path in archived(self._folder):
            try:
                head = roots.open_checkpoint(regular.read(path, note.MAX_NOTE), trusted)
            except SteleError as error:
                problems.append(f"archived checkpoint {path.name}: {error.reason}")
                continue
            if head.size != size:
                problems.append(f"archived checkpoint {path.name} is of size {head.size}")
            elif head.size > self.size:
                problems.append(f"the ledger was cut back: a checkpoint of size {head.size} exists, the head has {self.size}")
            elif old.setdefault(head.size, head.root) != head.root:
                problems.append(f"archived checkpoint {path.name} is not the good head that the root of trust names")
        found = merkle.Growing()
        for index, digest in enumerate(hashes, 1):
            found.add(digest)
            if index in old and old[index] != found.root():
                problems.append(f"the ledger was rewritten: the checkpoint of size {index} had another root")
        return problems


def archived(folder: Path) -> list[tuple[int, Path]]:
    """Size and path of every archived checkpoint, the smallest first."""
    path = folder / "checkpoints"
    return [(size, path / str(size)) for size in archive.sizes(path)]


def workloads(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Names of all workloads that appear, sorted."""
    return tuple(sorted({entry.event.workload for entry in entries} - {HOST_WORKLOAD}))
