"""Compression of layers (docs/spec/release.md, Layers). The output is a function of the input and the named codec.

zstd compresses what is not large in one call. What is larger, it compresses with at least one worker: the output is then the same for
any number of workers (without, it differs), and for any division of the input. The gzip header carries no time and no name.
"""

from __future__ import annotations

import contextlib
import os
import threading
import zlib
from typing import TYPE_CHECKING, Literal, Protocol

import zstandard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import BufferedReader

Compression = Literal["zstd", "gzip", "none"]
ZSTD_LEVEL = 3
WHOLE = 32 << 20  # bytes that zstd compresses in one call
GZIP_LEVEL = 6
_own = threading.local()


class Encoder(Protocol):
    """Compresses a stream."""

    def compress(self, data: bytes | memoryview, /) -> bytes:
        """Take some bytes; gives back what is ready."""

    def flush(self) -> bytes:
        """The rest."""


class _Plain:
    def compress(self, data: bytes | memoryview, /) -> bytes:
        return bytes(data)

    def flush(self) -> bytes:
        return b""


class _Zstd:
    """What comes is held as long as it may be all of it."""

    def __init__(self, workers: int, *, long: bool) -> None:
        """`long`: it is more than is compressed in one call, so that nothing needs to be held."""
        self._workers = workers
        self._held: bytearray | None = None if long else bytearray()
        self._encoder: Encoder | None = None

    def compress(self, data: bytes | memoryview, /) -> bytes:
        if self._encoder is not None:
            return self._encoder.compress(data)
        if self._held is not None and len(self._held) + len(data) <= WHOLE:
            self._held += data
            return b""
        held, self._held = self._held, None
        self._encoder = zstandard.ZstdCompressor(level=ZSTD_LEVEL, threads=self._workers, write_content_size=False).compressobj()
        return self._encoder.compress(held or b"") + self._encoder.compress(data)

    def flush(self) -> bytes:
        if self._encoder is not None:
            return self._encoder.flush()
        held, self._held = self._held, None
        return _one_call(held or b"")


def _one_call(data: bytes | bytearray | memoryview) -> bytes:
    if not hasattr(_own, "compressor"):
        _own.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=False)
    compressor: zstandard.ZstdCompressor = _own.compressor  # its memory, which is zeroed when it is new, is used again
    return compressor.compress(data)


def codec_name(compression: Compression) -> str:
    """What a release records: library, version, parameters."""
    if compression == "zstd":
        return f"zstd {'.'.join(map(str, zstandard.ZSTD_VERSION))} level {ZSTD_LEVEL}"
    if compression == "gzip":
        return f"zlib {zlib.ZLIB_RUNTIME_VERSION} level {GZIP_LEVEL}"
    return "none"


def encoder(compression: Compression, *, alone: bool = False, at_least: int = 0) -> Encoder:
    """A fresh encoder.

    Args:
        compression: which.
        alone: nothing else is made meanwhile; else by as many as four (`seal.hands`), each of which has what its workers hold in memory.
        at_least: so many bytes will come.
    """
    if compression == "zstd":
        processors = len(os.sched_getaffinity(0))
        return _Zstd(max(1, min(4, processors // 2) if alone else min(2, processors // 4)), long=at_least > WHOLE)
    if compression == "gzip":
        return zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31)
    return _Plain()


def compressed(data: memoryview, compression: Compression) -> bytes | memoryview:
    """All of what an encoder gives for `data`."""
    if compression == "zstd" and len(data) <= WHOLE:
        return _one_call(data)
    if compression == "none":
        return data
    packing = encoder(compression, at_least=len(data))
    return packing.compress(data) + packing.flush()


@contextlib.contextmanager
def decompressed(file: BufferedReader, compression: Compression) -> Iterator[Callable[[memoryview], int]]:
    """How to fill a buffer with more of what an encoder of ours wrote: whoever asks checks what comes out; 0 bytes are the end.

    Reading raises ValueError or OSError where nobody's encoder wrote this.
    """
    fill: Callable[[memoryview], int]
    with contextlib.ExitStack() as opened:
        if compression == "zstd":
            fill = opened.enter_context(zstandard.ZstdDecompressor().stream_reader(file, closefd=False)).readinto
        elif compression == "gzip":
            import gzip  # few layers are

            fill = opened.enter_context(gzip.GzipFile(fileobj=file)).readinto
        else:
            fill = file.readinto

        def read(room: memoryview) -> int:
            try:
                return fill(room)
            except (zstandard.ZstdError, zlib.error, EOFError) as error:
                raise ValueError(str(error)) from error

        yield read
