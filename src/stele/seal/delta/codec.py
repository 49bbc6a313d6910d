"""Making and applying deltas (docs/spec/delta.md). Memory holds one group of at most 64 MiB, whatever the releases' size."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

import msgspec
import zstandard

from stele.host import durable
from stele.model import tree as trees
from stele.seal.contents import Contents, InSpool
from stele.seal.delta import patches
from stele.seal.delta.plan import groups, pairs, place
from stele.seal.delta.windows import ShortContentError, Windows, starts
from stele.trust import canonical
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.model.ports import ContentReader
    from stele.model.tree import Tree
    from stele.seal.delta.plan import Group, Pair

MAGIC = b"stele-delta v0\n"
HEADER_LIMIT = 1 << 20  # bytes
PATCH_LIMIT = 1 << 28  # bytes
CARRIED_LIMIT = 1 << 23  # bytes
WINDOW_LOG = 26
TABLE_LOG = 25  # entries; zstd takes 5 bytes for each, twice
LEVEL = 12  # measured: 9 is a third larger on binaries, 19 a tenth smaller and ten times slower
SMALL_LEVEL = 19  # of what is small enough not to take a second
TINY_LEVEL = 22  # of what is so small that some bytes count
PATCH_LEVEL = 9  # more is wasted on digests
SMALL = 8 << 20  # bytes, old and new
TINY = 1 << 18  # the same


class Side(NamedTuple):
    """A release as a delta sees it: its tree, the contents of its files, and what else travels (its manifest and config)."""

    tree: Tree
    contents: ContentReader
    carried: bytes = b""


class Ends(NamedTuple):
    """The tree digests of a delta's base and of its result."""

    base: str
    tree: str


class Frames(Protocol):
    """What a delta's content frames are read by."""

    @property
    def frames(self) -> tuple[int, ...]:
        """Bytes of each."""

    @property
    def starts(self) -> tuple[int, ...]:
        """Where old pieces begin that have to be placed."""


class _Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    base: str
    tree: str
    carried_size: int
    carried_packed: int
    patch_size: int
    patch_packed: int
    frames: tuple[int, ...]
    starts: tuple[int, ...]


def damaged(reason: str) -> SteleError:
    """The error for a delta that cannot be read."""
    return SteleError(
        f"the delta cannot be read: {reason}",
        remedy="it was altered or cut short; fetch it again, or take the whole strata instead",
        code="delta.damaged",
    )


def wrong_result(reason: str) -> SteleError:
    """The error for a delta that makes something else than what was signed."""
    return SteleError(
        f"the delta does not make the release that was signed: {reason}",
        remedy="do not use it: whoever made it made it wrong, or means harm; take the whole strata instead",
        code="delta.wrong-result",
    )


def wrong_base(tree_digest: str) -> SteleError:
    """The error for a delta that needs another base than the one that is here."""
    return SteleError(
        f"the delta needs another base (tree {tree_digest[:19]}) than the one that is here",
        remedy="take a delta from a release that you have, or the whole strata",
        code="delta.wrong-base",
    )


def _compressor(dictionary: bytes, size: int, level: int) -> zstandard.ZstdCompressor:
    # the tables must have room for all of the dictionary: zstd's long distance matching does not look into it
    bits = max(10, (size + len(dictionary)).bit_length())
    usual = TINY_LEVEL if size + len(dictionary) <= TINY else SMALL_LEVEL if size + len(dictionary) <= SMALL else LEVEL
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level or usual,
        window_log=min(WINDOW_LOG, bits),
        hash_log=min(TABLE_LOG, bits),
        chain_log=min(TABLE_LOG, bits),
        write_content_size=True,
        write_checksum=False,
        write_dict_id=False,
    )
    return zstandard.ZstdCompressor(compression_params=parameters, dict_data=_dictionary(dictionary))


def _dictionary(data: bytes) -> zstandard.ZstdCompressionDict | None:
    return zstandard.ZstdCompressionDict(data, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if data else None


def pack(data: bytes, dictionary: bytes, level: int = 0) -> bytes:
    """A frame (docs/spec/delta.md, Layout); `level` 0: by size."""
    return _compressor(dictionary, len(data), level).compress(data)


def _longest(size: int) -> int:
    """The most bytes that a frame of `size` incompressible bytes has."""
    return size + (size >> 7) + 1024


def unpack(packed: bytes, dictionary: bytes, size: int) -> bytes:
    """The content of a frame, which must have `size` bytes; nothing is allocated before that is known."""
    try:
        frame = zstandard.get_frame_parameters(packed)
        if frame.content_size != size or frame.window_size > 1 << WINDOW_LOG or frame.dict_id:
            raise damaged("a frame has other sizes than it should")
        data = zstandard.ZstdDecompressor(dict_data=_dictionary(dictionary)).decompress(
            packed, max_output_size=size, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise damaged(f"a frame is not valid ({error})") from error
    if len(data) != size:
        raise damaged("a frame is cut short")
    return data


def make(base: Side, new: Side, out: BinaryIO, *, thorough: bool = False) -> int:
    """Write the delta from `base` to `new` at the current position of `out`, which must be seekable; returns its bytes.

    `thorough`: a tenth smaller, and up to ten times as long.

    Raises:
        SteleError: what the readers raise.
    """
    found = pairs(base.tree, new.tree)
    placed = starts(found, base.contents, new.contents)
    planned = groups(place(found, placed))
    carried = pack(new.carried, base.carried) if new.carried else b""
    patch = patches.make(base.tree, new.tree)
    base_bytes = base.tree.encode()
    patch_frame = pack(patch, base_bytes, PATCH_LEVEL)
    # frames are written behind room for the longest header that their number allows, then moved up to the real one
    begin = out.tell()
    room = len(MAGIC) + 1024 + 24 * (len(planned) + len(placed))
    out.seek(begin + room)
    out.write(carried + patch_frame)
    before, after = Windows(base.contents), Windows(new.contents)
    sizes = []
    for group in planned:
        packed = pack(after.all(group.pieces), before.all(group.old), SMALL_LEVEL if thorough else 0)
        sizes.append(len(packed))
        out.write(packed)
    head = _head(sha256(base_bytes), new.tree.digest(), (len(new.carried), len(carried)), (len(patch), len(patch_frame)), sizes, placed)
    body = len(carried) + len(patch_frame) + sum(sizes)
    _move(out, begin + room, begin + len(head), body)
    out.truncate(begin + len(head) + body)
    out.seek(begin)
    out.write(head)
    out.seek(begin + len(head) + body)
    return len(head) + body


def _head(base: str, tree: str, carried: tuple[int, int], patch: tuple[int, int], frames: Sequence[int], placed: Sequence[int]) -> bytes:
    """What stands before the frames. `carried`, `patch`: bytes of each, and of its frame."""
    header = _Header(
        base=base,
        tree=tree,
        carried_size=carried[0],
        carried_packed=carried[1],
        patch_size=patch[0],
        patch_packed=patch[1],
        frames=tuple(frames),
        starts=tuple(placed),
    )
    return MAGIC + canonical.encode(msgspec.to_builtins(header)) + b"\n"


def assembled(base_tree: bytes, tree_digest: str, patch: bytes, frames: Sequence[int], starts: Sequence[int], content: bytes) -> bytes:
    """A delta of its parts, which carries nothing. `content`: the content frames; their sizes are in `frames`."""
    packed = pack(patch, b"", 1)
    return _head(sha256(base_tree), tree_digest, (0, 0), (len(patch), len(packed)), frames, starts) + packed + content


class Parts(NamedTuple):
    """What a delta consists of. `patch`: its lines. `content`: the content frames as they are."""

    patch: bytes
    frames: tuple[int, ...]
    starts: tuple[int, ...]
    content: bytes


def dismantled(delta: bytes, base_tree: bytes, tree_digest: str) -> Parts:
    """The parts of a delta, without what it carries. Raises like `open_patch`."""
    file = io.BytesIO(delta)
    header, patch = open_patch(file, base_tree, tree_digest)
    return Parts(patch, header.frames, header.starts, file.read())


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
        raise damaged("it does not begin with the header of version 0")
    line = delta.readline(HEADER_LIMIT)
    if not line.endswith(b"\n"):
        raise damaged("its header is cut short or too long")
    try:
        header = msgspec.convert(canonical.decode(line[:-1]), _Header)
    except (SteleError, msgspec.ValidationError) as error:
        raise damaged(f"its header is not valid: {error}") from error
    if not 0 <= header.patch_size <= PATCH_LIMIT or not 0 < header.patch_packed <= _longest(header.patch_size):
        raise damaged("its header says sizes that cannot be")
    longest = _longest(header.carried_size) if header.carried_size else 0
    if not 0 <= header.carried_size <= CARRIED_LIMIT or not 0 <= header.carried_packed <= longest:
        raise damaged("its header says sizes that cannot be")
    return header


def _take(delta: BinaryIO, size: int) -> bytes:
    data = delta.read(size)
    if len(data) != size:
        raise damaged("it is cut short")
    return data


def read_ends(delta: BinaryIO) -> Ends:
    """From which tree to which a delta says that it leads. The file is left behind its header.

    Raises:
        SteleError: `delta.damaged`.
    """
    header = _header(delta)
    return Ends(header.base, header.tree)


def read_carried(delta: BinaryIO, against: bytes) -> bytes:
    """What a delta carries, of which nothing is believed. `against`: what its base carries. Raises like `read_ends`."""
    header = _header(delta)
    packed = _take(delta, header.carried_packed)
    return unpack(packed, against, header.carried_size) if packed else b""


def open_patch(delta: BinaryIO, base: bytes, tree_digest: str) -> tuple[_Header, bytes]:
    """The header of a delta that leads from one tree to another, and its patch; the file is left behind that.

    `base`: the canonical bytes of the tree that is here.

    Raises:
        SteleError: `delta.damaged`, `delta.wrong-base`, `delta.wrong-result`.
    """
    header = _header(delta)
    if header.base != sha256(base):
        raise wrong_base(header.base)
    if header.tree != tree_digest:
        raise wrong_result(f"it says that it makes the tree {header.tree[:19]}")
    _take(delta, header.carried_packed)
    return header, unpack(_take(delta, header.patch_packed), base, header.patch_size)


def _tree(base: Tree, delta: BinaryIO, tree_digest: str) -> tuple[_Header, Tree]:
    known = base.encode()
    header, patch = open_patch(delta, known, tree_digest)
    try:
        whole = patches.apply(known, patch)
    except patches.PatchError as error:
        raise damaged(f"its change of the tree is not valid ({error})") from error
    if sha256(whole) != tree_digest:
        raise wrong_result("its tree has another digest")
    return header, trees.decode(whole)


def apply_tree(base: Tree, delta: BinaryIO, tree_digest: str) -> Tree:
    """The new tree alone; nothing behind the patch is read. Arguments and errors as of `apply`."""
    return _tree(base, delta, tree_digest)[1]


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
    header, tree = _tree(base, delta, tree_digest)
    return tree, unpack_contents(header, pairs(base, tree), old, delta, spool)


def unpack_contents(header: Frames, found: Sequence[Pair], old: ContentReader, delta: BinaryIO, spool: int) -> Contents:
    """The new contents out of a delta's content frames, to which the file is positioned. Arguments and errors as of `apply`."""
    try:
        planned = groups(place(found, header.starts))
    except ValueError as error:
        raise damaged(str(error)) from error
    if len(planned) != len(header.frames):
        raise damaged("it has another number of frames than the two trees ask for")
    try:
        places = _contents(planned, header.frames, Windows(old), delta, spool)
    except ShortContentError as error:
        raise wrong_result(f"the old content {str(error)[:12]} is shorter than its tree says") from error
    if delta.read(1):
        raise damaged("something follows its last frame")
    return Contents(places, spool=spool)


def _contents(planned: Sequence[Group], frames: Sequence[int], old: Windows, delta: BinaryIO, spool: int) -> dict[str, InSpool]:
    """Unpack every group into the spool; returns where each content lies in it."""
    begun: dict[str, int] = {}
    sizes: dict[str, int] = {}
    state = hashlib.sha256()
    at = 0
    for number, (group, packed) in enumerate(zip(planned, frames, strict=True)):
        if not 0 < packed <= _longest(group.size):
            raise damaged("its header says sizes that cannot be")
        data = memoryview(unpack(_take(delta, packed), old.all(group.old), group.size))
        following = planned[number + 1].pieces[0] if number + 1 < len(planned) else None
        for at_piece, piece in enumerate(group.pieces):
            if not piece.start:
                state = hashlib.sha256()
                begun[piece.digest], sizes[piece.digest] = at, 0
            part, data = data[: piece.size], data[piece.size :]
            state.update(part)
            sizes[piece.digest] += piece.size
            durable.write_at(spool, part, at)
            at += piece.size
            later = group.pieces[at_piece + 1] if at_piece + 1 < len(group.pieces) else following
            if (later is None or later.digest != piece.digest) and state.hexdigest() != piece.digest:
                raise wrong_result(f"a content does not have the digest {piece.digest[:12]}")
    return {digest: InSpool(offset, sizes[digest]) for digest, offset in begun.items()}
