"""The bytes of a source's regular files, by their digest: in memory, in the folder itself, or in one anonymous file."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Self

from stele.host.below import open_below
from stele.model.tree import quote
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from stele.model.ports import ContentReader

CHUNK = 1 << 20


class InFolder(NamedTuple):
    """A file of the source folder: its path below it, and its size in bytes."""

    path: bytes
    size: int


class InSpool(NamedTuple):
    """A stretch of the spool file, in bytes."""

    offset: int
    size: int


class InRoom(NamedTuple):
    """A stretch of the room, in bytes."""

    offset: int
    size: int


Place = bytes | InFolder | InSpool | InRoom


def changed(path: bytes, what: str = "") -> SteleError:
    """The error for a source that is not what it was a moment ago. `what`: of it, where that is known, after a space."""
    return SteleError(
        f"/{quote(path)[:300]} changed{what} while it was being sealed",
        remedy="stop what writes to the source, or seal a copy of it; then seal again",
        code="seal.source-changed",
        retryable=True,
    )


def unreadable(path: bytes, error: OSError) -> SteleError:
    """The error for a path of the source that this user may not read, or nobody can."""
    denied = isinstance(error, PermissionError)
    return SteleError(
        f"/{quote(path)[:300]} cannot be read: {error.strerror}",
        remedy="seal as a user who may read the whole source (sudo), or correct its permissions"
        if denied
        else "see what the kernel says of its disk or file system (dmesg); then seal again, or seal a copy of it",
        code="seal.unreadable",
    )


class Contents:
    """Contents by SHA-256 (64 hex digits). Safe to use from several threads.

    What lies in the folder is hashed again while it streams: a consumer either gets the bytes that the tree promises
    or `seal.source-changed` at the end, before it can take them for whole.
    """

    def __init__(self, places: Mapping[str, Place], *, folder: int = -1, spool: int = -1, room: memoryview | None = None) -> None:
        """Take over the descriptors `folder` (of the source folder) and `spool` (of the spool file); -1: none. `room`: memory."""
        self._places = dict(places)
        self._folder = folder
        self._spool = spool
        self._room = room if room is not None else memoryview(b"")

    def __contains__(self, digest: object) -> bool:
        return digest in self._places

    def __len__(self) -> int:
        return len(self._places)

    def extended(self, more: Mapping[str, bytes]) -> Contents:
        """These contents and some more; the descriptors stay with (and die with) the original."""
        return Contents({**self._places, **more}, folder=self._folder, spool=self._spool, room=self._room)

    def size(self, digest: str) -> int:
        """Bytes of one content."""
        place = self._places[digest]
        return len(place) if isinstance(place, bytes) else place.size

    def fill(self, digest: str, room: memoryview) -> int:
        """Put one content into `room`; returns its size in bytes, of which no more than fits was put. Raises like `chunks`."""
        place = self._places[digest]
        if isinstance(place, InFolder) and place.size == len(room):
            self._fill_from_folder(place, digest, room)
        elif isinstance(place, InRoom) and place.size == len(room):
            room[:] = self._room[place.offset : place.offset + place.size]
        else:
            return filled(self.chunks(digest), room)
        return len(room)

    def portable(self, digests: Iterable[str]) -> list[tuple[str, int, bytes, int]]:
        """Where some contents are, as `Contents.ported` takes it: for another process that has the same folder and room."""
        found = []
        for digest in digests:
            place = self._places[digest]
            if isinstance(place, bytes):
                found.append((digest, -1, place, 0))
            elif isinstance(place, InFolder):
                found.append((digest, -2, place.path, place.size))
            elif isinstance(place, InRoom):
                found.append((digest, place.offset, b"", place.size))
            else:
                raise TypeError(f"{place} is only here")
        return found

    @classmethod
    def ported(cls, places: Iterable[tuple[str, int, bytes, int]], folder: int, room: memoryview) -> Self:
        """The contents of which another process says where they are; see `portable`."""
        found: dict[str, Place] = {}
        for digest, offset, data, size in places:
            found[digest] = data if offset == -1 else InFolder(data, size) if offset == -2 else InRoom(offset, size)
        return cls(found, folder=folder, room=room)

    def position(self, digest: str) -> tuple[int, int, bytes]:
        """A sort key by which reading many contents is cheapest (memory, then spool by offset, then folder by path)."""
        place = self._places[digest]
        if isinstance(place, bytes | InRoom):
            return (0, 0, b"")
        return (1, place.offset, b"") if isinstance(place, InSpool) else (2, 0, place.path)

    def chunks(self, digest: str, size: int = CHUNK) -> Iterator[bytes]:
        """The bytes of one content, in pieces of at most `size` bytes.

        Raises:
            SteleError: `seal.source-changed`, `seal.unreadable`; after which what was yielded is worthless.
            KeyError: no such content.
        """
        place = self._held(digest)
        if isinstance(place, bytes):
            if len(place) <= size:
                if place:
                    yield place
                return
            for at in range(0, len(place), size):
                yield place[at : at + size]
        elif isinstance(place, InSpool):
            yield from self._from_spool(place, size)
        else:
            yield from self._from_folder(place, digest, size)

    def read(self, digest: str) -> bytes:
        """One content whole; only for what is known to be small. Raises like `chunks`."""
        place = self._held(digest)
        return place if isinstance(place, bytes) else b"".join(self.chunks(digest))

    def open(self, digest: str) -> BinaryIO:
        """One content as a readable binary stream. Raises like `chunks`, at the read that meets the end."""
        place = self._held(digest)
        if isinstance(place, bytes):
            return io.BytesIO(place)
        return io.BufferedReader(_Chunked(self.chunks(digest)), CHUNK)

    def _held(self, digest: str) -> bytes | InFolder | InSpool:
        """A content that is in memory, or where it is to be read."""
        place = self._places[digest]
        return bytes(self._room[place.offset : place.offset + place.size]) if isinstance(place, InRoom) else place

    def close(self) -> None:
        """Give up the descriptors."""
        for fd in (self._folder, self._spool):
            if fd >= 0:
                os.close(fd)
        self._folder = self._spool = -1
        self._room = memoryview(b"")
        self._places = {}

    def _from_spool(self, place: InSpool, size: int) -> Iterator[bytes]:
        at, left = place.offset, place.size
        while left:
            piece = os.pread(self._spool, min(size, left), at)
            if not piece:
                raise OSError(f"the spool file ends before {place}")
            at += len(piece)
            left -= len(piece)
            yield piece

    @contextlib.contextmanager
    def _opened(self, place: InFolder) -> Iterator[int]:
        try:
            fd = open_below(self._folder, place.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except PermissionError as error:
            raise unreadable(place.path, error) from error
        except OSError as error:
            raise changed(place.path) from error
        try:
            yield fd
        except OSError as error:
            raise (unreadable(place.path, error) if stat.S_ISREG(os.fstat(fd).st_mode) else changed(place.path)) from error
        finally:
            os.close(fd)

    def _fill_from_folder(self, place: InFolder, digest: str, room: memoryview) -> None:
        with self._opened(place) as fd:
            state = hashlib.sha256()
            done = 0
            while done < place.size:
                count = os.preadv(fd, [room[done : done + CHUNK]], done)
                if not count:
                    raise changed(place.path)
                state.update(room[done : done + count])
                done += count
            if os.pread(fd, 1, done) or state.hexdigest() != digest:
                raise changed(place.path)

    def _from_folder(self, place: InFolder, digest: str, size: int) -> Iterator[bytes]:
        with self._opened(place) as fd:
            state = hashlib.sha256()
            left = place.size
            while left:
                piece = os.read(fd, min(size, left))
                if not piece:
                    raise changed(place.path)
                left -= len(piece)
                state.update(piece)
                yield piece
            if os.read(fd, 1) or state.hexdigest() != digest:
                raise changed(place.path)


def fill(contents: ContentReader, digest: str, room: memoryview) -> int:
    """Put a content into `room`; returns its size in bytes, of which no more than fits was put. Raises what `contents` raises."""
    return contents.fill(digest, room) if isinstance(contents, Contents) else filled(contents.chunks(digest), room)


def filled(chunks: Iterable[bytes], room: memoryview) -> int:
    """Put a content into `room`; returns its size in bytes, of which no more than fits was put."""
    done = 0
    for chunk in chunks:
        part = chunk[: max(0, len(room) - done)]
        room[done : done + len(part)] = part
        done += len(chunk)
    return done


class _Chunked(io.RawIOBase):
    """A raw stream over an iterator of chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer has no len()
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        piece = self._rest[: len(buffer)]
        buffer[: len(piece)] = piece
        self._rest = self._rest[len(piece) :]
        return len(piece)

    def close(self) -> None:
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()
        super().close()
