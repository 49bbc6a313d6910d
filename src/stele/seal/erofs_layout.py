"""Where everything lies in an EROFS image: a pure function of the nodes of one stratum (docs/spec/erofs.md).

Layout: block 0 with the superblock; inodes in path order with their xattrs and inline tails; blocks of directories and
long symlinks in path order; blocks of files in path order, equal contents once. The contents are not needed here.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from stele.model.tree import parent, quote
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.model.tree import Node

BLOCK = 4096
SLOT = 32  # bytes; a node id is an offset in the image divided by this
INODE = 64  # bytes of an extended inode
FLAT_PLAIN, FLAT_INLINE = 0, 2
INLINE_TAIL = 2048  # the longest tail that is put behind its inode
INLINE_SIZE = 1 << 16  # files of this size and more are whole blocks, so that all of them can be mapped
MAX_BLOCKS = 2**32 - 1
ROOT_NID = BLOCK // SLOT
NO_BLOCK = 0xFFFF_FFFF
DIRENT = 12  # bytes
FILE_TYPE = {"file": 1, "dir": 2, "char": 3, "block": 4, "fifo": 5, "symlink": 7}
# xattr name prefixes (fs/erofs/xattr.h); the ACL names are whole names
XATTR_PREFIXES = (
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"user.", 1),
    (b"trusted.", 4),
    (b"security.", 6),
)
MAX_XATTR_VALUE = 0xFFFF
MAX_XATTR_UNITS = 0xFFFF


class Inode(msgspec.Struct, frozen=True, gc=False):
    """One inode. `tail`: bytes of its content that lie behind it. `block`: first block of the rest, or NO_BLOCK.

    `offset`: of the inode in the image, in bytes. `xattrs`: its xattr area. `nlink`: names (of directories: 2 and
    one per directory in it).
    """

    node: Node
    offset: int
    size: int
    tail: int
    block: int
    nlink: int
    xattrs: bytes

    @property
    def tail_offset(self) -> int:
        """Where in the image its tail lies, in bytes."""
        return self.offset + INODE + len(self.xattrs)


class Piece(msgspec.Struct, frozen=True, gc=False):
    """A stretch of a content and where it lies in the image, all in bytes."""

    start: int
    size: int
    offset: int


class Directory(msgspec.Struct, frozen=True):
    """What a directory holds, "." and ".." included, sorted by name: names, and for each the path of its inode."""

    names: list[bytes]
    paths: list[bytes]


class Layout(msgspec.Struct, frozen=True):
    """A whole image. `data_size`: bytes, a multiple of 4096. `directories`: by path. `nids`, `types`: of each inode by its path."""

    inodes: tuple[Inode, ...]
    directories: dict[bytes, Directory]
    nids: dict[bytes, int]
    types: dict[bytes, int]
    data_size: int

    def pieces(self) -> dict[str, list[Piece]]:
        """Where the bytes of each file content (by SHA-256 hex) go, in the order of the image."""
        found: dict[str, list[Piece]] = {}
        for inode in self.inodes:
            node, size, tail = inode.node, inode.size, inode.tail
            if not size or node.kind != "file":
                continue
            places = found.setdefault(node.sha256, [])
            whole = size - tail
            if whole:
                piece = Piece(0, whole, inode.block * BLOCK)
                if piece not in places:
                    places.append(piece)
            if tail:
                places.append(Piece(whole, tail, inode.tail_offset))
        return found


def xattr_area(node: Node) -> bytes:
    """The xattrs behind an inode: a 12-byte header, then an entry each; b"" if there are none.

    Raises:
        SteleError: `seal.xattr-not-supported`.
    """
    if not node.xattrs:
        return b""
    out = bytearray(12)
    for name, value in node.xattrs:
        for prefix, index in XATTR_PREFIXES:
            if name.startswith(prefix) and (prefix.endswith(b".") or name == prefix):
                out += struct.pack("<BBH", len(name) - len(prefix), index, min(len(value), MAX_XATTR_VALUE))
                out += name[len(prefix) :] + value
                out += bytes(-len(out) % 4)
                break
        else:
            raise _unsupported(node, f"the attribute {quote(name)[:100]} has a prefix that EROFS does not know")
        if len(value) > MAX_XATTR_VALUE:
            raise _unsupported(node, f"the value of {quote(name)[:100]} is longer than {MAX_XATTR_VALUE} bytes")
    if (len(out) - 12) // 4 + 1 > MAX_XATTR_UNITS:
        raise _unsupported(node, "its attributes together are larger than 256 KiB")
    return bytes(out)


def _unsupported(node: Node, reason: str) -> SteleError:
    return SteleError(
        f"/{quote(node.path)[:300]} cannot be sealed: {reason}",
        remedy="remove the extended attribute from the source (setfattr -x)",
        code="seal.xattr-not-supported",
    )


def blocks_of_names(names: Sequence[bytes]) -> list[tuple[int, int]]:
    """How sorted entries are packed into directory blocks: (entries, bytes used) of each block."""
    used = DIRENT * len(names) + sum(map(len, names))
    if used <= BLOCK:
        return [(len(names), used)]
    found = []
    count = used = 0
    for name in names:
        need = DIRENT + len(name)
        if used + need > BLOCK:
            found.append((count, used))
            count = used = 0
        count += 1
        used += need
    return [*found, (count, used)]


def _directory_size(names: Sequence[bytes]) -> int:
    """Bytes of a directory: whole blocks but for the last, which ends with its last name."""
    blocks = blocks_of_names(names)
    return (len(blocks) - 1) * BLOCK + blocks[-1][1]


def _directories(nodes: Sequence[Node]) -> dict[bytes, Directory]:
    """All directories by path. What is in one comes in the order of its names, as the nodes do."""
    found: dict[bytes, Directory] = {}
    for node in nodes:
        path, link = node.path, node.link
        above, _, name = path.rpartition(b"/")
        if path:
            directory = found[above]
            directory.names.append(name)
            directory.paths.append(path if link is None else link)
        if node.kind == "dir":
            found[path] = Directory([], [])
    for path, directory in found.items():
        for name, inode in ((b".", path), (b"..", parent(path))):
            at = bisect_left(directory.names, name)
            directory.names.insert(at, name)
            directory.paths.insert(at, inode)
    return found


def plan(nodes: Sequence[Node]) -> Layout:
    """Lay out the image of `nodes`: one stratum, sorted by path, the root first, every parent and first name present.

    Raises:
        SteleError: `seal.xattr-not-supported`, `seal.stratum-too-large`.
    """
    directories = _directories(nodes)
    links = Counter(node.link for node in nodes if node.link is not None)
    inner = Counter(parent(path) for path in directories if path)
    placed: list[tuple[Node, int, int, int, int, bytes]] = []  # as an `Inode`, without the block
    nids: dict[bytes, int] = {}
    types: dict[bytes, int] = {}
    end = BLOCK
    for node in nodes:
        if node.link is not None:
            continue
        path, size, nlink = node.path, node.size, 1
        if node.kind == "dir":
            nlink, size = 2 + inner[path], _directory_size(directories[path].names)
        elif node.kind == "symlink":
            size = len(node.target)
        if path in links:
            nlink += links[path]
        xattrs = xattr_area(node) if node.xattrs else b""
        tail = tail_of(size, len(xattrs))
        need = INODE + len(xattrs) + tail
        if need > BLOCK or end % BLOCK + need > BLOCK:  # a record lies in one block, or begins one
            end += -end % BLOCK
        placed.append((node, end, size, tail, nlink, xattrs))
        nids[path], types[path] = end // SLOT, FILE_TYPE[node.kind]
        end += need + -need % SLOT
    blocks, last = _blocks(placed, -(-end // BLOCK))
    inodes = [
        Inode(node, offset, size, tail, block, nlink, xattrs)
        for (node, offset, size, tail, nlink, xattrs), block in zip(placed, blocks, strict=True)
    ]
    return Layout(tuple(inodes), directories, nids, types, last * BLOCK)


def tail_of(size: int, xattrs: int) -> int:
    """How many of the last bytes of a content lie behind its inode."""
    tail = size % BLOCK
    if size >= INLINE_SIZE or tail > INLINE_TAIL or INODE + xattrs + tail > BLOCK:
        return 0
    return tail


def _blocks(placed: Sequence[tuple[Node, int, int, int, int, bytes]], first: int) -> tuple[list[int], int]:
    """Blocks for contents, from block `first` on, what is not a file first: the first of each, and the end."""
    blocks = [NO_BLOCK] * len(placed)
    files = []
    end = first
    for at, (node, _, size, tail, _, _) in enumerate(placed):
        if size == tail:
            continue
        if node.kind == "file":
            files.append(at)
            continue
        blocks[at] = end
        end += -(-(size - tail) // BLOCK)
    known: dict[tuple[str, int], int] = {}
    for at in files:
        node, _, size, tail, _, _ = placed[at]
        blocks[at] = known.setdefault((node.sha256, tail), end)
        if blocks[at] == end:
            end += -(-(size - tail) // BLOCK)
    if end > MAX_BLOCKS:
        raise SteleError(
            "a stratum is larger than 16 TiB, which is all that EROFS can hold",
            remedy="seal the data in several releases",
            code="seal.stratum-too-large",
        )
    return blocks, end
