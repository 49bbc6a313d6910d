"""Recovery: what is true of a ledger folder after whatever happened to its last writer (docs/spec/ledger.md). Never signs."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from stele.ledger import tiles
from stele.ledger.edge import Edge
from stele.ledger.reader import archived
from stele.model.event import Entry, decode_entry
from stele.trust import note

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stele.ledger.wal import Wal


class Recovered(NamedTuple):
    """What was found. `entries`: those from index `base`, as the WAL has them; `unpublished`: their end, after the checkpoint.

    `synced_names`, `shown_names`: partial tiles that recovery and the present checkpoint need.
    """

    edge: Edge
    published: int
    base: int
    entries: list[bytes]
    unpublished: list[bytes]
    synced_names: frozenset[str]
    shown_names: list[frozenset[str]]


def recover(folder: Path, wal: Wal, verifier: note.Verifier) -> Recovered:
    """Take what is below the WAL's base from the bundles, the rest from the WAL; every root that was ever signed must come out.

    Tiles above the base are not synced: what a power cut tore of them is written again from the WAL.

    Raises:
        SteleError: `ledger.damaged`; `trust.*`: a checkpoint is not by this ledger's key.
        OSError: a torn tile could not be written again.
    """
    published, roots = _signed(folder, verifier)
    base, entries = wal.base, wal.recovered
    wal.recovered = []
    newest = max(roots, default=0)
    if wal.is_new and newest:
        raise tiles.damaged("there are checkpoints, but the write-ahead log is gone")
    if base > published:
        raise tiles.damaged(f"the write-ahead log begins at {base}, after the checkpoint of size {published}")
    if base + len(entries) < newest:
        raise tiles.damaged(f"the write-ahead log ends at {base + len(entries)}, before the signed checkpoint of size {newest}")
    edge = Edge()
    for raw in tiles.raw_entries(folder, base, 0, base):
        edge.take(raw)
        _compare(edge, roots)
    edge.pending.clear()
    synced = edge.partial()
    shown = synced
    for raw in entries:
        edge.take(raw)
        _compare(edge, roots)
        if edge.size == published:
            shown = edge.partial()
    for name, data in [*edge.pending, *shown]:
        tiles.write_tile(folder, name, data)
    edge.pending.clear()
    synced_names, shown_names = frozenset(name for name, _ in synced), frozenset(name for name, _ in shown)
    _prune(folder, published, synced_names | shown_names)
    return Recovered(edge, published, base, entries, entries[published - base :], synced_names, [shown_names])


def _signed(folder: Path, verifier: note.Verifier) -> tuple[int, dict[int, bytes]]:
    """The checkpoint's size, and size and root of it and of every archived one.

    A crash may leave one archived checkpoint that is newer than `checkpoint`: it was signed, so its root must come out, too.
    """
    published, roots = 0, dict[int, bytes]()
    with contextlib.suppress(FileNotFoundError):
        head = note.open_checkpoint((folder / "checkpoint").read_bytes(), [verifier])
        published, roots[head.size] = head.size, head.root
    for size, path in archived(folder):
        if size < published:
            continue  # `LedgerReader.check` looks at all of them
        old = note.open_checkpoint(path.read_bytes(), [verifier])
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
            for path in [*(folder / f"{whole}.p").glob("*"), *(folder / whole).parent.glob(".*.tmp")]:
                name = str(path.relative_to(folder))
                if name not in needed:
                    tiles.remove_tile(folder, name)


def entries_from(folder: Path, first: int, found: Recovered) -> Iterator[tuple[int, Entry]]:
    """Index and entry of everything from `first` on."""
    if first < found.base:
        for index, raw in enumerate(tiles.raw_entries(folder, found.base, first, found.base), first):
            yield index, decode_entry(raw)
    for index, raw in enumerate(found.entries, found.base):
        if index >= first:
            yield index, decode_entry(raw)
