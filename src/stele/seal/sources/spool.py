"""The one anonymous temporary file that holds an archive's contents, each once; nothing of it has a name on disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
from typing import TYPE_CHECKING

from stele.host import durable
from stele.seal.byte_code import PYC_HEADER, compiled_from
from stele.seal.contents import InSpool, Place
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

AT_ONCE = 1 << 20  # bytes of a file that is hashed before it is written


def anonymous_file() -> int:
    """A descriptor of a new file without a name, in $TMPDIR or /var/tmp (/tmp is often memory).

    Raises:
        SteleError: `seal.no-room`.
    """
    folder = os.environ.get("TMPDIR") or "/var/tmp"  # noqa: S108  the file has no name there
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            return os.dup(file.fileno())
    except OSError as error:
        raise no_room(error) from error


def no_room(error: OSError) -> SteleError:
    """The error for a temporary file that cannot be made or grown."""
    return SteleError(
        f"the archive's files cannot be kept in a temporary file: {error.strerror}",
        remedy="make room, or name a folder with room in TMPDIR",
        code="seal.no-room",
        retryable=True,
    )


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data` at the descriptor's position.

    Raises:
        SteleError: `seal.no-room`.
    """
    try:
        durable.write_all(fd, data)
    except OSError as error:
        raise no_room(error) from error


class Spool:
    """Contents appended to one anonymous file; those that are already there are not kept twice."""

    def __init__(self) -> None:
        self.fd = anonymous_file()
        self.places: dict[str, Place] = {}
        self._end = 0

    def add(self, pieces: Iterable[memoryview], size: int) -> tuple[str, tuple[int, int] | None]:
        """Keep one file's content of `size` bytes; returns its SHA-256 and what `compiled_from` says of it.

        Raises:
            SteleError: `seal.no-room`, and what `pieces` raises.
        """
        if size <= AT_ONCE:
            data = b"".join(pieces)
            digest = hashlib.sha256(data).hexdigest()
            if digest not in self.places:
                write_all(self.fd, data)
                self._keep(digest, len(data))
            return digest, compiled_from(data[:PYC_HEADER])
        return self._stream(iter(pieces), size)

    def close(self) -> None:
        """Give the file up."""
        os.close(self.fd)

    def _keep(self, digest: str, size: int) -> None:
        self.places[digest] = InSpool(self._end, size)
        self._end += size

    def _stream(self, pieces: Iterator[memoryview], size: int) -> tuple[str, tuple[int, int] | None]:
        state = hashlib.sha256()
        head = b""
        is_hole = False
        for piece in pieces:
            head = head + bytes(piece[:PYC_HEADER]) if len(head) < PYC_HEADER else head
            state.update(piece)
            if is_hole := durable.is_hole(piece):
                os.lseek(self.fd, len(piece), os.SEEK_CUR)
            else:
                write_all(self.fd, piece)
        if is_hole:
            os.ftruncate(self.fd, os.lseek(self.fd, 0, os.SEEK_CUR))
        digest = state.hexdigest()
        if digest in self.places:
            os.ftruncate(self.fd, self._end)  # else a hole of what comes next would show it
            os.lseek(self.fd, self._end, os.SEEK_SET)
        else:
            self._keep(digest, size)
        return digest, compiled_from(head[:PYC_HEADER])
