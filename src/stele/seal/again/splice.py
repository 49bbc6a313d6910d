"""A stratum of which some files changed, spliced from its last forms: what did not change is neither read nor encoded again.

The old forms are checked against their signed digests first, so that what is taken from them is what was sealed. The result is, byte
for byte, what making the stratum anew gives; where it would lie otherwise in the image, that is what has to be done.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from stele.host import durable
from stele.host.beside import Beside
from stele.model.tree import joined
from stele.seal import codec, erofs, forms, tar, verity
from stele.seal.erofs_layout import BLOCK, INODE, SLOT, tail_of
from stele.seal.erofs_reader import BadImageError, ImageReader
from stele.trust.digest import sha256

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.model.ports import BlobSink, StrataFiles
    from stele.model.release import Descriptor, Stratum
    from stele.model.tree import Node
    from stele.seal.again.changes import Edit
    from stele.seal.codec import Compression

LIMIT = 64 << 20  # bytes of an image that is held in memory
TAR_LIMIT = 4 * LIMIT  # bytes of its tar, whose headers are longer
_KIND = 156  # where a tar header says what it is
_PAX = 0x78  # "x"


class NotAlikeError(Exception):
    """The stratum has to be made anew."""


class Put(NamedTuple):
    """A file whose content is another, and all else of it as it was."""

    old: Node
    new: Node
    content: bytes


def stratum(
    old: Stratum, files: StrataFiles, edits: Sequence[Edit], lines: Sequence[bytes], sink: BlobSink, compression: Compression
) -> Stratum:
    """The stratum with what changed.

    Args:
        old: as it was, in this compression.
        files: its two forms.
        edits: of files in it.
        lines: of all its nodes as they are now, without line feeds.
        sink: takes layer and image.
        compression: of the layer.

    Raises:
        NotAlikeError: it has to be made anew.
        SteleError: those of `sink`.
    """
    puts = [Put(edit.old, edit.new, edit.changed.data) for edit in edits if edit.changed.data is not None]
    if len(puts) < len(edits):
        raise NotAlikeError
    encoded = joined(line + b"\n" for line in lines)
    _check_alike(old, puts, encoded)
    with Beside(lambda: _layer(old, files, edits, sink, compression)) as making:
        made, root = _image(old, files, puts, erofs.uuid_of(encoded), sink)
        diff_id, layer = making.result()
    return msgspec.structs.replace(old, diff_id=diff_id, layer=layer, image=made, verity_root=root, nodes=sha256(encoded))


def image(old: Stratum, wanted: Stratum, files: StrataFiles, puts: Sequence[Put], encoded: bytes, sink: BlobSink) -> None:
    """The image of `wanted` out of that of `old`, which has the same paths; it is committed only at its digest and verity root.

    So what is taken from the old image is not checked before: one other byte of it makes another digest (ADR 113).

    Args:
        old: as it is here.
        wanted: signed.
        files: has the old image.
        puts: what changes.
        encoded: the nodes of `wanted`, as a tree of their own.
        sink: takes the image.

    Raises:
        NotAlikeError: it has to be made anew; nothing was kept.
        SteleError: those of `sink`.
    """
    _check_alike(old, puts, encoded)
    if (old.image_size, old.data_size) != (wanted.image_size, wanted.data_size):
        raise NotAlikeError
    _image(old, files, puts, erofs.uuid_of(encoded), sink, wanted)


def _check_alike(old: Stratum, puts: Sequence[Put], encoded: bytes) -> None:
    if old.image_size > LIMIT:
        raise NotAlikeError
    for put in puts:  # equal contents share their blocks
        if encoded.count(put.new.sha256.encode()) != 1 or put.old.sha256.encode() in encoded:
            raise NotAlikeError


def _image(
    old: Stratum, files: StrataFiles, puts: Sequence[Put], uuid: bytes, sink: BlobSink, wanted: Stratum | None = None
) -> tuple[str, str]:
    fd = files.open_image(old)
    if fd is None:
        raise NotAlikeError
    try:
        data = bytearray(old.image_size)
        if os.preadv(fd, [data], 0) != len(data) or (wanted is None and "sha256:" + hashlib.sha256(data).hexdigest() != old.image):
            raise NotAlikeError
        reader = ImageReader(fd)
        changed = {0}
        for put in puts:
            changed |= _edit(data, reader, put)
    except (BadImageError, OSError) as error:
        raise NotAlikeError from error
    finally:
        os.close(fd)
    data[:BLOCK] = erofs.with_uuid(bytes(data[:BLOCK]), uuid)
    root = verity.update(data, old.data_size, uuid, changed)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    if wanted is not None and (digest, root) != (wanted.image, wanted.verity_root):
        raise NotAlikeError
    with sink.draft("image") as draft:
        durable.write_all(draft.fd, data)
        draft.commit(digest)
    return digest, root


def _edit(data: bytearray, reader: ImageReader, put: Put) -> set[int]:
    """Put a file's new content where its old one was; returns the numbers of the blocks that are others now."""
    tails = [tail_of(node.size, 0) for node in (put.old, put.new)]
    slots = [-(-(INODE + tail) // SLOT) for tail in tails]
    blocks = [-(-(node.size - tail) // BLOCK) for node, tail in zip((put.old, put.new), tails, strict=True)]
    offset = reader.inode_at(put.new.path)
    content = put.content
    if slots[0] != slots[1] or blocks[0] != blocks[1] or offset is None:
        raise NotAlikeError
    whole = len(content) - tails[1]
    data[offset + 8 : offset + 16] = len(content).to_bytes(8, "little")
    room = slots[1] * SLOT - INODE
    data[offset + INODE : offset + INODE + room] = content[whole:].ljust(room, b"\0")
    changed = {offset // BLOCK}
    if blocks[1]:
        first = int.from_bytes(data[offset + 16 : offset + 20], "little")
        data[first * BLOCK : (first + blocks[1]) * BLOCK] = content[:whole].ljust(blocks[1] * BLOCK, b"\0")
        changed.update(range(first, first + blocks[1]))
    return changed


def _layer(old: Stratum, files: StrataFiles, edits: Sequence[Edit], sink: BlobSink, compression: Compression) -> tuple[str, Descriptor]:
    fd = files.open_layer(old)
    if fd is None:
        raise NotAlikeError
    try:
        with os.fdopen(fd, "rb") as file:
            data = codec.decompressed(file, compression, TAR_LIMIT)
    except (ValueError, OSError) as error:
        raise NotAlikeError from error
    if sha256(data) != old.diff_id:
        raise NotAlikeError
    pieces = (part[at : at + forms.PIECE] for part in _spliced(memoryview(data), edits) for at in range(0, len(part), forms.PIECE))
    return forms.keep_layer(sink, pieces, compression)


def _spliced(data: memoryview, edits: Sequence[Edit]) -> list[memoryview | bytes]:
    """The tar in pieces, with the members of the changed files in place of the old ones."""
    wanted = {tar.member(edit.old): edit for edit in edits}
    lengths = {len(header) for header in wanted}
    parts: list[memoryview | bytes] = []
    at = start = 0
    while at < len(data) and wanted:
        edit = next((found for length in lengths if (found := wanted.pop(bytes(data[at : at + length]), None))), None)
        if edit is None:
            at = _next(data, at)
            continue
        content = edit.changed.data or b""
        parts += [data[start:at], tar.member(edit.new), content, bytes(-len(content) % tar.BLOCK)]
        at = start = _next(data, at)
    if wanted:
        raise NotAlikeError
    return [*parts, data[start:]]


def _next(data: memoryview, at: int) -> int:
    """Where the member after the one at `at` begins."""
    is_pax = data[at + _KIND] == _PAX
    size = int(bytes(data[at + 124 : at + 135]) or b"0", 8) if data[at] else 0
    at += tar.BLOCK + size + -size % tar.BLOCK
    return _next(data, at) if is_pax else at
