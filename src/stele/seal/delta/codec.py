"""Making and applying deltas (docs/spec/delta.md). Memory holds one group of at most 64 MiB, whatever the releases' size."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, BinaryIO

import msgspec
import zstandard

from stele.model import tree as trees
from stele.seal.contents import Contents, InSpool
from stele.seal.delta import patches
from stele.seal.delta.plan import groups
from stele.trust import canonical
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stele.model.ports import ContentReader
    from stele.model.tree import Tree
    from stele.seal.delta.plan import Group, Range

MEDIA_TYPE = "application/vnd.dev.stele.delta.v0"
MAGIC = b"stele-delta v0\n"
HEADER_LIMIT = 1 << 20  # bytes
PATCH_LIMIT = 1 << 28  # bytes
WINDOW_LOG = 26
LEVEL = 12  # measured: 9 is a third larger on binaries, 19 a tenth smaller and ten times slower


class _Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    base: str
    tree: str
    patch_size: int
    patch_packed: int
    frames: tuple[int, ...]


def _damaged(reason: str) -> SteleError:
    return SteleError(
        f"the delta cannot be read: {reason}",
        remedy="it was altered or cut short; fetch it again, or take the whole strata instead",
        code="delta.damaged",
    )


def _wrong_result(reason: str) -> SteleError:
    return SteleError(
        f"the delta does not make the release that was signed: {reason}",
        remedy="do not use it: whoever made it made it wrong, or means harm; take the whole strata instead",
        code="delta.wrong-result",
    )


def _compressor(dictionary: bytes, size: int) -> zstandard.ZstdCompressor:
    log = max(10, min(WINDOW_LOG, (size + len(dictionary)).bit_length()))
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, window_log=log, enable_ldm=True, write_content_size=True, write_checksum=False, write_dict_id=False
    )
    return zstandard.ZstdCompressor(compression_params=parameters, dict_data=_dictionary(dictionary))


def _dictionary(data: bytes) -> zstandard.ZstdCompressionDict | None:
    return zstandard.ZstdCompressionDict(data, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if data else None


def _pack(data: bytes, dictionary: bytes) -> bytes:
    return _compressor(dictionary, len(data)).compress(data)


def _longest(size: int) -> int:
    """The most bytes that a frame of `size` incompressible bytes has."""
    return size + (size >> 7) + 1024


def _unpack(packed: bytes, dictionary: bytes, size: int) -> bytes:
    """The content of a frame, which must have `size` bytes; nothing is allocated before that is known."""
    try:
        frame = zstandard.get_frame_parameters(packed)
        if frame.content_size != size or frame.window_size > 1 << WINDOW_LOG or frame.dict_id:
            raise _damaged("a frame has other sizes than it should")
        data = zstandard.ZstdDecompressor(dict_data=_dictionary(dictionary)).decompress(
            packed, max_output_size=size, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise _damaged(f"a frame is not valid ({error})") from error
    if len(data) != size:
        raise _damaged("a frame is cut short")
    return data


class _Pieces:
    """Reads ranges of contents; those that follow each other in one content are read in one go."""

    def __init__(self, contents: ContentReader) -> None:
        self._contents = contents
        self._open: dict[str, tuple[int, bytes, Iterator[bytes]]] = {}

    def read(self, piece: Range) -> bytes:
        at, rest, chunks = self._open.pop(piece.digest, (0, b"", iter(())))
        if at != piece.start or not at:
            at, rest, chunks = 0, b"", self._contents.chunks(piece.digest)
        parts, held = [rest], at + len(rest)
        end = piece.start + piece.size
        while held < end and (chunk := next(chunks, b"")):
            if held + len(chunk) <= piece.start:
                parts = []
                at = held + len(chunk)
            else:
                parts.append(chunk)
            held += len(chunk)
        if held == end and (chunk := next(chunks, b"")):  # at the very end lets the reader compare the whole with its digest
            parts.append(chunk)
            held += len(chunk)
        data = b"".join(parts)
        wanted = data[piece.start - at : end - at]
        if len(wanted) != piece.size:
            raise _wrong_result(f"a content of {piece.digest[:12]} is shorter than its tree says")
        if held > end:
            self._open[piece.digest] = (end, data[end - at :], chunks)
        return wanted

    def all(self, ranges: Sequence[Range]) -> bytes:
        return b"".join(map(self.read, ranges))


def make(base: Tree, old: ContentReader, tree: Tree, new: ContentReader, out: BinaryIO) -> int:
    """Write the delta from `base` to `tree` at the current position of `out`, which must be seekable; returns its bytes.

    Args:
        base: the tree that the receiver has.
        old: the contents of `base`.
        tree: the tree that it is to have.
        new: the contents of `tree`.
        out: takes the delta.

    Raises:
        SteleError: what the readers raise.
    """
    planned = groups(base, tree)
    patch = patches.make(base, tree)
    patch_frame = _pack(patch, b"")
    # frames are written behind room for the longest header that their number allows, then moved up to the real one
    begin = out.tell()
    room = len(MAGIC) + 512 + 24 * len(planned)
    out.seek(begin + room)
    out.write(patch_frame)
    before, after = _Pieces(old), _Pieces(new)
    sizes = []
    for group in planned:
        packed = _pack(after.all(group.pieces), before.all(group.old))
        sizes.append(len(packed))
        out.write(packed)
    header = _Header(base=base.digest(), tree=tree.digest(), patch_size=len(patch), patch_packed=len(patch_frame), frames=tuple(sizes))
    head = MAGIC + canonical.encode(msgspec.to_builtins(header)) + b"\n"
    size = len(head) + len(patch_frame) + sum(sizes)
    _move(out, begin + room, begin + len(head), len(patch_frame) + sum(sizes))
    out.truncate(begin + size)
    out.seek(begin)
    out.write(head)
    out.seek(begin + size)
    return size


def _move(file: BinaryIO, source: int, target: int, size: int) -> None:
    done = 0
    while done < size:
        file.seek(source + done)
        data = file.read(min(1 << 20, size - done))
        file.seek(target + done)
        file.write(data)
        done += len(data)


def _header(delta: BinaryIO) -> _Header:
    if delta.read(len(MAGIC)) != MAGIC:
        raise _damaged("it does not begin with the header of version 0")
    line = delta.readline(HEADER_LIMIT)
    if not line.endswith(b"\n"):
        raise _damaged("its header is cut short or too long")
    try:
        header = msgspec.convert(canonical.decode(line[:-1]), _Header)
    except (SteleError, msgspec.ValidationError) as error:
        raise _damaged(f"its header is not valid: {error}") from error
    if not 0 <= header.patch_size <= PATCH_LIMIT or not 0 < header.patch_packed <= _longest(header.patch_size):
        raise _damaged("its header says sizes that cannot be")
    return header


def _take(delta: BinaryIO, size: int) -> bytes:
    data = delta.read(size)
    if len(data) != size:
        raise _damaged("it is cut short")
    return data


def base_of(delta: BinaryIO) -> str:
    """The tree digest of the base that a delta needs; leaves the position behind its header.

    Raises:
        SteleError: `delta.damaged`.
    """
    return _header(delta).base


def apply(base: Tree, old: ContentReader, delta: BinaryIO, tree_digest: str, spool: int) -> tuple[Tree, Contents]:
    """Make the new tree and the new contents from a delta, which is not trusted.

    Args:
        base: the tree that is here, checked.
        old: its contents.
        delta: positioned at its first byte.
        tree_digest: of the tree that is wanted: from a signed release.
        spool: an empty file, open for reading and writing, for the new contents; it becomes that of the returned contents.

    Returns:
        The tree, and those of its contents that `base` does not have.

    Raises:
        SteleError: `delta.damaged`, `delta.wrong-base`, `delta.wrong-result`, and what `old` raises.
    """
    header = _header(delta)
    if header.base != base.digest():
        raise SteleError(
            f"the delta needs another base (tree {header.base[:19]}) than the one that is here",
            remedy="take a delta from a release that you have, or the whole strata",
            code="delta.wrong-base",
        )
    if header.tree != tree_digest:
        raise _wrong_result(f"it says that it makes the tree {header.tree[:19]}")
    try:
        whole = patches.apply(base, _unpack(_take(delta, header.patch_packed), b"", header.patch_size))
    except patches.PatchError as error:
        raise _damaged(f"its change of the tree is not valid ({error})") from error
    if sha256(whole) != tree_digest:
        raise _wrong_result("its tree has another digest")
    tree = trees.decode(whole)
    planned = groups(base, tree)
    if len(planned) != len(header.frames):
        raise _damaged("it has another number of frames than the two trees ask for")
    places = _contents(planned, header.frames, _Pieces(old), delta, spool)
    if delta.read(1):
        raise _damaged("something follows its last frame")
    return tree, Contents(places, spool=spool)


def _contents(planned: Sequence[Group], frames: Sequence[int], old: _Pieces, delta: BinaryIO, spool: int) -> dict[str, InSpool]:
    """Unpack every group into the spool; returns where each content lies in it."""
    begun: dict[str, int] = {}
    sizes: dict[str, int] = {}
    state = hashlib.sha256()
    at = 0
    for number, (group, packed) in enumerate(zip(planned, frames, strict=True)):
        if not 0 < packed <= _longest(group.size):
            raise _damaged("its header says sizes that cannot be")
        data = memoryview(_unpack(_take(delta, packed), old.all(group.old), group.size))
        following = planned[number + 1].pieces[0] if number + 1 < len(planned) else None
        for place, piece in enumerate(group.pieces):
            if not piece.start:
                state = hashlib.sha256()
                begun[piece.digest], sizes[piece.digest] = at, 0
            part, data = data[: piece.size], data[piece.size :]
            state.update(part)
            sizes[piece.digest] += piece.size
            _write(spool, part, at)
            at += piece.size
            later = group.pieces[place + 1] if place + 1 < len(group.pieces) else following
            if (later is None or later.digest != piece.digest) and state.hexdigest() != piece.digest:
                raise _wrong_result(f"a content does not have the digest {piece.digest[:12]}")
    return {digest: InSpool(offset, sizes[digest]) for digest, offset in begun.items()}


def _write(fd: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(fd, data, offset)
        data = data[count:]
        offset += count
