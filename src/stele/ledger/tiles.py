"""tlog-tiles on disk (C2SP): paths, hash tiles, entry bundles. Height 8: a full tile holds 256 hashes or entries."""

from __future__ import annotations

import contextlib
import os
import struct
from typing import TYPE_CHECKING

from stele.host import durable, logs
from stele.ledger import regular
from stele.model.damage import damaged as damaged  # noqa: PLC0414  readers of tiles raise it, too
from stele.trust import merkle
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

WIDTH = 256
MAX_BUNDLE = (2 + 65535) * WIDTH
CACHED_TILES = 1024  # 8 KiB each


def number_path(number: int) -> str:
    """A tile number in groups of three digits: 1234067 is x001/x234/067."""
    text = f"{number % 1000:03d}"
    while number >= 1000:
        number //= 1000
        text = f"x{number % 1000:03d}/{text}"
    return text


def tile_path(level: int, number: int, width: int) -> str:
    """Path of a hash tile; partial ones end in .p/<width>."""
    return f"tile/{level}/{number_path(number)}" + (f".p/{width}" if width < WIDTH else "")


def bundle_path(number: int, width: int) -> str:
    """Path of an entry bundle."""
    return f"tile/entries/{number_path(number)}" + (f".p/{width}" if width < WIDTH else "")


def pack_bundle(entries: Sequence[bytes]) -> bytes:
    """u16 big-endian length and bytes of each entry."""
    return b"".join([piece for entry in entries for piece in (len(entry).to_bytes(2), entry)])


def unpack_bundle(data: bytes) -> list[bytes]:
    """The inverse of `pack_bundle`.

    Raises:
        SteleError: `ledger.damaged`.
    """
    entries, position = [], 0
    while position < len(data):
        if position + 2 > len(data):
            raise damaged("an entry bundle is cut off")
        (length,) = struct.unpack_from(">H", data, position)
        entry = data[position + 2 : position + 2 + length]
        if len(entry) != length:
            raise damaged("an entry bundle is cut off")
        entries.append(entry)
        position += 2 + length
    return entries


def widths(size: int, level: int) -> tuple[int, int]:
    """Full tiles and width of the partial tile at `level` of a tree of `size` leaves."""
    count = size >> (8 * level)
    return count // WIDTH, count % WIDTH


def is_torn(found: bytes, data: bytes) -> bool:
    """Whether `found` may be what a power cut left of `data`: cut short, or with stretches of zeros, and nothing else."""
    return len(found) <= len(data) and all(have in {0, want} for have, want in zip(found, data, strict=False))


def write_tile(root: Path, name: str, data: bytes, *, again: bool = False) -> None:
    """Write by temp and rename, without fsync (the WAL still has it). What is there already must be the same.

    What a power cut tore is written again: callers vouch for `data` by the WAL and the signed root. `again`: and what is whole,
    too, for an earlier process may have been told that the disk does not have it.

    Raises:
        SteleError: `ledger.damaged` where something else is there.
        OSError: nothing changed.
    """
    # few system calls: after each, a busy thread that appends lets this one wait
    path = f"{root}/{name}"
    try:
        found = regular.read(path, MAX_BUNDLE)
    except FileNotFoundError:
        pass
    else:
        if found == data:
            if again:
                durable.write_again(path, data)
            return
        if not is_torn(found, data):
            raise damaged(f"{name} is there with other content")
        logs.of(__name__).warning("%s was torn by a crash and is written again from the write-ahead log", name)
    folder, _, last = path.rpartition("/")
    temp = f"{folder}/.{last}.{os.urandom(4).hex()}.tmp"
    try:
        fd = _created(folder, temp)
        try:
            durable.write_all(fd, data)
        finally:
            os.close(fd)
        os.rename(temp, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temp)
        raise


def _created(folder: str, path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        os.makedirs(folder, exist_ok=True)
        return os.open(path, flags, 0o666)


def remove_tile(root: Path, name: str) -> None:
    """Remove a partial tile that nothing needs any more; failing to is harmless."""
    with contextlib.suppress(OSError):
        os.unlink(f"{root}/{name}")
        os.rmdir(os.path.dirname(f"{root}/{name}"))


def _wider(folder: str, width: int) -> list[int]:
    try:
        names = [name for name in os.listdir(folder) if name.isascii() and name.isdigit()]
    except OSError:
        return []
    return sorted(found for found in map(int, names) if width < found < WIDTH)


def _candidates(root: Path, path_of: Callable[[int], str], width: int) -> Iterator[bytes]:
    """What is there of a tile with at least `width` items, that of the very width first: a fuller one begins with the same items, but
    may be newer than what is synced, and torn by a power cut.

    The sequencer removes partial tiles that fuller ones have replaced; the full tile is looked for once more at the end, because
    it may have taken their place meanwhile.
    """
    yield from _read(f"{root}/{path_of(width)}")
    if width < WIDTH:
        full = f"{root}/{path_of(WIDTH)}"
        yield from _read(full)
        for found in _wider(f"{full}.p", width):
            yield from _read(f"{root}/{path_of(found)}")
        yield from _read(full)


def _read(path: str) -> Iterator[bytes]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        yield regular.read(path, MAX_BUNDLE)


def raw_entries(root: Path, size: int, begin: int, end: int) -> Iterator[bytes]:
    """Entries begin to end of a log of `size`, from the bundles; not checked against the tree.

    Raises:
        SteleError: `ledger.damaged`: one is missing or unreadable.
    """
    for number in range(begin // WIDTH, -(-end // WIDTH)) if begin < end else ():
        width = min(WIDTH, size - number * WIDTH)
        first = number * WIDTH
        yield from _bundle(root, number, width)[max(begin - first, 0) : end - first]


def raw_entry(root: Path, size: int, index: int) -> bytes:
    """One entry of a log of `size`: like `raw_entries`, without taking the whole bundle apart.

    Raises:
        SteleError: `ledger.damaged`: it is missing or unreadable.
    """
    number, place = divmod(index, WIDTH)
    width = min(WIDTH, size - number * WIDTH)
    for data in _candidates(root, lambda w: bundle_path(number, w), width):
        at = 0
        for _ in range(place):
            at += 2 + int.from_bytes(data[at : at + 2], "big")
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if at + 2 <= end <= len(data):
            return data[at + 2 : end]
    raise damaged(f"the entry bundle {bundle_path(number, width)} is missing or cut off")


def _bundle(root: Path, number: int, width: int) -> list[bytes]:
    for data in _candidates(root, lambda w: bundle_path(number, w), width):
        with contextlib.suppress(SteleError):
            entries = unpack_bundle(data)
            if width <= len(entries) <= WIDTH:
                return entries[:width]
    raise damaged(f"the entry bundle {bundle_path(number, width)} is missing or cut off")


def hashes(tile: bytes) -> list[bytes]:
    """The hashes of a tile."""
    return [tile[at : at + 32] for at in range(0, len(tile), 32)]


def fold(levels: Iterable[Sequence[bytes]]) -> bytes:
    """Root of a tree from the hashes in the partial tile of each level: full tiles below count as one hash in the next."""
    carry: bytes | None = None
    for partial in levels:
        mine = [*partial, carry] if carry is not None else partial
        carry = merkle.root(mine) if mine else None
    return carry if carry is not None else merkle.EMPTY_ROOT


def subtree(tile: Callable[[int, int], bytes], begin: int, end: int) -> bytes:
    """Root over leaves begin to end, `begin` aligned as RFC 6962 splits. `tile`: gives the hashes of one by level and number."""
    count = end - begin
    if count & (count - 1) == 0 and begin % count == 0:
        level, height = divmod(count.bit_length() - 1, 8)
        number, at = divmod(begin >> (8 * level), WIDTH)
        found = hashes(tile(level, number)[32 * at : 32 * (at + (1 << height))])
        if len(found) == 1 << height:
            return merkle.root(found)
    middle = begin + merkle.split(count)
    return merkle.node_hash(subtree(tile, begin, middle), subtree(tile, middle, end))


class HashReader:
    """Hashes of complete subtrees, from tiles; what is right of the last tile boundary is computed."""

    def __init__(self, root: Path, size: int) -> None:
        self._root, self._size = root, size
        self._cache: dict[tuple[int, int], bytes] = {}

    def tile(self, level: int, number: int) -> bytes:
        """Bytes of one hash tile of the tree, in its fullest form for this size.

        Raises:
            SteleError: `ledger.damaged`.
        """
        if (level, number) not in self._cache:
            full, partial = widths(self._size, level)
            width = WIDTH if number < full else partial
            candidates = _candidates(self._root, lambda w: tile_path(level, number, w), width) if width else iter([b""])
            data = next((data for data in candidates if 32 * width <= len(data) <= 32 * WIDTH), None)
            if data is None:
                raise damaged(f"tile {tile_path(level, number, width)} is missing or short")
            if len(self._cache) >= CACHED_TILES:
                self._cache.clear()
            self._cache[level, number] = data[: 32 * width]
        return self._cache[level, number]

    def subtree(self, begin: int, end: int) -> bytes:
        """Root over leaves begin to end, `begin` aligned as RFC 6962 splits."""
        return subtree(self.tile, begin, end)
