"""Finding the bytes of files in our own EROFS images (docs/spec/erofs.md). An image is not trusted: whoever reads compares digests.

Only what is asked for is read: the directories on the way to a path, each once, and its inode.
"""

from __future__ import annotations

import os
import struct

import msgspec

from stele.model.names import MAX_PATH
from stele.seal.erofs_layout import BLOCK, DIRENT, FILE_TYPE, FLAT_INLINE, FLAT_PLAIN, INODE, ROOT_NID, SLOT, Piece

_INODE = struct.Struct("<HHHHQI")  # the beginning of struct erofs_inode_extended
_DIRENT = struct.Struct("<QHBB")
_FORMAT, _DIR, _FILE = 0o170000, 0o040000, 0o100000
MAX_DIRECTORY = 256 << 20  # bytes


class BadImageError(ValueError):
    """The image is not one of ours."""


class _Inode(msgspec.Struct, frozen=True):
    kind: int
    size: int
    pieces: tuple[Piece, ...]


class ImageReader:
    """One image. `fd` stays the caller's. Not safe to use from several threads."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._size = os.fstat(fd).st_size
        self._folders: dict[bytes, dict[bytes, tuple[int, int]] | None] = {}

    def find(self, path: bytes) -> tuple[Piece, ...] | None:
        """Where the bytes of the regular file `path` lie, in order; None if there is no such file.

        Raises:
            BadImageError: something on the way is not what our writer writes.
        """
        entry = self._entry(path)
        if entry is None:
            return None
        inode = self._inode(entry[0])
        return inode.pieces if inode.kind == _FILE else None

    def inode_at(self, path: bytes) -> int | None:
        """Where the inode of `path` lies, in bytes; None if there is no such path. Raises like `find`."""
        entry = self._entry(path)
        return None if entry is None else entry[0] * SLOT

    def _entry(self, path: bytes) -> tuple[int, int] | None:
        above, _, name = path.rpartition(b"/")
        folder = self._folder(above)
        return None if folder is None else folder.get(name)

    def paths(self) -> set[bytes]:
        """All paths of the image, the root b"" included.

        Raises:
            BadImageError: a directory is not what our writer writes, or there are more names than there is room for.
        """
        found = {b""}
        folders = [b""]
        seen = {ROOT_NID}
        while folders:
            above = folders.pop()
            for name, (nid, kind) in (self._folder(above) or {}).items():
                if name in {b"", b".", b".."}:
                    continue
                path = above + b"/" + name if above else name
                found.add(path)
                if kind == FILE_TYPE["dir"]:
                    if nid in seen or len(path) > MAX_PATH:
                        raise BadImageError("a directory is found again at another path, or too deep")
                    seen.add(nid)
                    folders.append(path)
            if len(found) > self._size // DIRENT:
                raise BadImageError("it has more names than there is room for")
        return found

    def read(self, piece: Piece, start: int, size: int) -> bytes:
        """Up to `size` bytes of a piece, from `start` bytes into it."""
        return os.pread(self.fd, min(size, piece.size - start), piece.offset + start)

    def _folder(self, path: bytes) -> dict[bytes, tuple[int, int]] | None:
        """The entries of a directory by name; None if it is none. Those of every directory above are kept too."""
        if path in self._folders:
            return self._folders[path]
        above, found = b"", self._folders.get(b"")
        if found is None:
            found = self._folders[b""] = self._entries(self._inode(ROOT_NID))
        for name in path.split(b"/") if path else ():
            above = above + b"/" + name if above else name
            if above not in self._folders:
                entry = None if found is None else found.get(name)
                self._folders[above] = None if entry is None else self._entries(self._inode(entry[0]))
            found = self._folders[above]
        return found

    def _entries(self, inode: _Inode) -> dict[bytes, tuple[int, int]] | None:
        if inode.kind != _DIR:
            return None
        if inode.size > MAX_DIRECTORY:
            raise BadImageError("a directory is too large")
        data = b"".join(self.read(piece, 0, piece.size) for piece in inode.pieces)
        if len(data) != inode.size:
            raise BadImageError("it is cut short")
        found: dict[bytes, tuple[int, int]] = {}
        for base in range(0, len(data), BLOCK):
            block = data[base : base + BLOCK]
            if len(block) < DIRENT:
                raise BadImageError("a directory is cut short")
            first = _DIRENT.unpack_from(block)[1]
            if not DIRENT <= first <= len(block) or first % DIRENT:
                raise BadImageError("a directory's block is not valid")
            heads = list(_DIRENT.iter_unpack(block[:first]))
            ends = [*(head[1] for head in heads[1:]), len(block)]
            for (nid, at, kind, _), end in zip(heads, ends, strict=True):
                found[block[at:end].rstrip(b"\0")] = nid, kind
        return found

    def _inode(self, nid: int) -> _Inode:
        offset = nid * SLOT
        raw = os.pread(self.fd, _INODE.size, offset) if offset < self._size else b""
        if len(raw) != _INODE.size:
            raise BadImageError("an inode lies outside of it")
        form, units, mode, _, size, block = _INODE.unpack(raw)
        if form not in {1 | FLAT_PLAIN << 1, 1 | FLAT_INLINE << 1} or size > self._size:
            raise BadImageError("an inode is not one of ours")
        tail = size % BLOCK if form >> 1 == FLAT_INLINE else 0
        area = 12 + 4 * (units - 1) if units else 0
        pieces = []
        if size - tail:
            pieces.append(Piece(0, size - tail, block * BLOCK))
        if tail:
            pieces.append(Piece(size - tail, tail, offset + INODE + area))
        return _Inode(mode & _FORMAT, size, tuple(pieces))
