"""The two forms of a stratum: its tar, compressed, and its EROFS image with the hash tree (docs/spec/strata.md, erofs.md).

A stratum of the usual size has both in memory: each content is read once, into the tar and from there into the image; both are hashed
where they lie, and written in one go. Of a larger one, both forms stream, each by itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import threading
from typing import TYPE_CHECKING, NamedTuple

from stele.host import durable
from stele.host.hashing import hash_fd
from stele.model.release import LAYER_TYPES, Descriptor
from stele.seal import codec, erofs, erofs_layout, tar, verity
from stele.seal.contents import changed, fill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from stele.model.ports import BlobSink, ContentReader
    from stele.model.tree import Node
    from stele.seal.codec import Compression, Encoder

PIECE = 1 << 20  # bytes handed to hash and disk at a time
_STAGE = 256 << 10  # bytes: what is smaller is gathered before it is hashed and compressed
_own = threading.local()


class Image(NamedTuple):
    """A finished EROFS image with its hash tree; the fields are those of a Stratum."""

    digest: str
    size: int
    data_size: int
    verity_root: str


class Layer(NamedTuple):
    """A finished layer: digest of its tar, digest and size in bytes of what was written."""

    diff_id: str
    digest: str
    size: int


def write_both(
    blob: int, image: int, nodes: Sequence[Node], uuid: bytes, contents: ContentReader, compression: Compression
) -> tuple[Layer, Image]:
    """Make both forms in memory, and write them to two empty files.

    Args:
        blob: file for the layer.
        image: file for the image.
        nodes: the stratum's.
        uuid: of them.
        contents: the bytes of its files.
        compression: of the layer.

    Raises:
        SteleError: `seal.source-changed`, `seal.xattr-not-supported`, and what `contents` raises.
        OSError: a file could not be written.
    """
    layout = erofs_layout.plan(nodes)  # before anything is written: it may not fit an image
    parts: dict[str, memoryview] = {}

    def put(node: Node, part: memoryview) -> None:
        if fill(contents, node.sha256, part) != node.size:
            raise changed(node.path, " its size")
        parts[node.sha256] = part

    found, size = tar.headers(nodes)
    whole = _tar_room(size)
    tar.fill(whole, nodes, found, put)
    layer = _write_packed(blob, whole, compression)
    room = _memory(verity.file_size(layout.data_size))  # new, and zeros; not sooner, so that what was compressed is gone
    for data, offset in erofs.structure(layout, uuid):
        room[offset : offset + len(data)] = data
    for digest, pieces in layout.pieces().items():
        part = parts[digest]
        for piece in pieces:
            room[piece.offset : piece.offset + piece.size] = part[piece.start : piece.start + piece.size]
    root = verity.fill(room, layout.data_size, uuid)
    made = Image("sha256:" + hashlib.sha256(room).hexdigest(), len(room), layout.data_size, root)
    _write_image(image, room)
    return layer, made


def _write_packed(fd: int, whole: memoryview, compression: Compression) -> Layer:
    packed = codec.compressed(whole, compression)
    durable.write_all(fd, packed)
    return Layer("sha256:" + hashlib.sha256(whole).hexdigest(), "sha256:" + hashlib.sha256(packed).hexdigest(), len(packed))


def _memory(size: int) -> memoryview:
    room = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        room.madvise(mmap.MADV_HUGEPAGE)  # a fault for each small page costs more than all that is written to it
    return memoryview(room)  # nobody closes it: it goes with the last view of it


def _tar_room(size: int) -> memoryview:
    """Memory of this thread's own, used again: whatever is in it."""
    if len(getattr(_own, "room", b"")) < size:
        _own.room = _memory(size)
    room: memoryview = _own.room
    return room[:size]


def _write_image(fd: int, image: memoryview) -> None:
    os.ftruncate(fd, len(image))
    for at in range(0, len(image), PIECE):
        if not durable.is_hole(image[at : at + PIECE]):
            durable.write_at(fd, image[at : at + PIECE], at)


def keep_layer(
    sink: BlobSink, parts: Iterable[bytes | memoryview], compression: Compression, known: Callable[[], str]
) -> tuple[str, Descriptor]:
    """Keep a stratum's tar, compressed; returns its diff_id and the blob. Raises what `sink` and `parts` raise.

    `known`: gives the diff_id when all parts were taken: whoever makes them hashes them.
    """
    with sink.draft("blob") as draft:
        writing = _Writing(draft.fd, codec.encoder(compression, alone=True), known)
        writing.all(parts)
        layer = writing.end()
        draft.commit(layer.digest)
    return layer.diff_id, Descriptor(media_type=LAYER_TYPES[compression], digest=layer.digest, size=layer.size)


def write_layer(fd: int, nodes: Sequence[Node], contents: ContentReader, compression: Compression, *, alone: bool = False) -> Layer:
    """Write a stratum's tar, compressed, to `fd`. `alone`: see `codec.encoder`. Raises like `tar.stream`."""
    size = sum([node.size for node in nodes if node.link is None])
    writing = _Writing(fd, codec.encoder(compression, alone=alone, at_least=size))
    writing.all(tar.stream(nodes, contents))
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

    def end(self) -> Layer:
        """All of it is there."""
        self._write(self._encoder.flush())
        diff_id = "sha256:" + self._plain.hexdigest() if self._known is None else self._known()
        return Layer(diff_id, "sha256:" + self._packed.hexdigest(), self._size)


def write_image(fd: int, nodes: Sequence[Node], uuid: bytes, contents: ContentReader) -> Image:
    """Write a stratum's image to the empty file `fd`. Raises like `erofs.write`."""
    layout = erofs_layout.plan(nodes)
    erofs.write(fd, layout, uuid, contents)
    return finish_image(fd, layout.data_size, uuid)


def finish_image(fd: int, data_size: int, uuid: bytes) -> Image:
    """Append the hash area to the image in `fd`, and hash the whole."""
    root = verity.append(fd, data_size, uuid)
    digest, size = hash_fd(fd)
    return Image(digest, size, data_size, root)
