"""The last note that was cosigned of each log: appended to a file that has its room already, one fdatasync for all who wait
(docs/spec/witness.md, Heads).

A record that was answered is never lost, and one that was altered is never taken for one that a crash cut off.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import threading
import zlib
from typing import TYPE_CHECKING

from stele.host import durable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

MAGIC = b"stele-witness-heads v2\n"
ROOM = 1 << 20  # bytes of a file, or four times what is in it
SECTOR = 512  # bytes: a disk writes all of it, or nothing
_HEAD = re.compile(rb"(head ([1-9][0-9]{0,6}) ([1-9][0-9]{0,11}) ([0-9a-f]{64})) ([0-9a-f]{8})\n")
_BEGINNING = re.compile(  # of such a line
    rb"h(e(a(d( ([1-9][0-9]{0,6}( ([1-9][0-9]{0,11}( ([0-9a-f]{0,63}|[0-9a-f]{64}( [0-9a-f]{0,8})?))?)?)?)?)?)?)?)?"
)


class DamagedError(Exception):
    """What is in the file was altered."""


def _record(before: bytes, note: bytes, began: int) -> bytes:
    """`began`: where in the file the write began that it is of."""
    head = b"head %d %d %s" % (len(note), began, hashlib.sha256(before + note).hexdigest().encode())
    return b"%s %08x\n" % (head, zlib.crc32(head)) + note


def _head(data: bytes, at: int) -> tuple[int, int, bytes] | None:
    """Where the note of the record at a place begins and ends, and its digest in hex; None if no whole first line is there."""
    found = _HEAD.match(data, at)
    if found is None or found[5] != b"%08x" % zlib.crc32(found[1]):
        return None
    return found.end(), found.end() + int(found[2]), found[4]


def read(data: bytes) -> tuple[list[bytes], int, bytes]:
    """The notes of a file in order, where they end, and the digest of the last.

    Raises:
        DamagedError: something in it is neither a record nor what a crash leaves of the last write.
    """
    if not data.startswith(MAGIC):
        raise DamagedError
    notes: list[bytes] = []
    at, before = len(MAGIC), hashlib.sha256(MAGIC).digest()
    while head := _head(data, at):
        begin, end, said = head
        digest = hashlib.sha256(before + data[begin:end])
        if digest.hexdigest().encode() != said:
            break
        notes.append(data[begin:end])
        at, before = end, digest.digest()
    if not _cut_off(data, at, head[1] if head else 0) or _was_followed(data, at):
        raise DamagedError
    return notes, at, before


def _cut_off(data: bytes, at: int, end: int) -> bool:
    """Whether what follows the last record is nothing, or a write of which a crash kept some sectors and not others.

    No byte of a record is zero: a sector that was written has none, and one that was not has no other. `end`: of the record that begins
    at `at`, 0 if its first line is not whole.
    """
    written = len(data.rstrip(b"\0"))
    if written <= at:
        return True
    if not end and written % SECTOR == 0 and _BEGINNING.fullmatch(data, at, written):
        return True
    end = max(written, min(end, len(data)))
    bounds = [at, *range(at // SECTOR * SECTOR + SECTOR, end, SECTOR), end]
    return any(not data[begin:until].strip(b"\0") for begin, until in itertools.pairwise(bounds))


def _was_followed(data: bytes, at: int) -> bool:
    """Whether a write began after a place where a record should be: then what was there had been on disk, and was answered."""
    found = (each for each in _HEAD.finditer(data, at) if each[5] == b"%08x" % zlib.crc32(each[1]))
    return any(int(each[3]) > at for each in found)


class _Turn:
    """A note that somebody waits for."""

    def __init__(self, name: str, note: bytes) -> None:
        self.name, self.note = name, note
        self.done = False
        self.error: OSError | None = None


class Journal:
    """An opened file. `put` may be called from any thread, one at a time for each name."""

    def __init__(self, path: Path, name_of: Callable[[bytes], str]) -> None:
        """Open the file. What is read is on disk when this returns: after a failed sync, memory may show what is not.

        Args:
            path: of it.
            name_of: the log of a note.

        Raises:
            DamagedError: something in it was altered.
            OSError: it cannot be read, or not written.
        """
        self._path = path
        self.notes: dict[str, bytes] = {}
        self._turns = threading.Condition()
        self._waiting: list[_Turn] = []
        self._led = False
        self._fd, self._usable = -1, False
        data = path.read_bytes()
        notes, self._at, self._digest = read(data)
        self.notes = {name_of(note): note for note in notes}
        self._room = len(data)
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            durable.write_at(self._fd, data[: self._at], 0)
            durable.sync_data(self._fd)
            durable.sync_dir(path.parent)
        except BaseException:
            self.close()
            raise
        self._usable = len(data) > self._at and not data[self._at :].strip(b"\0")

    def put(self, name: str, note: bytes) -> None:
        """Make a note the last of its log; when this returns, it is on disk. Nothing is taken back, and no byte of it is zero.

        Raises:
            OSError: the disk may have it or not; here the one before stays.
        """
        turn = _Turn(name, note)
        with self._turns:
            self._waiting.append(turn)
            self._turns.wait_for(lambda: turn.done or not self._led)
            if not turn.done:
                self._led = True
                turns, self._waiting = self._waiting, []
        if not turn.done:
            try:
                self._write(turns)
            finally:
                with self._turns:
                    self._led = False
                    for each in turns:
                        each.done = True
                    self._turns.notify_all()
        if turn.error is not None:
            raise OSError(*turn.error.args) from turn.error

    def _write(self, turns: Sequence[_Turn]) -> None:
        digest, records = self._digest, []
        for turn in turns:
            records.append(_record(digest, turn.note, self._at))
            digest = hashlib.sha256(digest + turn.note).digest()
        data = b"".join(records)
        try:
            if self._usable and self._at + len(data) < self._room:
                self._usable = False  # after a failed write nobody knows what is there
                durable.write_at(self._fd, data, self._at)
                durable.sync_data(self._fd)
                self._usable = True
                self._at, self._digest = self._at + len(data), digest
                self.notes.update((turn.name, turn.note) for turn in turns)
            else:
                self._begin_anew(turns)
        except OSError as error:
            for turn in turns:
                turn.error = error

    def _begin_anew(self, turns: Sequence[_Turn]) -> None:
        """A new file in place of the old one: the last note of each log, and room."""
        self._usable = False
        notes = {**self.notes, **{turn.name: turn.note for turn in turns}}
        digest, records = hashlib.sha256(MAGIC).digest(), [MAGIC]
        for note in notes.values():
            records.append(_record(digest, note, len(MAGIC)))
            digest = hashlib.sha256(digest + note).digest()
        data = b"".join(records)
        room = max(ROOM, 4 * len(data))
        durable.write(self._path, data + bytes(room - len(data)))
        fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._usable = fd, True
        self._at, self._digest, self._room, self.notes = len(data), digest, room, notes

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd, self._usable = -1, False
