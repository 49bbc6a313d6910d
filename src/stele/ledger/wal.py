"""The write-ahead log: preallocated, CRC-framed, one fdatasync per batch. What is in it is committed (docs/spec/ledger.md).

Layout: a 32-byte header (magic, generation u64, base index u64, CRC), then records (length u32, CRC u32, entry). The CRC covers
generation, index and entry, so that what an earlier generation left behind never reads as a record of this one.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import TYPE_CHECKING

from stele.host import durable
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAGIC = b"stele-w0"
HEADER = struct.Struct("<8sQQII")
RECORD = struct.Struct("<II")
STEP = 8 << 20  # preallocated at a time, bytes


def _crc(generation: int, index: int, entry: bytes) -> int:
    return zlib.crc32(entry, zlib.crc32(struct.pack("<QQ", generation, index)))


class Wal:
    """One open WAL. Not thread-safe: its owner serialises."""

    def __init__(self, path: Path) -> None:
        new = not path.exists()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.generation, self.base, self._end, self.recovered = 0, 0, HEADER.size, []  # type: tuple[int, int, int, list[bytes]]
        self._size = os.fstat(self._fd).st_size
        if new or self._size < HEADER.size:
            self._grow(STEP)
            self._write_header(1, 0)
            durable.sync_dir(path.parent)
        else:
            self._read()

    def _grow(self, size: int) -> None:
        # written zeros, not only allocated: on ext4 the first write into unwritten extents costs a journal commit
        with_zeros = bytes(1 << 20)
        while self._size < size:
            os.pwrite(self._fd, with_zeros, self._size)
            self._size += len(with_zeros)
        os.fsync(self._fd)

    def _write_header(self, generation: int, base: int) -> None:
        body = struct.pack("<8sQQ", MAGIC, generation, base)
        os.pwrite(self._fd, HEADER.pack(MAGIC, generation, base, zlib.crc32(body), 0), 0)
        os.fdatasync(self._fd)
        self.generation, self.base, self._end = generation, base, HEADER.size

    def _read(self) -> None:
        magic, generation, base, crc, _ = HEADER.unpack(os.pread(self._fd, HEADER.size, 0))
        if magic != MAGIC or crc != zlib.crc32(struct.pack("<8sQQ", magic, generation, base)):
            raise SteleError(
                "the ledger's write-ahead log is damaged",
                remedy="restore the ledger folder from a copy; nothing was changed",
                code="ledger.damaged",
            )
        self.generation, self.base = generation, base
        position, index = HEADER.size, base
        while True:
            head = os.pread(self._fd, RECORD.size, position)
            if len(head) < RECORD.size:
                break
            length, crc = RECORD.unpack(head)
            if not 0 < length <= 65535:
                break
            entry = os.pread(self._fd, length, position + RECORD.size)
            if len(entry) < length or _crc(generation, index, entry) != crc:
                break  # the torn end of a batch that was never acknowledged
            self.recovered.append(entry)
            position += RECORD.size + length
            index += 1
        self._end = position

    def append(self, index: int, entries: Sequence[bytes]) -> None:
        """Write entries that begin at `index` and make them durable: when this returns, they are committed.

        Raises:
            OSError: nothing is committed.
        """
        frames = bytearray()
        for offset, entry in enumerate(entries):
            frames += RECORD.pack(len(entry), _crc(self.generation, index + offset, entry)) + entry
        if self._end + len(frames) + RECORD.size > self._size:
            self._grow(self._end + len(frames) + STEP)
        view = memoryview(bytes(frames))
        position = self._end
        while view:
            done = os.pwrite(self._fd, view, position)
            view, position = view[done:], position + done
        os.fdatasync(self._fd)
        self._end = position

    @property
    def used(self) -> int:
        """Bytes of records."""
        return self._end - HEADER.size

    def recycle(self, base: int) -> None:
        """Begin anew at `base`; only after everything below it is durable elsewhere."""
        self._write_header(self.generation + 1, base)
        self.recovered = []

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
