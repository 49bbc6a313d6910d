"""Openings of private fields, in files of their own that nobody publishes or serves (docs/spec/sealed.md).

`.state/openings/<n>` has those of the entries from 1024 n on: a magic, then records (index u64, length u32, CRC-32 of both, openings)
in the order of their index. What does not read is passed over: the write-ahead log has what a power cut took of it, and what is
damaged otherwise hides nothing behind it, neither from readers nor from erasing.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import zlib
from typing import TYPE_CHECKING

from stele.host import durable
from stele.ledger import regular
from stele.model import private
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from stele.model.event import Entry
    from stele.model.private import Opening

MAGIC = b"stele-o1"
SPAN = 1024  # entries a file
MAX_FILE = SPAN * (1 << 17)  # more it never has: openings are at most 65,535 bytes an entry, what is over from a crash as many
_HEAD = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_RECORD = _HEAD.size + _CRC.size


def _path(folder: Path, number: int) -> Path:
    return folder / ".state" / "openings" / str(number)


def _records(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Index, place and length of the openings of every record that reads."""
    at, before = len(MAGIC), -1
    while at + _RECORD <= len(data):
        index, length = _HEAD.unpack_from(data, at)
        (crc,) = _CRC.unpack_from(data, at + _HEAD.size)
        begin = at + _RECORD
        if index <= before or not length or begin + length > len(data) or crc != zlib.crc32(data[at : at + _HEAD.size]):
            at += 1  # damaged: the next record is looked for
            continue
        yield index, begin, length
        at, before = begin + length, index


def _unread(data: bytes) -> Iterator[tuple[int, int]]:
    """Begin and end of what is no record."""
    end = len(MAGIC)
    for _, at, length in _records(data):
        if end < at - _RECORD:
            yield end, at - _RECORD
        end = at + length
    if end < len(data):
        yield end, len(data)


class Writer:
    """Writes them. Not thread-safe: its owner serialises."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last = -1, -1, 0  # the file that was written last, the last index in it, where that ends

    def put(self, openings: Iterable[tuple[int, bytes]]) -> None:
        """Write openings, in the order of their index, in place of all that is there from the first of them on. Not synced.

        Raises:
            OSError: what is there is not complete; the same call may succeed later.
        """
        for number, group in itertools.groupby(openings, key=lambda item: item[0] // SPAN):
            items = list(group)
            path = _path(self._folder, number)
            durable.make_dirs(path.parent, 0o700)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                begin = self._begin(fd, number, items[0][0])
                self._last = -1, -1, 0
                self._last = number, items[-1][0], _write_from(fd, begin, items)
            finally:
                os.close(fd)

    def _begin(self, fd: int, number: int, first: int) -> int:
        """Where the record of index `first` is to begin."""
        known, last, end = self._last
        if known == number and last < first:
            return end
        data = _read(fd)
        if data[: len(MAGIC)] != MAGIC:
            durable.write_at(fd, MAGIC, 0)
        return max((at + length for index, at, length in _records(data) if index < first), default=len(MAGIC))


def _write_from(fd: int, begin: int, items: list[tuple[int, bytes]]) -> int:
    frames = bytearray()
    for index, openings in items:
        head = _HEAD.pack(index, len(openings))
        frames += head + _CRC.pack(zlib.crc32(head)) + openings
    end, size = begin + len(frames), os.fstat(fd).st_size
    # what was there is overwritten first and cut then, so that nothing is left in blocks that are given back
    durable.write_at(fd, bytes(frames).ljust(size - begin, b"\0"), begin)
    if end < size:
        os.ftruncate(fd, end)
    return end


def _read(fd: int) -> bytes:
    parts, at = [], 0
    while part := os.pread(fd, 1 << 20, at):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def erase(folder: Path, targets: Mapping[int, Iterable[str]]) -> None:
    """Overwrite salt and value of these fields of these entries in place, and sync. What is gone already is no harm; where an entry's
    record does not read, all that does not read goes, for it may be there.

    Raises:
        OSError: not everything is erased; the same call may succeed later.
    """
    for number, group in itertools.groupby(sorted(targets), key=lambda index: index // SPAN):
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(_path(folder, number), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                data = _read(fd)
                wanted = set(group)
                for index, at, length in _records(data):
                    if index in wanted:
                        _blank(fd, data[at : at + length], at, frozenset(targets[index]))
                        wanted.remove(index)
                for begin, end in _unread(data) if wanted else ():
                    durable.write_at(fd, bytes(end - begin), begin)
                os.fsync(fd)
            finally:
                os.close(fd)


def _blank(fd: int, openings: bytes, at: int, fields: frozenset[str]) -> None:
    try:
        for slot in private.slots(openings):
            if slot.field in fields:
                durable.write_at(fd, bytes(slot.length), at + slot.at)
    except ValueError:
        durable.write_at(fd, bytes(len(openings)), at)  # unreadable: then nothing of it may stay


class Openings:
    """Reading them, beside a running sequencer or without one. Who may not read them is told of no field."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = -1
        self._held: dict[int, bytes] = {}

    @property
    def can_be_read(self) -> bool:
        """Whether this is the writer's own folder, and not a copy without them, and whoever asks may read them."""
        return os.access(self._folder / ".state", os.R_OK | os.X_OK)

    def of(self, index: int, entry: Entry) -> dict[str, Opening]:
        """The openings of an entry by field, each checked against its commitment; a field that is not in it cannot be opened."""
        if not entry.sealed:
            return {}
        if index // SPAN != self._number:
            self._number, self._held = index // SPAN, {}
            with contextlib.suppress(OSError, SteleError):
                data = regular.read(_path(self._folder, self._number), MAX_FILE)
                self._held = {each: data[at : at + length] for each, at, length in _records(data)}
        return private.opened(entry, self._held.get(index, b""))

    def open(self, index: int, entry: Entry) -> Entry:
        """The entry with all of its private fields that can be opened."""
        return entry.opened({field: item.value for field, item in self.of(index, entry).items()}) if entry.sealed else entry
