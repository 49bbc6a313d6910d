"""A strict reader of tar streams: ustar, pax (POSIX.1-2017) and GNU long names; all else is refused, not guessed.

Where readers of tar are known to disagree (a size given twice, global pax headers that rename, links with data, sparse
maps that do not fit), a hostile archive could show one tree to a scanner and another to us. Such archives are refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import msgspec

from stele.model.names import MAX_ID, MAX_PATH, name_fault
from stele.model.tree import quote
from stele.seal.sources import sparse
from stele.seal.sources.stream import bad_archive
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stele.seal.sources.sparse import Map
    from stele.seal.sources.stream import Budget, Reader

BLOCK = 512
MAX_EXTENSION = 1 << 20  # bytes of one pax or GNU long name header
MAX_FILE = 1 << 50  # bytes of one member
XATTR = b"SCHILY.xattr."
SPARSE = "sparse files in another form than GNU's own, pax 0.1 and 1.0"
GNU = b"ustar  \0"
WHITEOUT = b".wh."  # begins the names that mean deletion in a layer
TYPES: dict[bytes, Literal["file", "dir", "symlink", "link", "char", "block", "fifo"]] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "link",
    b"2": "symlink",
    b"3": "char",
    b"4": "block",
    b"5": "dir",
    b"6": "fifo",
}
_APPLIED = frozenset({b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"})
_ZEROS = memoryview(bytes(1 << 20))
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,18}\Z")
_TIME = re.compile(rb"(-?[0-9]{1,18})(\.[0-9]*)?\Z")
_LENGTH = re.compile(rb"([1-9][0-9]{0,6}) ")


class Entry(msgspec.Struct):
    """One member. `path`: normal, relative; the root is b"". `target`: of a symlink as is, of a hard link a normal path.

    `mtime`: whole seconds, floored. `xattrs`: as recorded. `at`: its number in the archive.
    """

    path: bytes
    kind: Literal["file", "dir", "symlink", "link", "char", "block", "fifo"]
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    target: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = {}
    at: int = 0


class _Extensions(msgspec.Struct):
    """What the extension headers before a member say about it."""

    pax: dict[bytes, bytes] | None = None
    long_name: bytes | None = None
    long_link: bytes | None = None

    def __bool__(self) -> bool:
        return self.pax is not None or self.long_name is not None or self.long_link is not None


def escapes(path: bytes, why: str) -> SteleError:
    """The error for a path that leads out of the tree."""
    return SteleError(
        f"the archive holds the path {quote(path)[:300]}, which {why}",
        remedy="an honest image does not; make the archive again with relative names, and do not unpack this one as root",
        code="seal.path-escapes",
    )


def normal_path(raw: bytes) -> bytes:
    """A member's name as a path of the tree: one leading './' is taken off; everything else must be normal already.

    Raises:
        SteleError: `seal.path-escapes`, `seal.bad-name`.
    """
    if raw.startswith(b"/"):
        raise escapes(raw, "is absolute")
    path = raw.removeprefix(b"./")
    if path in {b"", b"."}:
        return b""
    if b".." in path.split(b"/"):
        raise escapes(raw, "climbs with '..'")
    fault = name_fault(path)
    if fault:
        raise SteleError(
            f"the archive holds the path {quote(raw)[:300]}, which {fault}",
            remedy="make the archive again with an ordinary tool, or rename the file in it",
            code="seal.bad-name",
        )
    return path


def _zeros(count: int) -> Iterator[memoryview]:
    while count > 0:
        yield _ZEROS[:count]
        count -= len(_ZEROS)


class TarReader:
    """Iterates over the members of one tar stream; `data()` gives the current member's bytes.

    Args:
        reader: the unfolded stream.
        budget: counts headers.
        need_end: refuse a stream without its two closing zero blocks (where no digest says that it is whole).
        sparse: read sparse members; else they are refused.
    """

    def __init__(self, reader: Reader, budget: Budget, *, need_end: bool = True, sparse: bool = False) -> None:
        self._reader = reader
        self._budget = budget
        self._need_end = need_end
        self._sparse = sparse
        self._map: Map | None = None
        self._left = 0
        self._padding = 0
        self._count = 0

    def __iter__(self) -> Iterator[Entry]:
        """Members in order, the extension headers folded into them.

        Raises:
            SteleError: `seal.bad-archive`, `seal.unsupported-entry`, `seal.path-escapes`, `seal.bad-name`, `seal.too-large`.
        """
        extensions = _Extensions()
        while (header := self._header(extensions)) is not None:
            flag = header[156:157]
            if flag in {b"x", b"g", b"L", b"K"}:
                self._extend(extensions, flag, self._extension(header))
                continue
            self._budget.entry()
            entry = self._entry(header, flag, extensions)
            extensions = _Extensions()
            entry.at = self._count
            self._count += 1
            self._left = entry.size if self._map is None else self._map.stored
            self._padding = -self._left % BLOCK
            yield entry
            self._reader.skip(self._left)
            if len(self._reader.upto(self._padding)) != self._padding and self._need_end:
                raise self._bad("it ends within a member's padding")  # where umoci's layers do end

    def data(self) -> Iterator[memoryview]:
        """The pieces of the current member's content.

        Raises:
            SteleError: `seal.bad-archive` where the stream ends early.
        """
        return self._content(self._left) if self._map is None else self._spread(self._map)

    def _spread(self, found: Map) -> Iterator[memoryview]:
        end = 0
        for offset, size in found.pieces:
            yield from _zeros(offset - end)
            yield from self._content(size)
            end = offset + size
        yield from _zeros(found.size - end)

    def _content(self, size: int) -> Iterator[memoryview]:
        while size:
            piece = self._reader.some(size)
            if not piece:
                raise self._bad("it ends within a file")
            size -= len(piece)
            self._left -= len(piece)
            yield piece

    def _bad(self, reason: str) -> SteleError:
        return bad_archive(self._reader.what, f"{reason} (near byte {self._reader.offset})")

    def _header(self, extensions: _Extensions) -> bytes | None:
        header = self._reader.upto(BLOCK)
        if not header or header == bytes(BLOCK):
            if extensions:
                raise self._bad("an extension header has no member after it")
            if not header and self._need_end:
                raise self._bad("its end is missing")
            self._end()
            return None
        if len(header) != BLOCK:
            raise self._bad("it ends within a header")
        checksum = self._octal(header[148:156], "checksum")
        if checksum != sum(header) - sum(header[148:156]) + 8 * 0x20:
            raise self._bad("a header's checksum is wrong")
        if header[257:265] not in {b"ustar\x0000", GNU}:
            raise self._bad("a header is neither ustar nor GNU tar")
        return header

    def _end(self) -> None:
        """After the first zero block only zeros may follow: a second archive would be seen by some readers only."""
        while piece := self._reader.some(1 << 20):
            if piece.tobytes().strip(b"\0"):
                raise self._bad("more follows after its end")

    def _extension(self, header: bytes) -> bytes:
        size = self._number(header[124:136], "size")
        if size > MAX_EXTENSION:
            raise self._bad("an extension header is larger than 1 MiB")
        self._budget.entry(size)
        data = self._reader.exactly(size)
        self._reader.skip(-size % BLOCK)
        return data

    def _extend(self, extensions: _Extensions, flag: bytes, data: bytes) -> None:
        if flag == b"g":
            overruled = sorted(key for key in self._pax(data) if key in _APPLIED or key.startswith((XATTR, b"GNU.sparse")))
            if overruled:
                raise self._bad(f"a global pax header sets {quote(overruled[0])} of all members")
        elif flag == b"x":
            if extensions.pax is not None:
                raise self._bad("a member has two pax headers")
            extensions.pax = self._pax(data)
        else:
            name = data.removesuffix(b"\0")
            if b"\0" in name or not name:
                raise self._bad("a GNU long name is empty or holds a NUL byte")
            if flag == b"L":
                if extensions.long_name is not None:
                    raise self._bad("a member has two GNU long names")
                extensions.long_name = name
            else:
                if extensions.long_link is not None:
                    raise self._bad("a member has two GNU long link names")
                extensions.long_link = name

    def _pax(self, data: bytes) -> dict[bytes, bytes]:
        out: dict[bytes, bytes] = {}
        at = 0
        while at < len(data):
            match = _LENGTH.match(data, at)
            if match is None:
                raise self._bad("a pax record has no length")
            end = at + int(match[1])
            record = data[match.end() : end]
            key, separator, value = record[:-1].partition(b"=")
            if end > len(data) or end <= match.end() or record[-1:] != b"\n" or not separator or not key:
                raise self._bad("a pax record is malformed")
            if key in out and key.startswith(sparse.PREFIX):
                raise self._unsupported(SPARSE)
            if key in out:
                raise self._bad(f"a pax header gives {quote(key)[:100]} twice")
            out[key] = value
            at = end
        return out

    def _entry(self, header: bytes, flag: bytes, extensions: _Extensions) -> Entry:
        pax = extensions.pax or {}
        kind = "file" if flag == b"S" else TYPES.get(flag)
        if kind is None:
            raise self._unsupported(f"members of type {quote(flag)}")
        raw = self._name(header, pax, extensions)
        if flag == b"\0" and raw.endswith(b"/"):
            kind = "dir"
        path = normal_path(raw.removesuffix(b"/") if kind == "dir" else raw)  # umoci spells the root "/"
        if not path and kind != "dir":
            raise self._bad(f"its root is a {kind}")
        size = self._pax_number(pax, b"size") if b"size" in pax else self._number(header[124:136], "size")
        self._map = self._mapped(header, pax, kind, size) if pax or flag == b"S" else None
        size = size if self._map is None else self._map.size
        if size > MAX_FILE or (size and kind != "file"):
            raise self._bad(f"{quote(path)[:300]} is a {kind} of {size} bytes")
        mark = kind == "file" and path.rpartition(b"/")[2].startswith(WHITEOUT)
        target = b"" if mark else self._target(header, pax, extensions, kind)
        return Entry(
            path=path,
            kind=kind,
            mode=self._number(header[100:108], "mode") & 0o7777,
            uid=self._owner(pax, b"uid", header[108:116]),
            gid=self._owner(pax, b"gid", header[116:124]),
            mtime=self._mtime(pax, header[136:148]),
            size=size,
            target=normal_path(target) if kind == "link" else target,
            rdev=(self._number(header[329:337], "device"), self._number(header[337:345], "device"))
            if kind in {"char", "block"}
            else (0, 0),
            xattrs={key[len(XATTR) :]: value for key, value in pax.items() if key.startswith(XATTR)},
        )

    def _unsupported(self, what: str) -> SteleError:
        return SteleError(
            f"{self._reader.what} holds {what}, which are not read from archives",
            remedy="make the archive without (GNU tar: no --sparse, no --incremental, no --multi-volume), or seal the unpacked folder",
            code="seal.unsupported-entry",
        )

    def _mapped(self, header: bytes, pax: dict[bytes, bytes], kind: str, size: int) -> Map | None:
        """What is where of a sparse member, of which the archive has `size` bytes; None of others."""
        old, new = header[156:157] == b"S", any(key.startswith(sparse.PREFIX) for key in pax)
        if not old and not new:
            return None
        taken = 0

        def block() -> bytes:
            nonlocal taken
            self._budget.entry(BLOCK)
            taken += BLOCK
            return self._reader.exactly(BLOCK)

        found = None
        if self._sparse and old and not new and header[257:265] == GNU:
            found, taken = sparse.of_gnu(header, block, self._number, self._bad), 0  # those blocks are not among the `size` bytes
        elif self._sparse and new and not old and kind == "file":
            found = sparse.of_pax(pax, block, self._bad)
        if found is None:
            raise self._unsupported(SPARSE if self._sparse else "sparse files")
        if found.stored != size - taken:
            raise self._bad("a sparse map does not fit what there is of its file")
        self._budget.zeros(found.size - found.stored)
        return found

    def _name(self, header: bytes, pax: dict[bytes, bytes], extensions: _Extensions) -> bytes:
        if sparse.NAME in pax:  # the others are of a file that no reader should make
            return self._said_once("name", pax[sparse.NAME], None, b"")
        name = header[:100].partition(b"\0")[0]
        prefix = header[345:500].partition(b"\0")[0] if header[263:265] == b"00" else b""
        if prefix:
            name = prefix + b"/" + name
        return self._said_once("name", pax.get(b"path"), extensions.long_name, name)

    def _target(self, header: bytes, pax: dict[bytes, bytes], extensions: _Extensions, kind: str) -> bytes:
        if kind not in {"symlink", "link"}:
            if b"linkpath" in pax or extensions.long_link is not None:
                raise self._bad(f"a {kind} has a link target")
            return b""
        target = self._said_once("link target", pax.get(b"linkpath"), extensions.long_link, header[157:257].partition(b"\0")[0])
        if len(target) > MAX_PATH:
            raise self._bad(f"a {kind}'s target is longer than {MAX_PATH} bytes")
        return target

    def _said_once(self, what: str, pax: bytes | None, long: bytes | None, short: bytes) -> bytes:
        if pax is not None and long is not None and pax != long:
            raise self._bad(f"pax and GNU headers give different {what}s")
        out = pax if pax is not None else long if long is not None else short
        if not out or b"\0" in out:
            raise self._bad(f"a {what} is empty or holds a NUL byte")
        return out

    def _octal(self, field: bytes, what: str) -> int:
        digits = field.strip(b" \0")
        if not digits:
            return 0
        if digits.strip(b"01234567"):
            raise self._bad(f"a header's {what} is not a number")
        return int(digits, 8)

    def _number(self, field: bytes, what: str) -> int:
        """A header's number: octal digits, or GNU's base-256; negative ones are refused."""
        if field[0] == 0x80:
            return int.from_bytes(field[1:], "big")
        if field[0] & 0x80:
            raise self._bad(f"a header's {what} is negative")
        return self._octal(field, what)

    def _pax_number(self, pax: dict[bytes, bytes], key: bytes) -> int:
        if not _NUMBER.fullmatch(pax[key]):
            raise self._bad(f"the pax {key.decode()} is not a plain number")
        return int(pax[key])

    def _owner(self, pax: dict[bytes, bytes], key: bytes, field: bytes) -> int:
        number = self._pax_number(pax, key) if key in pax else self._number(field, key.decode())
        if number > MAX_ID:
            raise self._bad(f"the {key.decode()} {number} is larger than Linux can express")
        return number

    def _mtime(self, pax: dict[bytes, bytes], field: bytes) -> int:
        if b"mtime" in pax:
            match = _TIME.match(pax[b"mtime"])
            if match is None:
                raise self._bad("the pax mtime is not a time")
            negative_fraction = match[1].startswith(b"-") and (match[2] or b"").strip(b".0")
            return int(match[1]) - (1 if negative_fraction else 0)
        if field[0] == 0xFF:
            return int.from_bytes(field, "big", signed=True)
        return self._number(field, "time")
