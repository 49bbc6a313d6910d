"""A stratum of which some files changed, spliced from its last forms: what did not change is neither read nor encoded again.

The old forms are checked against their signed digests while they are read, and nothing is kept that was made of one that differs. The
result is, byte for byte, what making the stratum anew gives; where it would lie otherwise in the image, that is what has to be done.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import msgspec

from stele.host import durable
from stele.host.beside import Beside
from stele.seal import codec, erofs, forms, tar, verity
from stele.seal.erofs_layout import BLOCK, INODE, SLOT, tail_of
from stele.seal.erofs_reader import BadImageError, ImageReader
from stele.trust.digest import sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stele.model.ports import BlobSink, StrataFiles
    from stele.model.release import Descriptor, Stratum
    from stele.model.tree import Node
    from stele.seal.again.changes import Edit
    from stele.seal.codec import Compression

LIMIT = 64 << 20  # bytes of an image; of a larger one, changes that are held in memory may be too much
PIECE = 1 << 20  # bytes of a form that are in memory at a time: new memory costs more than what is done with it
TAR_LIMIT = 4 * LIMIT  # bytes of its tar, whose headers are longer


class NotAlikeError(Exception):
    """The stratum has to be made anew."""


class Put(msgspec.Struct, frozen=True):
    """A file whose content is another, and all else of it as it was."""

    old: Node
    new: Node
    content: bytes


def stratum(old: Stratum, files: StrataFiles, edits: Sequence[Edit], encoded: bytes, sink: BlobSink, compression: Compression) -> Stratum:
    """The stratum with what changed.

    Args:
        old: as it was, in this compression.
        files: its two forms.
        edits: of files in it.
        encoded: its nodes as they are now, as a tree of their own.
        sink: takes layer and image.
        compression: of the layer.

    Raises:
        NotAlikeError: it has to be made anew.
        SteleError: those of `sink`.
    """
    puts = [Put(edit.old, edit.new, edit.changed.data) for edit in edits if edit.changed.data is not None]
    if len(puts) < len(edits):
        raise NotAlikeError
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
        blocks = Blocks(fd, old.image_size)
        reader = ImageReader(fd)
        for put in puts:
            _edit(blocks, reader, put)
        blocks[0][:] = erofs.with_uuid(bytes(blocks[0]), uuid)
        root = verity.update(blocks, old.data_size, uuid)
        with sink.draft("image") as draft:
            was, digest = blocks.write(draft.fd)
            if (was != old.image) if wanted is None else (digest, root) != (wanted.image, wanted.verity_root):
                raise NotAlikeError
            draft.commit(digest)
    except BadImageError as error:
        raise NotAlikeError from error
    finally:
        os.close(fd)
    return digest, root


class Blocks:
    """Blocks of an image that become others; by number, each as it is in the image when it is first asked for."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd, self._size = fd, size
        self._held: dict[int, bytearray] = {}

    def __getitem__(self, number: int) -> bytearray:
        """One, to be changed. Raises BadImageError where there is none."""
        if number not in self._held:
            data = bytearray(_read(self._fd, BLOCK, number * BLOCK) if 0 <= number < self._size // BLOCK else b"")
            if len(data) != BLOCK:
                raise BadImageError("it is cut short")
            self._held[number] = data
        return self._held[number]

    def put(self, offset: int, data: bytes) -> None:
        """Put bytes in place of as many. Raises like asking for a block."""
        done = 0
        while done < len(data):
            number, start = divmod(offset + done, BLOCK)
            count = min(BLOCK - start, len(data) - done)
            self[number][start : start + count] = data[done : done + count]
            done += count

    def numbers(self) -> set[int]:
        """Which were asked for."""
        return set(self._held)

    def write(self, target: int) -> tuple[str, str]:
        """Write the image with these blocks to `target`; returns the digests of what it was and of what it is now.

        Raises:
            BadImageError: it could not be read.
            OSError: it could not be written.
        """
        was, now = hashlib.sha256(), hashlib.sha256()
        room = bytearray(min(PIECE, self._size))
        for at in range(0, self._size, PIECE):
            view = memoryview(room)[: self._size - at]
            try:
                count = os.preadv(self._fd, [view], at)
            except OSError as error:
                raise BadImageError(str(error)) from error
            if count != len(view):
                raise BadImageError("it is cut short")
            was.update(view)
            for number, data in self._held.items():
                if at <= number * BLOCK < at + len(view):
                    view[number * BLOCK - at : number * BLOCK - at + BLOCK] = data
            now.update(view)
            durable.write_all(target, view)
        return "sha256:" + was.hexdigest(), "sha256:" + now.hexdigest()


def _read(fd: int, size: int, offset: int) -> bytes:
    try:
        return os.pread(fd, size, offset)
    except OSError as error:
        raise BadImageError(str(error)) from error


def _edit(blocks: Blocks, reader: ImageReader, put: Put) -> None:
    """Put a file's new content where its old one was."""
    tails = [tail_of(node.size, 0) for node in (put.old, put.new)]
    slots = [-(-(INODE + tail) // SLOT) for tail in tails]
    counts = [-(-(node.size - tail) // BLOCK) for node, tail in zip((put.old, put.new), tails, strict=True)]
    offset = reader.inode_at(put.new.path)
    content = put.content
    if slots[0] != slots[1] or counts[0] != counts[1] or offset is None:
        raise NotAlikeError
    whole = len(content) - tails[1]
    blocks.put(offset + 8, len(content).to_bytes(8, "little"))
    blocks.put(offset + INODE, content[whole:].ljust(slots[1] * SLOT - INODE, b"\0"))
    if counts[1]:
        at = offset % BLOCK + 16
        first = int.from_bytes(blocks[offset // BLOCK][at : at + 4], "little")
        blocks.put(first * BLOCK, content[:whole].ljust(counts[1] * BLOCK, b"\0"))


def _layer(old: Stratum, files: StrataFiles, edits: Sequence[Edit], sink: BlobSink, compression: Compression) -> tuple[str, Descriptor]:
    fd = files.open_layer(old)
    if fd is None:
        raise NotAlikeError
    with os.fdopen(fd, "rb") as file, codec.decompressed(file, compression) as read:
        spliced = Spliced(read, edits, old.diff_id, min(PIECE, old.image_size))
        return forms.keep_layer(sink, spliced.pieces(), compression, lambda: spliced.diff_id)


class Spliced:
    """A tar with other members in the places of some. `diff_id`: of the new one, when all of it was taken."""

    def __init__(self, read: Callable[[memoryview], int], edits: Sequence[Edit], old: str, size: int = PIECE) -> None:
        """`read`: gives more of the tar whose digest was `old`, 0 bytes at its end; ValueError or OSError where it cannot.

        `size`: bytes of a piece.
        """
        self._read, self._old, self._size = read, old, size
        self._wanted = [(tar.member(edit.old), edit) for edit in sorted(edits, key=lambda edit: edit.old.path, reverse=True)]
        self._was = hashlib.sha256()
        self._now: hashlib._Hash | None = None  # as long as both are the same
        self.diff_id = ""

    def pieces(self) -> Iterator[memoryview | bytes]:
        """All of it; each piece is to be used before the next one is asked for.

        Raises:
            NotAlikeError: the old one is not what it was, or a member is not in it.
        """
        longest = max(len(header) for header, _ in self._wanted)
        data = bytearray(self._size + longest)
        room = memoryview(data)
        at = kept = skip = size = 0  # the next member; bytes that were read before and not looked at; those of a member that goes
        while True:
            have = kept + self._fill(room[kept:])
            size += have - kept
            if size > TAR_LIMIT:
                raise NotAlikeError
            done = min(skip, have)
            self._was.update(room[:done])
            skip -= done
            is_end = have < len(data)
            while self._wanted and at + (tar.BLOCK if is_end else longest) <= have:
                header, edit = self._wanted[-1]
                if not data.startswith(header, at):
                    at += _length(data, at)
                    continue
                self._wanted.pop()
                yield self._both(room[done:at])
                done, at = at, at + len(header) + _padded(edit.old.size)
                yield self._instead(edit)
                self._was.update(room[done:at])
                done, skip = min(at, have), max(0, at - have)
            ends = have if is_end or not self._wanted else min(at, have)
            yield self._both(room[done:ends])
            if is_end:
                break
            kept = have - ends
            data[:kept] = data[ends:have]
            at -= ends
        if self._wanted or "sha256:" + self._was.hexdigest() != self._old:
            raise NotAlikeError
        self.diff_id = "sha256:" + (self._now or self._was).hexdigest()

    def _fill(self, room: memoryview) -> int:
        done = 0
        try:
            while done < len(room) and (count := self._read(room[done:])):
                done += count
        except (ValueError, OSError) as error:
            raise NotAlikeError from error
        return done

    def _both(self, data: memoryview) -> memoryview:
        """What is the same in both."""
        self._was.update(data)
        if self._now is not None:
            self._now.update(data)
        return data

    def _instead(self, edit: Edit) -> bytes:
        """What is there now."""
        content = edit.changed.data or b""
        new = tar.member(edit.new) + content.ljust(_padded(len(content)), b"\0")
        self._now = self._now or self._was.copy()
        self._now.update(new)
        return new


def _length(data: bytearray, at: int) -> int:
    """Of the member at `at`, or of its pax header: nothing is known yet to be what it was."""
    size = data[at + 124 : at + 135] if data[at] else b"0"
    if not size.isdigit() or b"8" in size or b"9" in size:
        raise NotAlikeError
    return tar.BLOCK + _padded(int(size, 8))


def _padded(size: int) -> int:
    return -(-size // tar.BLOCK) * tar.BLOCK
