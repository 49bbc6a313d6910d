"""Compression of layers (docs/spec/release.md, Layers). The output is a function of the input and the named codec.

zstd runs with at least one worker: its output is then the same for any number of workers (without, it differs), and for
any division of the input. The gzip header carries no time and no name.
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


def codec_name(compression: Compression) -> str:
    """What a release records: library, version, parameters."""
    if compression == "zstd":
        return f"zstd {'.'.join(map(str, zstandard.ZSTD_VERSION))} level {ZSTD_LEVEL} mt"
    if compression == "gzip":
        return f"zlib {zlib.ZLIB_RUNTIME_VERSION} level {GZIP_LEVEL}"
    return "none"


def encoder(compression: Compression, *, alone: bool = True) -> Encoder:
    """A fresh encoder. `alone`: whether all processors are for this one, or half of them; of such a thread has one at a time."""
    if compression == "zstd" and not alone:
        if not hasattr(_own, "compressor"):
            _own.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, threads=max(1, min(4, (os.cpu_count() or 1) // 2)))
        own: zstandard.ZstdCompressor = _own.compressor  # its memory, which is zeroed when it is new, is used again
        return own.compressobj()
    if compression == "zstd":
        workers = max(1, min(8, os.cpu_count() or 1))
        return zstandard.ZstdCompressor(level=ZSTD_LEVEL, threads=workers).compressobj()
    if compression == "gzip":
        return zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31)
    return _Plain()


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
