"""tlog-tiles on disk (C2SP): paths, hash tiles, entry bundles. Height 8: a full tile holds 256 hashes or entries."""

from __future__ import annotations

import os
import secrets
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from stele.trust import merkle
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH = 256


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
    return b"".join(struct.pack(">H", len(entry)) + entry for entry in entries)


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


def damaged(reason: str) -> SteleError:
    """The error for whatever does not fit."""
    return SteleError(
        f"the ledger is damaged or was altered: {reason}",
        remedy="it is read-only from now on and nothing is healed by signing again; compare with another copy and with kept checkpoints",
        code="ledger.damaged",
    )


def widths(size: int, level: int) -> tuple[int, int]:
    """Full tiles and width of the partial tile at `level` of a tree of `size` leaves."""
    count = size >> (8 * level)
    return count // WIDTH, count % WIDTH


def write_tile(root: Path, name: str, data: bytes) -> None:
    """Write by temp and rename, without fsync (the WAL still has it). A full tile that exists must be the same.

    Raises:
        SteleError: `ledger.damaged` where it is not.
    """
    path = root / name
    if path.exists():
        if path.read_bytes() == data:
            return
        raise damaged(f"{name} is there with other content")
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    temp.write_bytes(data)
    os.rename(temp, path)


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
            data = b""
            # the full tile also serves a smaller tree
            for candidate in (WIDTH, width):
                path = self._root / tile_path(level, number, candidate)
                if path.exists():
                    data = path.read_bytes()
                    break
            if len(data) < 32 * width:
                raise damaged(f"tile {tile_path(level, number, width)} is missing or short")
            self._cache[level, number] = data[: 32 * width]
        return self._cache[level, number]

    def subtree(self, begin: int, end: int) -> bytes:
        """Root over leaves begin to end, `begin` aligned as RFC 6962 splits."""
        count = end - begin
        if count & (count - 1) == 0 and begin % count == 0:
            level, height = divmod(count.bit_length() - 1, 8)
            span = 1 << height
            first = begin >> (8 * level)
            tile = self.tile(level, first // WIDTH)
            at = (first % WIDTH) * 32
            hashes = [tile[at + 32 * i : at + 32 * i + 32] for i in range(span)]
            if len(hashes[-1]) == 32:
                return merkle.root(hashes)
        middle = begin + merkle.split(count)
        return merkle.node_hash(self.subtree(begin, middle), self.subtree(middle, end))
