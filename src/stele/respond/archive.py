"""A tar of untrusted files: pax headers, sparse files as GNU tar 1.0 writes them, and a listing of everything (docs/spec/evidence.md)."""

from __future__ import annotations

import json
import os
import posixpath
import stat
import tarfile
from typing import TYPE_CHECKING

from stele.host import evidence_proc

if TYPE_CHECKING:
    from stele.respond.bundle import Stream

MAX_EXTENTS = 65_536
BLOCK = 512
CHUNK = 1 << 20
TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "block device",
    stat.S_IFCHR: "character device",
}


class Budget:
    """Bytes of content and number of entries that are left, and in words what was left out."""

    def __init__(self, size: int, entries: int) -> None:
        self.size = size
        self.entries = entries
        self.left_out: list[str] = []


class Archive:
    """Appends to one tar. Every entry gets a line in the listing, whether it fits or not."""

    def __init__(self, out: Stream, listing: Stream, budget: Budget) -> None:
        self._out = out
        self._listing = listing
        self._budget = budget
        self._seen: dict[tuple[int, int], str] = {}

    def close(self) -> None:
        """End the tar: two blocks of zeros, padded to a record."""
        self._out.write(bytes(2 * BLOCK))
        self._out.write(bytes(-self._out.size % tarfile.RECORDSIZE))

    def list_only(self, where: str, found: os.stat_result, target: str = "") -> None:
        """A line in the listing without an entry in the tar."""
        facts = {
            "path": where,
            "type": TYPES.get(stat.S_IFMT(found.st_mode), "unknown"),
            "mode": f"{stat.S_IMODE(found.st_mode):04o}",
            "uid": found.st_uid,
            "gid": found.st_gid,
            "size": found.st_size,
            "blocks": found.st_blocks,
            "inode": found.st_ino,
            "links": found.st_nlink,
            "rdev": found.st_rdev,
            "atime_ns": found.st_atime_ns,
            "mtime_ns": found.st_mtime_ns,
            "ctime_ns": found.st_ctime_ns,
            "target": target,
        }
        # surrogates of names that are not UTF-8 become \udcXX
        self._listing.write(json.dumps(facts).encode("ascii") + b"\n")

    def add(self, where: str, found: os.stat_result, fd: int = -1, target: str = "") -> None:
        """Append an entry: a folder, a symlink to `target`, a fifo, or the regular file open at `fd`.

        Raises:
            OSError: the file cannot be read; what was begun of it is complete, as zeros.
            SteleError: `evidence.no-space`.
        """
        self.list_only(where, found, target)
        info = tarfile.TarInfo(where)
        info.mode, info.uid, info.gid, info.mtime = stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, int(found.st_mtime)
        if fd >= 0:
            info.pax_headers = self._xattrs(where, fd)
        if stat.S_ISDIR(found.st_mode):
            info.type = tarfile.DIRTYPE
        elif stat.S_ISLNK(found.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, target
        elif stat.S_ISFIFO(found.st_mode):
            info.type = tarfile.FIFOTYPE
        elif not stat.S_ISREG(found.st_mode):
            self._budget.left_out.append(f"{where}: {TYPES.get(stat.S_IFMT(found.st_mode), 'unknown')}")
            return
        elif found.st_nlink > 1 and (found.st_dev, found.st_ino) in self._seen:
            info.type, info.linkname = tarfile.LNKTYPE, self._seen[found.st_dev, found.st_ino]
        else:
            self._file(info, found, fd)
            return
        self._header(info)

    def _xattrs(self, where: str, fd: int) -> dict[str, str]:
        headers = {}
        for name, value in evidence_proc.xattrs(fd).items():
            if name.isascii():
                # as GNU tar escapes them
                key = name.replace("%", "%25").replace("=", "%3D")
                headers[f"SCHILY.xattr.{key}"] = value.decode("utf-8", "surrogateescape")
            else:
                self._budget.left_out.append(f"{where}: extended attribute {name!r}")
        return headers

    def _header(self, info: tarfile.TarInfo, content: int = 0) -> bool:
        """Write a header if it and `content` bytes fit the budget."""
        data = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        if len(data) + content > self._budget.size:
            self._budget.left_out.append(f"{info.name}: {content} bytes, over the budget")
            return False
        self._budget.size -= len(data) + content
        self._out.write(data)
        return True

    def _file(self, info: tarfile.TarInfo, found: os.stat_result, fd: int) -> None:
        where = info.name
        pieces, is_all = evidence_proc.extents(fd, found.st_size, MAX_EXTENTS)
        size = sum(length for _, length in pieces)
        if not is_all:
            self._budget.left_out.append(f"{where}: more than {MAX_EXTENTS} pieces, the rest is left out")
        sparse_map = b""
        if pieces != [(0, found.st_size)] and found.st_size:
            if not pieces or sum(pieces[-1]) < found.st_size:
                pieces.append((found.st_size, 0))  # GNU tar knows by it how large the file is
            text = "".join(f"{number}\n" for piece in pieces for number in piece)
            sparse_map = f"{len(pieces)}\n{text}".encode()
            sparse_map += bytes(-len(sparse_map) % BLOCK)
            info.pax_headers = {
                **info.pax_headers,
                "GNU.sparse.major": "1",
                "GNU.sparse.minor": "0",
                "GNU.sparse.name": where,
                "GNU.sparse.realsize": str(found.st_size),
            }
            info.name = posixpath.join(posixpath.dirname(where), "GNUSparseFile.0", posixpath.basename(where))
        info.size = len(sparse_map) + size
        if not self._header(info, info.size):
            return
        self._out.write(sparse_map)
        self._seen[found.st_dev, found.st_ino] = where
        failed: OSError | None = None
        for begin, length in pieces:
            failed = self._copy(fd, begin, length) or failed
        self._out.write(bytes(-info.size % BLOCK))
        if failed is not None:
            raise failed

    def _copy(self, fd: int, begin: int, length: int) -> OSError | None:
        end = begin + length
        while begin < end:
            try:
                data = os.pread(fd, min(CHUNK, end - begin), begin)
            except OSError as error:
                self._out.skip(end - begin)
                return error
            if not data:
                self._out.skip(end - begin)
                return OSError(0, "shorter than it was said to be, padded with zeros")
            self._out.write(data)
            begin += len(data)
        return None
