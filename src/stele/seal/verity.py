"""dm-verity hash areas (kernel Documentation/admin-guide/device-mapper/verity.rst; docs/spec/erofs.md, Hash tree).

Format 1, SHA-256, data and hash blocks of 4096 bytes, no salt, with the superblock of `veritysetup`.
"""

from __future__ import annotations

import hashlib
import os
import struct
from typing import NamedTuple, Protocol

from stele.host import durable

BLOCK = 4096
PER_BLOCK = BLOCK // 32  # hashes in a hash block
_OF_ZEROS = hashlib.sha256(bytes(BLOCK)).digest()
_BATCH = 256 * BLOCK  # bytes hashed at a time: two whole hash blocks
_SUPER = struct.Struct("<8sII16s32sIIQH6x256s168x")  # struct verity_sb (cryptsetup, lib/verity/verity.c)


class Level(NamedTuple):
    """One level of the tree: where it lies in the file (bytes), and how many hash blocks it has."""

    offset: int
    blocks: int


def levels(data_size: int) -> tuple[Level, ...]:
    """The levels over `data_size` bytes that lie before them, lowest first. On disk the highest comes first."""
    counts = []
    count = data_size // BLOCK
    while count > 1:
        count = -(-count // PER_BLOCK)
        counts.append(count)
    offset = data_size + BLOCK
    placed = []
    for blocks in reversed(counts):
        placed.append(Level(offset, blocks))
        offset += blocks * BLOCK
    return tuple(reversed(placed))


def file_size(data_size: int) -> int:
    """Bytes of a file of `data_size` bytes of data, the superblock's block and the tree."""
    return data_size + BLOCK + sum(level.blocks for level in levels(data_size)) * BLOCK


def super_block(data_size: int, uuid: bytes) -> bytes:
    """The block that begins the hash area."""
    fields = (b"verity", 1, 1, uuid, b"sha256", BLOCK, BLOCK, data_size // BLOCK, 0, b"")
    return _SUPER.pack(*fields).ljust(BLOCK, b"\0")


def append(fd: int, data_size: int, uuid: bytes) -> str:
    """Append the hash area to the file `fd` of `data_size` bytes (a multiple of 4096, not 0); returns the root, hex.

    Raises:
        OSError: it could not be read or written. (A mapping would be faster and die of a full disk.)
    """
    os.ftruncate(fd, file_size(data_size))
    durable.write_at(fd, super_block(data_size, uuid), data_size)
    start, blocks = 0, data_size // BLOCK
    for level in levels(data_size):
        _hash_level(fd, start, blocks, level.offset)
        start, blocks = level.offset, level.blocks
    return hashlib.sha256(os.pread(fd, BLOCK, start)).hexdigest()


def fill(image: memoryview, data_size: int, uuid: bytes) -> str:
    """The same in memory, of a whole image that is `file_size(data_size)` bytes long; returns the root, hex."""
    sha256 = hashlib.sha256
    image[data_size : data_size + BLOCK] = super_block(data_size, uuid)
    start, end = 0, data_size
    for level in levels(data_size):
        hashes = b"".join([sha256(image[at : at + BLOCK]).digest() for at in range(start, end, BLOCK)])
        image[level.offset : level.offset + len(hashes)] = hashes
        start, end = level.offset, level.offset + level.blocks * BLOCK
    return sha256(image[start : start + BLOCK]).hexdigest()


class Blocks(Protocol):
    """Blocks of a whole image, by number, of which some are others now."""

    def __getitem__(self, number: int, /) -> bytearray:
        """One of them, to be changed."""

    def numbers(self) -> set[int]:
        """Those that are others."""


def update(blocks: Blocks, data_size: int, uuid: bytes) -> str:
    """Renew the hash area of a whole image of which some data blocks are others now; returns the root, hex."""
    changed, start = blocks.numbers(), 0
    for level in levels(data_size):
        for number in changed:
            above, place = divmod(number, PER_BLOCK)
            blocks[level.offset // BLOCK + above][place * 32 : place * 32 + 32] = hashlib.sha256(blocks[start + number]).digest()
        changed, start = {number // PER_BLOCK for number in changed}, level.offset // BLOCK
    blocks[data_size // BLOCK][:] = super_block(data_size, uuid)
    return hashlib.sha256(blocks[start]).hexdigest()


def _hash_level(fd: int, start: int, blocks: int, target: int) -> None:
    sha256 = hashlib.sha256
    buffer = bytearray(_BATCH)
    view = memoryview(buffer)
    end = start + blocks * BLOCK
    for base in range(start, end, _BATCH):
        size = min(_BATCH, end - base)
        _read_at(fd, view[:size], base)
        if durable.is_hole(view[:size]):
            hashes = _OF_ZEROS * (size // BLOCK)
        else:
            hashes = b"".join([sha256(view[at : at + BLOCK]).digest() for at in range(0, size, BLOCK)])
        durable.write_at(fd, hashes, target)
        target += len(hashes)


def _read_at(fd: int, view: memoryview, offset: int) -> None:
    while view:
        count = os.preadv(fd, [view], offset)
        if not count:
            raise OSError(f"the file ends at {offset}")
        view = view[count:]
        offset += count
