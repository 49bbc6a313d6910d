"""The write-ahead log: preallocated, CRC-chained, one fdatasync per batch. What is in it is committed (docs/spec/ledger.md).

Two files take turns, so that beginning anew needs no pause: the one with the higher generation counts. Layout: a 32-byte header
(magic, generation u64, base index u64, scrub u32, CRC-32), then records (lengths u16 and u16, CRC u32, entry, openings of its private
fields; with no entry, a checkpoint's signed note in place of openings). Each record's CRC continues that of the record before it, so
that neither an earlier generation nor the far end of a torn batch ever reads as part of this one. `scrub` is 1 while the other file has
yet to be overwritten.
"""

from __future__ import annotations

import os
import struct
import zlib
from types import MappingProxyType
from typing import TYPE_CHECKING

from stele.host import durable
from stele.ledger import regular
from stele.ledger.tiles import damaged
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MAGIC = b"stele-w2"
HEADER = struct.Struct("<8sQQII")
RECORD = struct.Struct("<HHI")
_LENGTHS = struct.Struct("<HH")
_CRC = struct.Struct("<I")
MAX_ENTRY = 65535
STEP = 8 << 20  # preallocated at a time, bytes
FIRST = 1 << 20  # at first: who appends little writes and reads less
_READ = 1 << 16  # bytes at first, and then as many again
_ZEROS, _PIECE = bytes(1 << 20), bytes(1 << 16)
_NONE: Mapping[int, bytes] = MappingProxyType({})


class NoRoom(OSError):  # noqa: N818  it is an OSError that says what it is
    """The file could not grow. Nothing was written: the same call may succeed later."""


def _grow(fd: int, size: int) -> int:
    """Write zeros up to `size` and make them durable; returns the new size."""
    # written, not only allocated: on ext4 the first write into unwritten extents costs a journal commit
    at = os.fstat(fd).st_size
    if at >= size:
        return at  # if a crash left that undone, the next fdatasync does it: what it writes could not be found without
    try:
        while at < size:
            durable.write_at(fd, _ZEROS, at)
            at += len(_ZEROS)
        os.fsync(fd)
    except OSError as error:
        raise NoRoom(error.errno, error.strerror) from error
    return at


def _blank(fd: int) -> None:
    """Overwrite a whole file in place with zeros, durably."""
    size = os.fstat(fd).st_size
    for at in range(0, size, len(_ZEROS)):
        durable.write_at(fd, _ZEROS[: size - at], at)
    os.fdatasync(fd)


def _seed(generation: int, base: int) -> int:
    return zlib.crc32(struct.pack("<8sQQ", MAGIC, generation, base))


def _header(generation: int, base: int, scrub: int, magic: bytes = MAGIC) -> bytes:
    head = struct.pack("<8sQQI", magic, generation, base, scrub)
    return head + struct.pack("<I", zlib.crc32(head))


def _frames(entries: Sequence[bytes], crc: int, openings: Mapping[int, bytes] = _NONE) -> tuple[bytearray, int]:
    """`openings`: by position in `entries`, of those that have any."""
    parts: list[bytes] = []
    for position, entry in enumerate(entries):
        opening = openings.get(position, b"") if openings else b""
        lengths = _LENGTHS.pack(len(entry), len(opening))
        crc = zlib.crc32(entry, zlib.crc32(lengths, crc))
        if opening:
            crc = zlib.crc32(opening, crc)
        parts += (lengths, _CRC.pack(crc), entry, opening)
    return bytearray().join(parts), crc


class Wal:
    """The open WAL of a `.state` folder. Not thread-safe: its owner serialises.

    `recovered`: its entries when it was opened, from index `base`; `openings`: by index, of those that have any; `notes`: checkpoints;
    `rest`: what follows, of which no record reads. `is_new`: there was none. `held_notes`: how many checkpoints it holds now.
    """

    def __init__(self, folder: Path) -> None:
        self._paths = (folder / "wal.0", folder / "wal.1")
        found = [self._generation(path) for path in self._paths]
        self.is_new = max(found) == 0
        self.recovered: list[bytes] = []
        self.openings: dict[int, bytes] = {}
        self.notes: list[bytes] = []
        self.rest = self._found = b""
        self._which = found.index(max(found))
        self._fd, self._syncing = self._open(self._which, min(FIRST, STEP) if self.is_new else 0)
        if self.is_new:
            self._activate(self._fd, 1, 0, b"", _seed(1, 0))
        else:
            self._read()
            if self._scrub:
                self.make_true()
                self._scrub_other()

    @staticmethod
    def _generation(path: Path) -> int:
        """0 where there is no such file, or one that was never used."""
        try:
            fd = regular.opened(path, os.O_RDONLY)
        except FileNotFoundError:
            return 0
        try:
            raw = os.pread(fd, HEADER.size, 0)
        finally:
            os.close(fd)
        if not raw.strip(b"\0"):
            return 0
        magic, generation, base, scrub, _ = HEADER.unpack(raw.ljust(HEADER.size, b"\0"))
        if magic[:-1] == MAGIC[:-1] and magic != MAGIC and raw == _header(generation, base, scrub, magic):
            raise SteleError(
                f"this ledger was written by another version of Stele: its write-ahead log is {magic.decode('ascii', 'replace')}, not "
                f"{MAGIC.decode()}",
                remedy="go on with the version that wrote it; what it published, any version reads with `stele log --from FOLDER`",
                code="ledger.other-version",
            )
        if magic != MAGIC or raw != _header(generation, base, scrub) or scrub > 1 or not generation:
            raise damaged(f"the header of the write-ahead log {path.name} does not hold")
        return int(generation)

    def _open(self, which: int, size: int) -> tuple[int, int]:
        """The file, opened for `append` and once more for `sync`; with a `size`, as long as that, and its name is on disk: before it
        counts, so of one that does it is. What is left in one that was much longer goes: each opening would read it.
        """
        path = self._paths[which]
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if size:
                if size <= FIRST < os.fstat(fd).st_size:
                    os.ftruncate(fd, 0)
                self._size = _grow(fd, size)
                durable.sync_dir(path.parent)
            return fd, os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except BaseException:
            os.close(fd)
            raise

    def _activate(self, fd: int, generation: int, base: int, frames: bytes | bytearray, crc: int, *, scrub: bool = False) -> None:
        """The header makes the file count: it is written last."""
        os.fdatasync(fd)
        durable.write_at(fd, _header(generation, base, scrub), 0)
        os.fdatasync(fd)
        self.generation, self.base, self._crc, self._scrub = generation, base, crc, scrub
        self._end, self._noted, self.held_notes = HEADER.size + len(frames), 0, 0

    def _read(self) -> None:
        size = os.fstat(self._fd).st_size
        held = os.pread(self._fd, _READ, 0)
        _, self.generation, self.base, scrub, _ = HEADER.unpack_from(held)
        self._scrub, self._noted, crc = bool(scrub), 0, _seed(self.generation, self.base)
        position = HEADER.size
        while True:
            if len(held) - position < RECORD.size:
                held = self._more(held, size)
                if len(held) - position < RECORD.size:
                    break
            length, more, stored = RECORD.unpack_from(held, position)
            if len(held) - position < RECORD.size + length + more:
                held = self._more(held, size)
            begin = position + RECORD.size
            data = held[begin : begin + length + more]
            following = zlib.crc32(data, zlib.crc32(held[position : position + _LENGTHS.size], crc))
            if not length + more or len(data) < length + more or following != stored:
                break  # the torn end of a batch that was never acknowledged
            if not length:
                self.notes.append(data)
                self._noted += RECORD.size + more
            else:
                if more:
                    self.openings[self.base + len(self.recovered)] = data[length:]
                self.recovered.append(data[:length] if more else data)
            crc = stored
            position = begin + length + more
        self._end, self._crc, self._size = position, crc, size
        self.held_notes = len(self.notes)
        self.rest = self._beyond(held[position:], len(held))
        self._found = held[:position]

    def make_true(self) -> None:
        """Write what was found once more, and sync it: after a failed fdatasync, memory may show what the disk does not have.

        Before anything is written or built on it; unless something shows that it was synced.
        """
        durable.write_at(self._fd, self._found, 0)
        os.fdatasync(self._fd)

    def _more(self, held: bytes, size: int) -> bytes:
        """What was read, and as much again, or all that the longest record needs."""
        return held + os.pread(self._fd, max(RECORD.size + 2 * MAX_ENTRY, len(held)), len(held)) if len(held) < size else held

    def append(self, entries: Sequence[bytes], openings: Mapping[int, bytes] = _NONE) -> None:
        """Write entries and make them durable: when this returns, they are committed.

        `openings`: by position in `entries`, of those that have any; at most 65,535 bytes each.

        Raises:
            NoRoom: nothing was written.
            OSError: nothing is committed, and what is on disk is unknown: do not go on with this object.
        """
        self.write(entries, openings)
        os.fdatasync(self._fd)

    def write(self, entries: Sequence[bytes], openings: Mapping[int, bytes] = _NONE) -> None:
        """Like `append`, but they are committed only when `sync`, or an `append` after it, has returned."""
        self._put(*_frames(entries, self._crc, openings))

    def note(self, signed: bytes) -> bool:
        """Like `write`, but a checkpoint's signed note; False if a record does not hold so much. It goes when the WAL begins anew."""
        if len(signed) > MAX_ENTRY:
            return False
        lengths = _LENGTHS.pack(0, len(signed))
        crc = zlib.crc32(signed, zlib.crc32(lengths, self._crc))
        self._put(lengths + _CRC.pack(crc) + signed, crc)
        self._noted += RECORD.size + len(signed)
        self.held_notes += 1
        return True

    def _put(self, frames: bytes | bytearray, crc: int) -> None:
        if self._end + len(frames) + RECORD.size > self._size:
            self._size = _grow(self._fd, self._end + len(frames) + STEP)
        durable.write_at(self._fd, frames, self._end)
        self._end += len(frames)
        self._crc = crc

    def sync(self) -> None:
        """Commit what was written. It may run beside `append`, but not beside `recycle`.

        Raises:
            OSError: like `append`.
        """
        # each open file is told once of what could not be written: by one of its own, nobody's failure is taken for another's
        os.fdatasync(self._syncing)

    @property
    def used(self) -> int:
        """Bytes of entries' records."""
        return self._end - HEADER.size - self._noted

    @property
    def is_half_full(self) -> bool:
        """Whether half of what was written ahead is used: it should begin anew before it has to grow."""
        return self._end > self._size // 2

    def recycle(self, base: int, entries: Sequence[bytes], openings: Mapping[int, bytes] = _NONE, *, scrub: bool = False) -> None:
        """Go on in the other file, which begins at `base` with the `entries` that are already committed from there.

        Only after everything below `base` is durable elsewhere. With `scrub`, nothing of what was in either file before is left
        in them when this returns; if it is cut off after the other file counts, the next opening does the rest.

        Raises:
            NoRoom: nothing changed.
            OSError: which file counts is unknown: do not go on with this object.
        """
        generation = self.generation + 1
        frames, crc = _frames(entries, _seed(generation, base), openings)
        kept = self._size
        try:
            fd, syncing = self._open(1 - self._which, STEP if self._end > FIRST // 2 else min(FIRST, STEP))
            try:
                if scrub:
                    _blank(fd)
                if HEADER.size + len(frames) + RECORD.size > self._size:
                    self._size = _grow(fd, len(frames) + STEP)
            except BaseException:
                os.close(fd)
                os.close(syncing)
                raise
        except OSError as error:
            self._size = kept
            raise NoRoom(error.errno, error.strerror) from error
        try:
            durable.write_at(fd, frames, HEADER.size)
            self._activate(fd, generation, base, frames, crc, scrub=scrub)
        except BaseException:
            os.close(fd)
            os.close(syncing)
            raise
        self.close()
        self._fd, self._syncing, self._which = fd, syncing, 1 - self._which
        if scrub:
            self._scrub_other()

    def _beyond(self, held: bytes, at: int) -> bytes:
        """`held`, and what follows it from `at` on, one STEP; pieces of zeros count as one zero: almost all of it is such pieces."""
        # compared as wholes: to strip zeros costs a hundred times as much as reading them
        found, room = [b"\0" if held == _ZEROS[: len(held)] else held], bytearray(len(_PIECE))
        for position in range(at, at + STEP, len(room)):
            length = os.preadv(self._fd, [room], position)
            found.append(b"\0" if length == len(room) and room == _PIECE else bytes(room[:length]))
            if length < len(room):
                break
        return b"".join(found)

    def _scrub_other(self) -> None:
        """Overwrite the file that does not count, then say in the header that it is done."""
        try:
            fd = os.open(self._paths[1 - self._which], os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            pass
        else:
            try:
                _blank(fd)
            finally:
                os.close(fd)
        durable.write_at(self._fd, _header(self.generation, self.base, 0), 0)
        os.fdatasync(self._fd)
        self._scrub = False

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
        os.close(self._syncing)
