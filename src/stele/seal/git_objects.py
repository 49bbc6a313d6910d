"""The little of git's object store that is needed to know a commit's tree, and the tree that an index would make.

Formats: gitformat-pack(5), gitformat-index(5). Everything is bounded; what cannot be read is None.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_OBJECT = 1 << 20  # bytes of a commit
MAX_PACKS = 1000
MAX_CHAIN = 60  # deltas on top of each other
_COMMIT, _OFS_DELTA, _REF_DELTA = 1, 6, 7


class Entry(NamedTuple):
    """One entry of the index. `mtime`: seconds and nanoseconds. `absent`: sparse: it is not meant to be there."""

    mtime: tuple[int, int]
    mode: int
    size: int
    name: bytes
    stage: int
    absent: bool


def commit_tree(objects: Path, commit: str) -> bytes | None:
    """The id of a commit's tree."""
    try:
        data = _loose(objects, commit) or _packed(objects, bytes.fromhex(commit), 0)
    except (OSError, ValueError, IndexError, zlib.error):
        return None
    if not data or not data.startswith(b"tree ") or data[5 + len(commit) : 6 + len(commit)] != b"\n":
        return None
    try:
        return bytes.fromhex(data[5 : 5 + len(commit)].decode("ascii"))
    except ValueError:
        return None


def index_tree(entries: Mapping[bytes, tuple[Entry, bytes]], id_size: int) -> bytes:
    """The id of the tree that these entries of an index make."""
    new = hashlib.sha1 if id_size == 20 else hashlib.sha256
    folders: dict[bytes, list[tuple[bytes, bytes, bytes]]] = {b"": []}
    for name, (entry, object_id) in entries.items():
        above, _, last = name.rpartition(b"/")
        folders.setdefault(above, []).append((last, b"%o" % entry.mode, object_id))
        while above and (above := above.rpartition(b"/")[0]) not in folders:
            folders[above] = []
    digest = b""
    for folder in sorted(folders, key=lambda path: (-path.count(b"/") if path else 1, path)):
        # git sorts a folder as if its name ended in '/'
        rows = sorted(folders[folder], key=lambda row: row[0] + b"/" if row[1] == b"40000" else row[0])
        body = b"".join(mode + b" " + name + b"\0" + object_id for name, mode, object_id in rows)
        digest = new(b"tree %d\0" % len(body) + body, usedforsecurity=False).digest()
        if folder:
            above, _, last = folder.rpartition(b"/")
            folders[above].append((last, b"40000", digest))
    return digest


def _inflate(data: bytes, limit: int = MAX_OBJECT) -> bytes:
    stream = zlib.decompressobj()
    out = stream.decompress(data, limit + 1)
    if len(out) > limit or not stream.eof:
        raise ValueError("too large")
    return out


def _loose(objects: Path, name: str) -> bytes | None:
    path = objects / name[:2] / name[2:]
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head, _, body = _inflate(file.read(MAX_OBJECT)).partition(b"\0")
    return body if head.startswith(b"commit ") else None


def _packed(objects: Path, wanted: bytes, depth: int) -> bytes | None:
    """An object's bytes from the packs."""
    folder = objects / "pack"
    names = sorted(entry for entry in os.listdir(folder) if entry.endswith(".idx"))[:MAX_PACKS] if folder.is_dir() else []
    for name in names:
        fd = os.open(folder / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            offset = _offset(fd, wanted)
        finally:
            os.close(fd)
        if offset is not None:
            pack = os.open(folder / (name[:-4] + ".pack"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                return _object(objects, pack, offset, len(wanted), depth)
            finally:
                os.close(pack)
    return None


def _offset(fd: int, wanted: bytes) -> int | None:
    """Where in its pack an object begins, by the pack's index, version 2."""
    if os.pread(fd, 8, 0) != b"\xfftOc\0\0\0\x02":
        return None
    low = int.from_bytes(os.pread(fd, 4, 8 + 4 * (wanted[0] - 1)), "big") if wanted[0] else 0
    high = int.from_bytes(os.pread(fd, 4, 8 + 4 * wanted[0]), "big")
    count = int.from_bytes(os.pread(fd, 4, 8 + 4 * 255), "big")
    size = len(wanted)
    while low < high:
        middle = (low + high) // 2
        name = os.pread(fd, size, 1032 + size * middle)
        if len(name) != size:
            return None
        if name == wanted:
            offset = int.from_bytes(os.pread(fd, 4, 1032 + (size + 4) * count + 4 * middle), "big")
            if offset & 1 << 31:
                offset = int.from_bytes(os.pread(fd, 8, 1032 + (size + 8) * count + 8 * (offset & ~(1 << 31))), "big")
            return offset
        low, high = (middle + 1, high) if name < wanted else (low, middle)
    return None


def _object(objects: Path, pack: int, offset: int, id_size: int, depth: int) -> bytes | None:
    if depth > MAX_CHAIN:
        return None
    data = os.pread(pack, MAX_OBJECT, offset)
    kind, at = data[0] >> 4 & 7, 1
    while data[at - 1] & 0x80:
        at += 1
    if kind == _COMMIT:
        return _inflate(data[at:])
    if kind == _OFS_DELTA:
        back = data[at] & 0x7F
        while data[at] & 0x80:
            at += 1
            back = (back + 1 << 7) | (data[at] & 0x7F)
        base = _object(objects, pack, offset - back, id_size, depth + 1) if 0 < back < offset else None
        at += 1
    elif kind == _REF_DELTA:
        base = _packed(objects, data[at : at + id_size], depth + 1)
        at += id_size
    else:
        return None
    return None if base is None else patched(base, _inflate(data[at:]))


def patched(base: bytes, delta: bytes) -> bytes:
    """Apply a delta of a pack.

    Raises:
        ValueError, IndexError: it does not fit.
    """

    def size(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = delta[at]
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if not byte & 0x80 or shift > 63:
                return value, at

    before, at = size(0)
    after, at = size(at)
    if before != len(base) or after > MAX_OBJECT:
        raise ValueError("not the delta's base, or too large")
    out = bytearray()
    while at < len(delta):
        code = delta[at]
        at += 1
        if code & 0x80:
            numbers = []
            for bits in ((1, 2, 4, 8), (16, 32, 64)):
                number = 0
                for shift, bit in enumerate(bits):
                    if code & bit:
                        number |= delta[at] << 8 * shift
                        at += 1
                numbers.append(number)
            start, length = numbers[0], numbers[1] or 0x10000
            out += base[start : start + length]
        elif code:
            out += delta[at : at + code]
            at += code
        else:
            raise ValueError("a reserved code")
        if len(out) > after:
            raise ValueError("too large")
    if len(out) != after:
        raise ValueError("another size")
    return bytes(out)
