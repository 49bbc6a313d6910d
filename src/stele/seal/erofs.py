"""EROFS images from a tree: uncompressed, deterministic, without privileges (docs/spec/erofs.md).

The image is a function of the nodes and their contents alone. Contents may come in any order, so that a source is read
in the order that suits it; nothing is staged, and memory does not grow with the size of files.
"""

from __future__ import annotations

import hashlib
import os
import struct
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING

from stele.host import durable
from stele.model.tree import Tree
from stele.seal.erofs_layout import BLOCK, DIRENT, FLAT_INLINE, FLAT_PLAIN, INODE, ROOT_NID, Inode, Layout, blocks_of_names
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from stele.model.ports import ContentReader
    from stele.model.tree import Node
    from stele.seal.erofs_layout import Piece

MAGIC = 0xE0F5E1E2
SUPER_OFFSET = 1024
COMPAT_CHECKSUM = 1
_SUPER = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQB23x")  # struct erofs_super_block, 128 bytes
_INODE = struct.Struct("<HHHHQIIIIQII16x")  # struct erofs_inode_extended
_DIRENT = struct.Struct("<QHBx")
_UUID = 48  # where the superblock has it
_TYPE_BITS = {"file": 0o100000, "dir": 0o040000, "symlink": 0o120000, "char": 0o020000, "block": 0o060000, "fifo": 0o010000}
_BUFFER = 1 << 20
SMALL = 1 << 20  # bytes; contents up to this size are read whole


def image_uuid(nodes: Sequence[Node]) -> bytes:
    """The 16 bytes of the image's UUID (RFC 9562 version 8), from the nodes."""
    return uuid_of(Tree(tuple(nodes)).encode())


def uuid_of(encoded: bytes) -> bytes:
    """The same, from the nodes' canonical bytes."""
    raw = bytearray(hashlib.sha256(b"stele-erofs v0\n" + encoded).digest()[:16])
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return bytes(raw)


@cache
def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = _crc32c_bit(value)  # noqa: PLW2901
        table.append(value)
    return tuple(table)


def _crc32c_bit(crc: int) -> int:
    """What a zero bit makes of the state."""
    return crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)


@cache
def _crc32c_zeros(count: int) -> tuple[int, ...]:
    """What `count` zero bytes, 4 or more, make of each bit of the state, the lowest first: of all of it, the sum of these."""
    table, crc = _crc32c_table(), 1
    for _ in range(count - 4):
        crc = crc >> 8 ^ table[crc & 0xFF]
    found = []
    for _ in range(32):  # a higher bit is that much later where the lowest was at first
        crc = _crc32c_bit(crc)
        found.append(crc)
    return tuple(reversed(found))


def crc32c(data: bytes | bytearray, zeros: int) -> int:
    """CRC-32C as EROFS has it, starting from all ones and not inverted at the end, of data and so many zero bytes behind, 4 or more."""
    table, crc = _crc32c_table(), 0xFFFF_FFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    found = 0
    for bit, after in enumerate(_crc32c_zeros(zeros)):
        if crc >> bit & 1:
            found ^= after
    return found


def super_block(layout: Layout, uuid: bytes) -> bytes:
    """Block 0: 1024 zero bytes, the superblock, zeros; with the checksum over all behind the first 1024 bytes."""
    head = (MAGIC, 0, COMPAT_CHECKSUM, 12, 0, ROOT_NID, len(layout.inodes), 0, 0, layout.data_size // BLOCK, 0, 0)
    return _checked(bytearray(_SUPER.pack(*head, uuid, b"", 0, 0, 0, 0, 0, 0, 0, 0, 0)))


def with_uuid(block: bytes, uuid: bytes) -> bytes:
    """Block 0 of an image with another UUID."""
    super_ = bytearray(block[SUPER_OFFSET : SUPER_OFFSET + _SUPER.size])
    super_[_UUID : _UUID + 16] = uuid
    return _checked(super_)


def _checked(super_: bytearray) -> bytes:
    """Block 0 with a superblock, whose checksum it gets."""
    super_[4:8] = bytes(4)
    super_[4:8] = crc32c(super_, BLOCK - SUPER_OFFSET - _SUPER.size).to_bytes(4, "little")
    return (bytes(SUPER_OFFSET) + super_).ljust(BLOCK, b"\0")


def directory_blocks(layout: Layout, path: bytes) -> bytes:
    """A directory's content: per block its entries, then their names; all blocks but the last are padded."""
    directory = layout.directories[path]
    names = directory.names
    nids, types = [layout.nids[inode] for inode in directory.paths], [layout.types[inode] for inode in directory.paths]
    out = b""
    start = 0
    for count, _ in blocks_of_names(names):
        batch = slice(start, start + count)
        offsets = accumulate(map(len, names[batch][:-1]), initial=DIRENT * count)
        entries = b"".join(map(_DIRENT.pack, nids[batch], offsets, types[batch]))
        out = b"".join((out, bytes(-len(out) % BLOCK), entries, *names[batch]))
        start += count
    return out


def inode_record(inode: Inode, number: int) -> bytes:
    """An inode and its xattrs. `number`: from 1, what 32-bit programs see as its inode number."""
    node, size, where, xattrs = inode.node, inode.size, inode.block, inode.xattrs
    if not size:
        major, minor = node.rdev  # zeros, but of devices
        where = (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12
    layout = FLAT_INLINE if inode.tail else FLAT_PLAIN
    units = (len(xattrs) - 12) // 4 + 1 if xattrs else 0
    mode = _TYPE_BITS[node.kind] | node.mode
    record = _INODE.pack(1 | layout << 1, units, mode, 0, size, where, number, node.uid, node.gid, node.mtime, 0, inode.nlink)
    return record + xattrs if xattrs else record


def structure(layout: Layout, uuid: bytes) -> Iterator[tuple[bytes | bytearray, int]]:
    """Everything but the contents of files: bytes, and where in the image they lie; all else is zeros."""
    yield super_block(layout, uuid), 0
    buffer, base = bytearray(), BLOCK
    for number, inode in enumerate(layout.inodes, 1):
        if len(buffer) >= _BUFFER:
            yield buffer, base
            buffer, base = bytearray(), inode.offset
        buffer += bytes(inode.offset - base - len(buffer))
        buffer += inode_record(inode, number)
        node = inode.node
        if node.kind == "dir":
            content = directory_blocks(layout, node.path)
        elif node.kind == "symlink":
            content = node.target
        else:
            continue
        whole = inode.size - inode.tail
        buffer += content[whole:]
        if whole:
            yield content[:whole], inode.block * BLOCK
    yield buffer, base


def placed(pieces: Iterable[Piece], chunk: bytes | memoryview, start: int) -> Iterator[tuple[memoryview, int]]:
    """Where one chunk of a content, which begins `start` bytes into it, lies in the image: its parts, and their offsets."""
    view = memoryview(chunk)
    for piece in pieces:
        low, high = max(start, piece.start), min(start + len(chunk), piece.start + piece.size)
        if low < high:
            yield view[low - start : high - start], piece.offset + low - piece.start


def write_structure(fd: int, layout: Layout, uuid: bytes) -> None:
    """Write everything but the contents of files to the empty file `fd`, which gets its full size."""
    os.ftruncate(fd, layout.data_size)
    for data, offset in structure(layout, uuid):
        durable.write_at(fd, data, offset)


def place(fd: int, pieces: Iterable[Piece], chunk: bytes | memoryview, start: int) -> None:
    """Write one chunk of a content, which begins `start` bytes into it, to all its places in the image.

    Nothing but zeros is not written: the file has its size already, and a hole there.
    """
    for part, offset in placed(pieces, chunk, start):
        if not durable.is_hole(part):
            durable.write_at(fd, part, offset)


def write(fd: int, layout: Layout, uuid: bytes, contents: ContentReader) -> None:
    """Write an image to the empty file `fd`.

    Args:
        fd: open for writing.
        layout: of one stratum, by `erofs_layout.plan`.
        uuid: of its nodes.
        contents: the bytes of the files.

    Raises:
        SteleError: `seal.source-changed`, and what `contents` raises.
        OSError: the file could not be written.
    """
    write_structure(fd, layout, uuid)
    sizes = {inode.node.sha256: inode.size for inode in layout.inodes if inode.node.kind == "file"}
    for digest, pieces in layout.pieces().items():
        done = 0
        for chunk in (contents.read(digest),) if sizes[digest] <= SMALL else contents.chunks(digest, SMALL):
            place(fd, pieces, chunk, done)
            done += len(chunk)
        if done != sizes[digest]:
            raise SteleError(
                f"a file changed its size while it was sealed: {done} bytes instead of {sizes[digest]}",
                remedy="stop what writes to the source, or seal a copy of it; then seal again",
                code="seal.source-changed",
                retryable=True,
            )


assert _SUPER.size == 128
assert _INODE.size == INODE
