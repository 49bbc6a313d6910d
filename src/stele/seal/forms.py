"""The two forms of a stratum: its tar, compressed, and its EROFS image with the hash tree (docs/spec/strata.md, erofs.md).

A stratum of the usual size has its image in memory until it is whole: each content is then read once for both forms, and
the image is hashed where it lies and written in one go. Of a larger one, both forms stream, each by itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
from typing import TYPE_CHECKING, NamedTuple, Self

from stele.host import durable
from stele.host.hashing import hash_fd
from stele.model.release import LAYER_TYPES, Descriptor
from stele.seal import codec, erofs, erofs_layout, tar, verity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from stele.model.ports import BlobSink, ContentReader, Draft
    from stele.model.tree import Node
    from stele.seal.codec import Compression, Encoder
    from stele.seal.erofs_layout import Piece

PIECE = 1 << 20  # bytes handed to hash and disk at a time
IN_MEMORY = 32 << 20  # bytes of content of a stratum whose image is made in memory; few are larger (strata.TARGET)
_WORKERS = 2  # threads; more processors are for their compressors: each thread's own takes as much memory as an image
_STAGE = 256 << 10  # bytes: what is smaller is gathered before it is hashed and compressed


class Image(NamedTuple):
    """A finished EROFS image with its hash tree; the fields are those of a Stratum."""

    digest: str
    size: int
    data_size: int
    verity_root: str


class Made(NamedTuple):
    """Both forms of a stratum, as they were kept."""

    diff_id: str
    layer: Descriptor
    image: Image


class Makers:
    """Makes strata, two at a time. A context manager."""

    def __init__(self, *, in_memory: int = IN_MEMORY) -> None:
        """`in_memory`: as the constant."""
        from concurrent.futures import ThreadPoolExecutor  # with all of logging, which who splices need not load

        self._pool = ThreadPoolExecutor(_WORKERS)
        self._waiting = ThreadPoolExecutor(2 * _WORKERS)  # for compression to end, and for the disk
        self._in_memory = in_memory

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._pool.shutdown(cancel_futures=raised[0] is not None)
        self._waiting.shutdown()

    def begin(
        self, sink: BlobSink, nodes: tuple[Node, ...], encoded: bytes, contents: ContentReader, compression: Compression
    ) -> Callable[[], Made]:
        """Begin to make both forms of a stratum; returns how to wait for them.

        Args:
            sink: takes them.
            nodes: the stratum's.
            encoded: their canonical bytes.
            contents: the bytes of its files.
            compression: of the layer.

        Raises:
            SteleError: those of `sink` and `contents`, when it is waited for.
        """
        uuid = erofs.uuid_of(encoded)
        size = sum(node.size for node in nodes if node.link is None)
        if size <= self._in_memory:
            both = self._pool.submit(self._both, sink, nodes, uuid, contents, compression)

            def wait() -> Made:
                return both.result()()

            return wait
        image = self._pool.submit(_image, sink, nodes, uuid, contents)
        layer = self._pool.submit(keep_layer, sink, tar.stream(nodes, contents), compression)
        return lambda: Made(*layer.result(), image.result())

    def _both(
        self, sink: BlobSink, nodes: tuple[Node, ...], uuid: bytes, contents: ContentReader, compression: Compression
    ) -> Callable[[], Made]:
        """Make both forms in memory; returns how to wait until they are on the disk."""
        layout = erofs_layout.plan(nodes)
        room = mmap.mmap(-1, verity.file_size(layout.data_size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without huge pages
            room.madvise(mmap.MADV_HUGEPAGE)  # a fault for each small page costs more than all that is written to it
        image = memoryview(room)  # nobody closes it: it goes with the last view of it
        for data, offset in erofs.structure(layout, uuid):
            image[offset : offset + len(data)] = data
        with _kept(sink.draft("blob")) as blob:
            writing = _Writing(blob.fd, codec.encoder(compression, alone=False))
            writing.all(tar.stream(nodes, _Placed(contents, layout.pieces(), image)))
            ending = self._waiting.submit(writing.end)
            try:
                root = verity.fill(image, layout.data_size, uuid)
                made = Image("sha256:" + hashlib.sha256(image).hexdigest(), len(image), layout.data_size, root)
                with _kept(sink.draft("image")) as file:
                    _write_image(file.fd, image)
                keeping_image = self._waiting.submit(_commit, file, made.digest)
            finally:
                diff_id, digest, size = ending.result()  # then this thread's encoder is free
        keeping_layer = self._waiting.submit(_commit, blob, digest)

        def finish() -> Made:
            keeping_layer.result()
            keeping_image.result()
            return Made(diff_id, Descriptor(media_type=LAYER_TYPES[compression], digest=digest, size=size), made)

        return finish


@contextlib.contextmanager
def _kept(draft: Draft) -> Iterator[Draft]:
    """A draft that is kept open for who commits it, unless writing it fails."""
    with contextlib.ExitStack() as undo:
        yield undo.enter_context(draft)
        undo.pop_all()


def _commit(draft: Draft, digest: str) -> None:
    with draft:
        draft.commit(digest)


def _write_image(fd: int, image: memoryview) -> None:
    os.ftruncate(fd, len(image))
    for at in range(0, len(image), PIECE):
        if not durable.is_hole(image[at : at + PIECE]):
            durable.write_at(fd, image[at : at + PIECE], at)


class _Placed:
    """Contents that are put into an image when they are first read."""

    def __init__(self, contents: ContentReader, pieces: dict[str, list[Piece]], image: memoryview) -> None:
        self._contents, self._pieces, self._image = contents, pieces, image

    def read(self, digest: str) -> bytes:
        """See the port."""
        data = self._contents.read(digest)
        view, image = memoryview(data), self._image
        for start, size, offset in self._pieces.pop(digest, ()):
            if start + size <= len(data):  # else it is not what it should be, which who reads it sees
                image[offset : offset + size] = view[start : start + size]
        return data

    def chunks(self, digest: str, size: int = PIECE) -> Iterator[bytes]:
        """See the port."""
        pieces, done = self._pieces.pop(digest, ()), 0
        for chunk in self._contents.chunks(digest, size):
            for part, offset in erofs.placed(pieces, chunk, done):
                self._image[offset : offset + len(part)] = part
            done += len(chunk)
            yield chunk


def keep_layer(
    sink: BlobSink, parts: Iterable[bytes | memoryview], compression: Compression, known: Callable[[], str] | None = None
) -> tuple[str, Descriptor]:
    """Keep a stratum's tar, compressed; returns its diff_id and the blob. Raises what `sink` and `parts` raise.

    `known`: gives the diff_id when all parts were taken, where whoever makes them hashes them, and does not leave all processors to it.
    """
    with sink.draft("blob") as draft:
        writing = _Writing(draft.fd, codec.encoder(compression, alone=known is None), known)
        writing.all(parts)
        diff_id, digest, size = writing.end()
        draft.commit(digest)
    return diff_id, Descriptor(media_type=LAYER_TYPES[compression], digest=digest, size=size)


def write_layer(fd: int, parts: Iterable[bytes | memoryview], compression: Compression) -> tuple[str, str, int]:
    """Write a stratum's tar, compressed, to `fd`; returns its diff_id, and digest and size of what was written."""
    writing = _Writing(fd, codec.encoder(compression))
    writing.all(parts)
    return writing.end()


class _Writing:
    """A tar on its way into a file."""

    def __init__(self, fd: int, encoder: Encoder, known: Callable[[], str] | None = None) -> None:
        """`known`: see `keep_layer`."""
        self._fd, self._encoder, self._known = fd, encoder, known
        self._plain, self._packed, self._size = hashlib.sha256(), hashlib.sha256(), 0

    def all(self, parts: Iterable[bytes | memoryview]) -> None:
        """All parts of the tar."""
        stage = bytearray(_STAGE)
        view, held = memoryview(stage), 0
        for part in parts:
            size = len(part)
            if held + size > _STAGE:
                self._put(view[:held])
                held = 0
                if size > _STAGE // 2:
                    self._put(part)
                    continue
            stage[held : held + size] = part
            held += size
        self._put(view[:held])

    def _put(self, data: bytes | memoryview) -> None:
        if self._known is None:
            self._plain.update(data)
        self._write(self._encoder.compress(data))

    def _write(self, data: bytes) -> None:
        if data:
            self._packed.update(data)
            self._size += len(data)
            durable.write_all(self._fd, data)

    def end(self) -> tuple[str, str, int]:
        """All of it is there; returns its diff_id, and digest and size of what was written."""
        self._write(self._encoder.flush())
        diff_id = "sha256:" + self._plain.hexdigest() if self._known is None else self._known()
        return diff_id, "sha256:" + self._packed.hexdigest(), self._size


def _image(sink: BlobSink, nodes: tuple[Node, ...], uuid: bytes, contents: ContentReader) -> Image:
    with sink.draft("image") as draft:
        layout = erofs_layout.plan(nodes)
        erofs.write(draft.fd, layout, uuid, contents)
        image = finish_image(draft.fd, layout.data_size, uuid)
        draft.commit(image.digest)
    return image


def finish_image(fd: int, data_size: int, uuid: bytes) -> Image:
    """Append the hash area to the image in `fd`, and hash the whole."""
    root = verity.append(fd, data_size, uuid)
    digest, size = hash_fd(fd)
    return Image(digest, size, data_size, root)
