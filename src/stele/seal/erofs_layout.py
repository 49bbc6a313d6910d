"""Where everything lies in an EROFS image: a pure function of the nodes of one stratum (docs/spec/erofs.md).

Layout: block 0 with the superblock; inodes in path order with their xattrs and inline tails; blocks of directories and
long symlinks in path order; blocks of files in path order, equal contents once. The contents are not needed here.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from stele.model.tree import parent, quote
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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


class Inode(NamedTuple):
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
    def nid(self) -> int:
        """The node id by which directories name it."""
        return self.offset // SLOT

    @property
    def tail_offset(self) -> int:
        """Where in the image its tail lies, in bytes."""
        return self.offset + INODE + len(self.xattrs)


class Piece(NamedTuple):
    """A stretch of a content and where it lies in the image, all in bytes."""

    start: int
    size: int
    offset: int


class Layout(NamedTuple):
    """A whole image. `data_size`: bytes, a multiple of 4096. `directories`: what each directory (by path) holds."""

    inodes: tuple[Inode, ...]
    directories: dict[bytes, list[tuple[bytes, bytes]]]
    nids: dict[bytes, int]
    types: dict[bytes, int]
    data_size: int

    def pieces(self) -> dict[str, list[Piece]]:
        """Where the bytes of each file content (by SHA-256 hex) go, in the order of the image."""
        found: dict[str, list[Piece]] = {}
        for inode in self.inodes:
            if inode.node.kind != "file" or not inode.size:
                continue
            places = found.setdefault(inode.node.sha256, [])
            whole = inode.size - inode.tail
            if whole:
                piece = Piece(0, whole, inode.block * BLOCK)
                if piece not in places:
                    places.append(piece)
            if inode.tail:
                places.append(Piece(whole, inode.tail, inode.tail_offset))
        return found

    def entries(self, path: bytes) -> list[tuple[bytes, int, int]]:
        """The directory entries (name, nid, type) of the directory `path`, "." and ".." included, sorted by name."""
        out = [(name, self.nids[target], self.types[target]) for name, target in self.directories[path]]
        out += [(b".", self.nids[path], FILE_TYPE["dir"]), (b"..", self.nids[parent(path)], FILE_TYPE["dir"])]
        out.sort()
        return out


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


def blocks_of_names(names: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """How sorted entries are packed into directory blocks: (entries, bytes used) of each block."""
    count = used = 0
    for name in names:
        need = DIRENT + len(name)
        if used + need > BLOCK:
            yield count, used
            count = used = 0
        count += 1
        used += need
    yield count, used


def _directory_size(names: list[bytes]) -> int:
    """Bytes of a directory: whole blocks but for the last, which ends with its last name."""
    names.sort()
    used = [size for _, size in blocks_of_names(names)]
    return (len(used) - 1) * BLOCK + used[-1]


def plan(nodes: Sequence[Node]) -> Layout:
    """Lay out the image of `nodes`: one stratum, sorted by path, the root first, every parent and first name present.

    Raises:
        SteleError: `seal.xattr-not-supported`, `seal.stratum-too-large`.
    """
    directories: dict[bytes, list[tuple[bytes, bytes]]] = {}
    links: dict[bytes, int] = {}
    inner: dict[bytes, int] = {}
    types: dict[bytes, int] = {}
    for node in nodes:
        if node.kind == "dir":
            directories[node.path] = []
        if node.path:
            above, _, name = node.path.rpartition(b"/")
            directories[above].append((name, node.path if node.link is None else node.link))
            if node.kind == "dir":
                inner[above] = inner.get(above, 0) + 1
        if node.link is not None:
            links[node.link] += 1
        else:
            links[node.path] = 1
            types[node.path] = FILE_TYPE[node.kind]
    inodes: list[Inode] = []
    end = BLOCK
    for node in nodes:
        if node.link is not None:
            continue
        nlink = links[node.path]
        size = node.size
        if node.kind == "dir":
            nlink = 2 + inner.get(node.path, 0)
            size = _directory_size([b".", b"..", *(name for name, _ in directories[node.path])])
        elif node.kind == "symlink":
            size = len(node.target)
        xattrs = xattr_area(node)
        tail = tail_of(size, len(xattrs))
        need = INODE + len(xattrs) + tail
        if need > BLOCK or end % BLOCK + need > BLOCK:  # a record lies in one block, or begins one
            end += -end % BLOCK
        inodes.append(Inode(node, end, size, tail, NO_BLOCK, nlink, xattrs))
        end += need + -need % SLOT
    placed, blocks = _place_blocks(inodes, -(-end // BLOCK))
    nids = {inode.node.path: inode.nid for inode in placed}
    return Layout(tuple(placed), directories, nids, types, blocks * BLOCK)


def tail_of(size: int, xattrs: int) -> int:
    """How many of the last bytes of a content lie behind its inode."""
    tail = size % BLOCK
    if size >= INLINE_SIZE or tail > INLINE_TAIL or INODE + xattrs + tail > BLOCK:
        return 0
    return tail


def _place_blocks(inodes: list[Inode], first: int) -> tuple[list[Inode], int]:
    """Give blocks to contents from block `first` on: what is not a file first. Returns the inodes and the end."""
    block = first
    known: dict[tuple[str, int], int] = {}
    placed = list(inodes)
    for files in (False, True):
        for at, inode in enumerate(placed):
            if (inode.node.kind == "file") != files or inode.size == inode.tail:
                continue
            key = (inode.node.sha256, inode.tail)
            here = known.get(key) if files else None
            if here is None:
                here = block
                block += -(-(inode.size - inode.tail) // BLOCK)
                if files:
                    known[key] = here
            placed[at] = inode._replace(block=here)
    if block > MAX_BLOCKS:
        raise SteleError(
            "a stratum is larger than 16 TiB, which is all that EROFS can hold",
            remedy="seal the data in several releases",
            code="seal.stratum-too-large",
        )
    return placed, block
