"""Recovery: what is true of a ledger folder after whatever happened to its last writer (docs/spec/ledger.md). Never signs."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import msgspec

from stele.host import logs
from stele.ledger import notes, openings, regular, tiles
from stele.ledger.archive import Archive
from stele.ledger.edge import Edge
from stele.ledger.mapfile import MapFile
from stele.model import epochmap
from stele.model.chains import Chains
from stele.model.event import decode_entry
from stele.trust import note
from stele.trust import root as roots_
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from stele.ledger.mapfile import Root as Kept
    from stele.ledger.wal import Wal
    from stele.model.event import Event
    from stele.trust.root import Root

EPOCH_MARK = b'"kind":"epoch"'


class Recovered(msgspec.Struct, frozen=True):
    """What was found. `entries`: those from index `base`, as the WAL has them; `unpublished`: their end, after the checkpoint.
    `openings`: of those, by index.

    `map`: the epoch maps, for writing, up to the last epoch entry. `archive`: of checkpoints, for writing. `synced_names`, `shown_names`:
    partial tiles that recovery and the present checkpoint need.
    """

    edge: Edge
    map: MapFile
    archive: Archive
    published: int
    base: int
    entries: list[bytes]
    unpublished: list[bytes]
    openings: dict[int, bytes]
    synced_names: frozenset[str]
    shown_names: frozenset[str]


def recover(folder: Path, wal: Wal, trusted: Sequence[note.Verifier] | Root) -> Recovered:
    """Take what is below the WAL's base from the tiles, the rest from the WAL; every root signed since the base must come out.

    Tiles above the base are not synced: what a power cut tore of them is written again from the WAL, and so is what is whole, for
    after a failed sync memory may show what the disk does not have.

    Raises:
        SteleError: `ledger.damaged`; `trust.*`: a checkpoint is not by this ledger's key.
        OSError: a torn tile could not be written again.
    """
    base, entries = wal.base, wal.recovered
    opening = wal.openings
    if not _is_shown(folder, wal):
        wal.make_true()
    notes.refuse_lost(wal.rest, base + len(entries), trusted)
    archive = Archive(folder)
    restored = notes.restore(folder, archive, wal.notes, base + len(entries), trusted)
    wal.recovered, wal.openings, wal.notes, wal.rest = [], {}, [], b""
    published, roots = _signed(folder, archive, trusted, base)
    roots = restored | roots
    newest = max(roots, default=0)
    for size, root in roots_.good_heads(trusted).items():
        if size <= published and roots.setdefault(size, root) != root:
            raise tiles.damaged(f"the checkpoint of size {size} is not the good head that the root of trust names")
    if wal.is_new and newest:
        raise tiles.damaged("there are checkpoints, but the write-ahead log is gone")
    if base > published:
        raise tiles.damaged(f"the write-ahead log begins at {base}, after the checkpoint of size {published}")
    if base + len(entries) < newest:
        raise tiles.damaged(f"the write-ahead log ends at {base + len(entries)}, before the signed checkpoint of size {newest}")
    maps = MapFile(folder, write=True)
    try:
        synced, edge = _covered(folder, base, entries[: published - base], roots, maps)
        shown = edge.partial()
        for raw in entries[published - base :]:
            count_in(edge, raw, maps)
            _compare(edge, roots)
        for name, data in [*edge.pending, *shown]:
            tiles.write_tile(folder, name, data, again=True)
        maps.write_again(base)
        edge.pending.clear()
        openings.Writer(folder).put(sorted((index, data) for index, data in opening.items() if index < published))
        synced_names, shown_names = frozenset(name for name, _ in synced), frozenset(name for name, _ in shown)
        _prune(folder, published, synced_names | shown_names)
    except BaseException:
        maps.close()
        raise
    later = {index: data for index, data in opening.items() if index >= published}
    return Recovered(edge, maps, archive, published, base, entries, entries[published - base :], later, synced_names, shown_names)


def _is_shown(folder: Path, wal: Wal) -> bool:
    """Whether the head is the last note of the WAL, and covers all of its entries: it was shown after they and it had been synced.

    Where a file of the WAL was begun there is no note in it at first: so who finds none makes its header true.
    """
    if not wal.notes or note.claimed(wal.notes[-1]).size != wal.base + len(wal.recovered):
        return False
    try:
        return regular.read(folder / "checkpoint", note.MAX_NOTE).startswith(wal.notes[-1])
    except (OSError, SteleError):
        return False  # whoever needs it says so


def _covered(
    folder: Path, base: int, entries: Sequence[bytes], roots: dict[int, bytes], maps: MapFile
) -> tuple[list[tuple[str, bytes]], Edge]:
    """The partial tiles at the WAL's base, and the edge after the `entries` from there that the checkpoint covers.

    What is signed needs no second look but for its root, if the maps since the base are whole: a power cut may have torn them.
    """
    kept = maps.since(base, _epochs(base, entries)) if entries else None
    edge = edge_at(folder, base, roots, maps) if kept is None else _bare_edge(folder, base, roots)
    synced = edge.partial()
    if kept is not None:
        for size in sorted(size for size in roots if base < size <= base + len(entries)):
            edge.extend(entries[edge.size - base : size - base])
            _compare(edge, roots)
        if _take_map(edge, entries[-1], kept, maps):
            return synced, edge
        edge = edge_at(folder, base, roots, maps)
    for raw in entries:
        count_in(edge, raw, maps)
        _compare(edge, roots)
    return synced, edge


def _epochs(base: int, entries: Sequence[bytes]) -> dict[int, Event]:
    """The epochs among entries, by index."""
    found = {index: decode_entry(raw).event for index, raw in enumerate(entries, base) if EPOCH_MARK in raw}
    return {index: event for index, event in found.items() if event.kind == "epoch"}


def count_in(edge: Edge, raw: bytes, maps: MapFile) -> None:
    """Count in an entry that somebody else made, and append the map of an epoch. Raises like `Edge.take_checked`, and OSError."""
    index = edge.size
    entry = edge.take_checked(raw)
    if entry.event.kind == "epoch":
        maps.commit(index, edge.chains.root, edge.chains.workloads, entry.event.time_ns)


def edge_at(folder: Path, base: int, roots: dict[int, bytes], maps: MapFile) -> Edge:
    """The edge of what is below the WAL's base, where everything was synced: from the tiles and the map, if they fit.

    The base is the size of a checkpoint, its last entry an epoch, and that names the map: so all that is taken is signed.
    """
    kept = maps.keep(base)
    edge = _bare_edge(folder, base, roots)
    if base == 0:
        return edge
    (last,) = tiles.raw_entries(folder, base, base - 1, base)
    if kept is not None and _take_map(edge, last, kept, maps):
        return edge
    logs.of(__name__).warning("the epoch map is missing or does not fit: it is made again from all %d entries", base)
    return _replayed(folder, base, roots, maps)


def _bare_edge(folder: Path, base: int, roots: dict[int, bytes]) -> Edge:
    """The edge of what is below the WAL's base as the tiles have it, with no chains."""
    if base == 0:
        return Edge()
    edge = Edge.at(folder, base)
    if base not in roots:
        raise tiles.damaged(f"the checkpoint of size {base}, where the write-ahead log begins, is missing")
    _compare(edge, roots)
    return edge


def _take_map(edge: Edge, last: bytes, kept: Kept, maps: MapFile) -> bool:
    """Give an edge the chains of its last entry's epoch; False if the map is not the one that it names."""
    entry, index = decode_entry(last), edge.size - 1
    said = entry.event
    # all of the record: the nodes are checked by their hashes, the number of workloads is nowhere else
    if (kept.epoch, epochmap.hash_of(kept.node).hex(), kept.workloads, kept.time_ns) != (
        index,
        said.data.get("map_root"),
        said.data.get("map_size"),
        said.time_ns,
    ):
        return False
    edge.chains = Chains(kept.node, kept.workloads, maps.load)
    edge.chains.take(entry, sha256(last), index)
    edge.trail.take(entry, index)
    edge.ends_in_epoch = True
    return True


def empty_edge(maps: MapFile) -> Edge:
    """The edge of no entries; it reads maps from the file."""
    return Edge(Chains(load=maps.load))


def _replayed(folder: Path, base: int, roots: dict[int, bytes], maps: MapFile) -> Edge:
    maps.keep(0)
    edge = empty_edge(maps)
    for raw in tiles.raw_entries(folder, base, 0, base):
        count_in(edge, raw, maps)
        edge.pending.clear()
    _compare(edge, roots)
    return edge


def _signed(folder: Path, archive: Archive, trusted: Sequence[note.Verifier] | Root, base: int) -> tuple[int, dict[int, bytes]]:
    """The checkpoint's size; size and root of it, of the one at the WAL's base, and of every archived one that is newer.

    A crash may leave one archived checkpoint that is newer than `checkpoint`: it was signed, so its root must come out, too.
    """
    published, roots, head = 0, dict[int, bytes](), b""
    with contextlib.suppress(FileNotFoundError):
        head = regular.read(folder / "checkpoint", note.MAX_NOTE)
        newest = roots_.open_newest(head, trusted).checkpoint
        published, roots[newest.size] = newest.size, newest.root
    # older ones `LedgerReader.check` looks at
    for size, path in [*((each, archive.path / str(each)) for each in sorted({base, published} - {0})), *archive.newer(published + 1)]:
        try:
            signed = regular.read(path, note.MAX_NOTE)
        except FileNotFoundError:
            continue
        if size == published and signed == head:
            continue  # it was looked at
        old = roots_.open_checkpoint(signed, trusted)
        if old.size != size or roots.get(size, old.root) != old.root:
            raise tiles.damaged(f"the archived checkpoint {size} is not the one that was signed")
        roots[size] = old.root
    return published, roots


def _compare(edge: Edge, roots: dict[int, bytes]) -> None:
    if edge.size in roots and roots[edge.size] != edge.root():
        raise tiles.damaged(f"the entries do not lead to the root of the checkpoint of size {edge.size}")


def _prune(folder: Path, size: int, needed: frozenset[str]) -> None:
    """Remove what earlier processes left at the right edge: partial tiles of older checkpoints, and temporary files."""
    for level in range(-1, 8):
        full, _ = tiles.widths(size, max(level, 0))
        for number in range(max(0, full - 1), full + 1):
            whole = tiles.bundle_path(number, tiles.WIDTH) if level < 0 else tiles.tile_path(level, number, tiles.WIDTH)
            above = whole.rpartition("/")[0]
            names = [f"{above}/{name}" for name in _names(folder, above) if name.startswith(".") and name.endswith(".tmp")]
            for name in [*(f"{whole}.p/{name}" for name in _names(folder, f"{whole}.p")), *names]:
                if name not in needed:
                    tiles.remove_tile(folder, name)


def _names(folder: Path, name: str) -> list[str]:
    try:
        return os.listdir(f"{folder}/{name}")
    except OSError:
        return []


def raws_from(folder: Path, first: int, found: Recovered) -> Iterator[bytes]:
    """Every entry from `first` on."""
    if first < found.base:
        yield from tiles.raw_entries(folder, found.base, first, found.base)
    yield from found.entries[max(first - found.base, 0) :]
