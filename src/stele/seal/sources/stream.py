"""Byte streams of archives: unfolding gzip and zstd in bounded memory, counting, hashing, and exact reads."""

from __future__ import annotations

import contextlib
import hashlib
import queue
import re
import threading
import zlib
from typing import TYPE_CHECKING, Protocol

import zstandard

from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stele.seal.sources.source import Limits

PIECE = 1 << 20
GZIP = b"\x1f\x8b"
ZSTD = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")  # a frame, or one to be skipped, with which pzstd begins
WINDOW = 128 << 20  # the largest zstd window, in bytes, that is unfolded: what every zstd tool accepts


class Readable(Protocol):
    """Something to read from, like a raw file: up to `size` bytes, b"" at the end."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes."""


def bad_archive(what: str, reason: str) -> SteleError:
    """The error for bytes that are not what they are said to be."""
    return SteleError(
        f"{what} cannot be read: {reason}",
        remedy="the archive is damaged, cut short, or made to mislead: get it again, or make it again with an ordinary tool",
        code="seal.bad-archive",
    )


class Budget:
    """What may still unfold, over all layers of one source."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.bytes = 0
        self.entries = 0
        self.extensions = 0

    def entry(self, extension: int = 0) -> None:
        """Count one tar header and the bytes of its extension, which stay in memory.

        Raises:
            SteleError: `seal.too-large`.
        """
        self.entries += 1
        if self.entries > self.limits.max_entries:
            raise self._too_large(f"it holds more than {self.limits.max_entries:,} entries")
        self.extensions += extension
        if self.extensions > self.limits.max_extensions:
            raise self._too_large(f"its long names and attributes take more than {self.limits.max_extensions:,} bytes")

    def unfolded(self, count: int, folded: int, unfolded: int) -> None:
        """Count `count` bytes, of a stream that so far unfolded `folded` bytes to `unfolded`.

        Raises:
            SteleError: `seal.too-large`.
        """
        self.zeros(count)
        if unfolded > self.limits.free_bytes and unfolded > folded * self.limits.max_ratio:
            raise self._too_large(f"a layer unfolds to more than {self.limits.max_ratio} times its size")

    def zeros(self, count: int) -> None:
        """Count bytes that a sparse member does not hold, and its file has.

        Raises:
            SteleError: `seal.too-large`.
        """
        self.bytes += count
        if self.bytes > self.limits.max_bytes:
            raise self._too_large(f"it unfolds to more than {self.limits.max_bytes:,} bytes")

    @staticmethod
    def _too_large(reason: str) -> SteleError:
        return SteleError(
            f"the archive is larger than is believed of one: {reason}",
            remedy="if you trust it, unpack it yourself and seal the folder",
            code="seal.too-large",
        )


class Hashed:
    """Passes reads through, counting and (where wanted) hashing them."""

    def __init__(self, inner: Readable, *, wanted: bool = True) -> None:
        self._inner = inner
        self._wanted = wanted
        self.state = hashlib.sha256()
        self.count = 0

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes."""
        data = self._inner.read(size)
        if self._wanted:
            self.state.update(data)
        self.count += len(data)
        return data

    def digest(self) -> str:
        """`sha256:<hex>` of what was read."""
        return "sha256:" + self.state.hexdigest()


def plain(source: Readable) -> Iterator[bytes]:
    """The pieces of a stream as they are."""
    while piece := source.read(PIECE):
        yield piece


def is_folded(head: bytes) -> bool:
    """Whether what begins so is unfolded."""
    return head.startswith(GZIP) or ZSTD.match(head) is not None


def unfold(source: Readable, what: str) -> Iterator[bytes]:
    """The pieces of a stream, unfolded if it begins as gzip or zstd does; each at most about 1 MiB.

    Raises:
        SteleError: `seal.bad-archive`.
    """
    head = source.read(PIECE)
    if head.startswith(GZIP):
        yield from _gunzip(head, source, what)
    elif ZSTD.match(head):
        yield from _unzstd(head, source, what)
    else:
        yield from plain(_Joined(head, source))


def _gunzip(head: bytes, source: Readable, what: str) -> Iterator[bytes]:
    data = head
    while data:
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            if not data:
                raise bad_archive(what, "its gzip stream ends early")
            try:
                piece = member.decompress(data, PIECE)
            except zlib.error as error:
                raise bad_archive(what, f"its gzip stream is damaged: {error}") from error
            if piece:
                yield piece
            data = member.unconsumed_tail
            if not data and not member.eof:
                data = source.read(PIECE)
        data = member.unused_data or source.read(PIECE)


class _Joined:
    """What was already read, then the rest."""

    def __init__(self, head: bytes, rest: Readable) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int = -1, /) -> bytes:
        if self._head:
            piece, self._head = self._head[:size], self._head[size:]
            return piece
        return self._rest.read(size)


def _unzstd(head: bytes, source: Readable, what: str) -> Iterator[bytes]:
    joined = _Joined(head, source)
    decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW)
    with decompressor.stream_reader(joined, read_size=PIECE, read_across_frames=True) as reader:  # type: ignore[arg-type]  # only read() is used
        while True:
            try:
                piece = reader.read(PIECE)
            except zstandard.ZstdError as error:
                raise bad_archive(what, f"its zstd stream is damaged: {error}") from error
            if not piece:
                return
            yield piece


class Ahead:
    """Pieces made by a thread, a few ahead of who takes them: unfolding and hashing beside parsing. A context manager."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._queue: queue.Queue[bytes | BaseException | None] = queue.Queue(maxsize=8)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._make, name="unfold", daemon=True)

    def __enter__(self) -> Iterator[bytes]:
        self._thread.start()
        return iter(self._take, None)

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._queue.get_nowait()  # a maker that waits for room finds it
            self._thread.join(0.005)

    def _make(self) -> None:
        try:
            for piece in self._pieces:
                if self._stopped.is_set():
                    return
                self._queue.put(piece)
        except BaseException as error:  # noqa: BLE001  raised again in the thread that takes
            self._queue.put(error)
        else:
            self._queue.put(None)

    def _take(self) -> bytes | None:
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item


class Reader:
    """Exact reads from pieces.

    Args:
        pieces: the stream.
        what: its name in messages.
    """

    def __init__(self, pieces: Iterator[bytes], what: str) -> None:
        self._pieces = pieces
        self._held = memoryview(b"")
        self.what = what
        self.offset = 0

    def some(self, limit: int) -> memoryview:
        """Between 1 and `limit` bytes; none at the end."""
        while not self._held:
            piece = next(self._pieces, None)
            if piece is None:
                return memoryview(b"")
            self._held = memoryview(piece)
        out, self._held = self._held[:limit], self._held[limit:]
        self.offset += len(out)
        return out

    def upto(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end."""
        first = self.some(size)
        if len(first) == size:
            return bytes(first)
        out = bytearray(first)
        while len(out) < size and (piece := self.some(size - len(out))):
            out += piece
        return bytes(out)

    def exactly(self, size: int) -> bytes:
        """`size` bytes.

        Raises:
            SteleError: `seal.bad-archive` if there are fewer.
        """
        data = self.upto(size)
        if len(data) != size:
            raise bad_archive(self.what, "it ends early")
        return data

    def skip(self, size: int) -> None:
        """Pass over `size` bytes. Raises like `exactly`."""
        while size:
            piece = self.some(size)
            if not piece:
                raise bad_archive(self.what, "it ends early")
            size -= len(piece)


class FileReader(Reader):
    """A Reader over a file that can be read anywhere; it skips without reading.

    Args:
        pread: called with (size, offset).
        size: of the file, in bytes.
        what: its name in messages.
    """

    def __init__(self, pread: Callable[[int, int], bytes], size: int, what: str) -> None:
        self._at = 0
        self._size = size
        self._pread = pread
        super().__init__(iter(self._next, b""), what)

    def _next(self) -> bytes:
        piece = self._pread(PIECE, self._at)
        self._at += len(piece)
        return piece

    def skip(self, size: int) -> None:
        """Pass over `size` bytes. Raises like `exactly`."""
        held = min(size, len(self._held))
        self._held = self._held[held:]
        self._at += size - held
        self.offset += size
        if self.offset > self._size:
            raise bad_archive(self.what, "it ends early")
