"""An update in its shortest form: a delta without what its receiver knows, and with the signatures (docs/spec/update.md). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from stele.model import release as releases
from stele.model import tree as trees
from stele.model.release import BLOCK, MAX_STRATA
from stele.seal import verity
from stele.seal.delta import codec
from stele.trust import canonical
from stele.trust.digest import parse_digest
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stele.model.release import Release, Stratum
    from stele.seal.delta.quick import Lines

MAGIC = b"stu\0"
LIMIT = 4 << 20  # bytes of the whole
LINES_LIMIT = 8 << 20  # bytes of lines, unpacked
NAMES_LIMIT = 1 << 14  # bytes
MAX_SIGNATURES = 16  # of each kind
BASE = 4  # bytes of the base's digest
MAX_BLOCKS = 1 << 40  # of an image
_HASH, _SIGNATURE = 32, 64  # bytes


class Row(NamedTuple):
    """A stratum that the base does not have. `at`: its place in the table. `nodes`: "" where it follows from the tree."""

    at: int
    layer_size: int
    data_size: int
    layer: str
    diff_id: str
    image: str
    verity_root: str
    nodes: str


class Edit(NamedTuple):
    """A file that holds something else. `line`: its number in the base's tree, from 0. `sha256`: 64 hex digits."""

    line: int
    size: int
    sha256: str


class Short(NamedTuple):
    """An update. `base`: the first bytes of the base's digest. `names`: of all strata, () where they are the base's.

    `lines`: what else changes in the tree, as a patch. `bundles`, `older`: signatures of 64 bytes. `frames`: bytes of each content
    frame; `content`: all of them.
    """

    base: bytes
    names: tuple[str, ...]
    rows: tuple[Row, ...]
    edits: tuple[Edit, ...]
    lines: bytes
    bundles: tuple[bytes, ...]
    older: tuple[bytes, ...]
    frames: tuple[int, ...]
    starts: tuple[int, ...]
    content: bytes


def short_of(base: str) -> bytes:
    """What an update says of its base, from the digest of that release."""
    return bytes.fromhex(parse_digest(base)[7 : 7 + 2 * BASE])


def tag(base: str, target: str) -> str:
    """Where a registry has the update from one release (digest) to another."""
    return f"update-{parse_digest(base)[7:19]}-{parse_digest(target)[7:19]}"


# --- writing


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _hash(digest: str) -> bytes:
    return bytes.fromhex(digest.removeprefix("sha256:"))


def encode(short: Short, base_tree: bytes) -> bytes:
    """The update's bytes. `base_tree`: the canonical bytes of the base's tree."""
    names = canonical.encode(list(short.names)) if short.names else b""
    parts = [MAGIC, short.base, _number(len(names)), names, _number(len(short.lines))]
    if short.lines:
        packed = codec.pack(short.lines, base_tree, codec.PATCH_LEVEL)
        parts += [_number(len(packed)), packed]
    parts.append(_number(len(short.rows)))
    for row in short.rows:
        sizes = (row.at, row.layer_size, row.data_size // BLOCK)
        parts += [*map(_number, sizes), *map(_hash, (row.layer, row.diff_id, row.image, row.verity_root))]
        parts += [_hash(row.nodes)] if short.lines else []
    parts.append(_number(len(short.edits)))
    before = 0
    for edit in short.edits:
        parts += [_number(edit.line - before), _number(edit.size), _hash(edit.sha256)]
        before = edit.line
    for kind in (short.bundles, short.older):
        parts += [_number(len(kind)), *kind]
    for numbers in (short.frames, short.starts):
        parts += [_number(len(numbers)), *map(_number, numbers)]
    return b"".join([*parts, short.content])


# --- reading


class _Reader:
    """Takes pieces off untrusted bytes."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise codec.damaged("it is cut short")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift > 56:
                raise codec.damaged("a number is too large")
        if not byte and shift > 7:
            raise codec.damaged("a number is not spelled the one way")
        return value

    def count(self, most: int) -> int:
        value = self.number()
        if value > most:
            raise codec.damaged(f"it says {value} where {most} is the most")
        return value

    def hash(self) -> str:
        return self.take(_HASH).hex()

    def digest(self) -> str:
        return "sha256:" + self.hash()


def decode(data: bytes, base: str, base_tree: bytes) -> Short:
    """Read an update; nothing that it says is believed.

    Args:
        data: the whole of it.
        base: digest of the release that is here.
        base_tree: the canonical bytes of its tree.

    Raises:
        SteleError: `delta.damaged`, `delta.wrong-base`.
    """
    reader = _Reader(data)
    if len(data) > LIMIT or reader.take(len(MAGIC)) != MAGIC:
        raise codec.damaged("it does not begin as an update of version 0, or is too large")
    if (named := reader.take(BASE)) != short_of(base):
        raise codec.wrong_base(f"sha256:{named.hex()}")
    names = _names(reader.take(reader.count(NAMES_LIMIT)))
    lines = b""
    if size := reader.count(LINES_LIMIT):
        lines = codec.unpack(reader.take(reader.number()), base_tree, size)
    rows = tuple(_row(reader, with_nodes=bool(lines)) for _ in range(reader.count(MAX_STRATA)))
    edits: list[Edit] = []
    for _ in range(reader.count(LIMIT)):
        line = reader.number() + (edits[-1].line if edits else 0)
        if edits and line == edits[-1].line:
            raise codec.damaged("a line changes twice")
        edits.append(Edit(line, reader.number(), reader.hash()))
    bundles, older = (tuple(reader.take(_SIGNATURE) for _ in range(reader.count(MAX_SIGNATURES))) for _ in range(2))
    frames, starts = (tuple(reader.number() for _ in range(reader.count(LIMIT))) for _ in range(2))
    content = reader.take(len(data) - reader.at)
    if sum(frames) != len(content):
        raise codec.damaged("its frames have other sizes than it says")
    return Short(named, names, rows, tuple(edits), lines, bundles, older, frames, starts, content)


def _names(data: bytes) -> tuple[str, ...]:
    if not data:
        return ()
    try:
        return msgspec.convert(canonical.decode(data), tuple[str, ...])
    except (SteleError, msgspec.ValidationError) as error:
        raise codec.damaged("its names of strata cannot be read") from error


def _row(reader: _Reader, *, with_nodes: bool) -> Row:
    at, layer_size, data = reader.count(MAX_STRATA), reader.number(), reader.count(MAX_BLOCKS)
    digests = reader.digest(), reader.digest(), reader.digest(), reader.hash()
    return Row(at, layer_size, data * BLOCK, *digests, reader.digest() if with_nodes else "")


# --- what it changes


def split(patch: bytes, base: Lines) -> tuple[tuple[Edit, ...], bytes]:
    """A patch as edits of files, and the lines that are left."""
    edits, left = [], []
    for line in patch.split(b"\n")[:-1]:
        at = None if line.startswith(b"-") else base.place(line)
        if at is not None:
            node = trees.decode_line(line)
            edit = Edit(at, node.size, node.sha256)
            if _edited(base, edit) == line:
                edits.append(edit)
                continue
        left.append(line)
    return tuple(sorted(edits)), b"".join(line + b"\n" for line in left)


def patch(short: Short, base: Lines) -> bytes:
    """The patch that an update's edits and lines are.

    Raises:
        SteleError: `delta.damaged`.
    """
    lines = [_edited(base, edit) for edit in short.edits]
    if None in lines:
        raise codec.damaged("it changes a line that is not one of a file of the base")
    return b"".join(line + b"\n" for line in lines if line) + short.lines


def _edited(base: Lines, edit: Edit) -> bytes | None:
    """The line of a file with another content; None where there is no such file."""
    node = trees.decode_line(base.lines[edit.line]) if edit.line < len(base.lines) else None
    if node is None or node.kind != "file" or node.link is not None:
        return None
    return trees.line(msgspec.structs.replace(node, size=edit.size, sha256=edit.sha256))[:-1]


# --- the release


def rows(base: Release, release: Release, *, with_nodes: bool) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    """The names, where they are others, and the strata that a release does not have from its base."""
    old = {stratum.name: stratum for stratum in base.strata}
    names = tuple(stratum.name for stratum in release.strata)
    found = []
    for at, new in enumerate(release.strata):
        if old.get(new.name) != new:
            digests = (new.layer.digest, new.diff_id, new.image, new.verity_root, new.nodes if with_nodes else "")
            found.append(Row(at, new.layer.size, new.data_size, *digests))
    return () if names == tuple(old) else names, tuple(found)


def documents(base: Release, short: Short, tree_digest: str, nodes: Callable[[Stratum], str]) -> tuple[bytes, bytes]:
    """Manifest and config of what should be the release; to be believed only at its digest.

    Args:
        base: the release that is here.
        short: the update.
        tree_digest: of the tree that it makes.
        nodes: of the stratum of the base that one takes the place of: the digest of its nodes as they are in that tree.

    Raises:
        SteleError: `delta.damaged`, and those of `nodes`.
    """
    old = {stratum.name: stratum for stratum in base.strata}
    new = {row.at: row for row in short.rows}
    table = []
    for at, name in enumerate(short.names or tuple(old)):
        row, before = new.pop(at, None), old.get(name)
        if row is None and before is not None:
            table.append(before)
            continue
        if row is None or (before is None and not row.nodes):
            raise codec.damaged("it leaves out a stratum that the base does not have")
        made = row.nodes or nodes(before)  # type: ignore[arg-type]
        table.append(_stratum(name, row, base.strata[0].layer.media_type, made))
    if new:
        raise codec.damaged("it changes a stratum that there is not")
    strata = tuple(table)
    config = releases.encode_config(base.spec, tree_digest, strata, base.platform)
    return releases.encode_manifest(base.spec, strata, config, base.codec), config


def _stratum(name: str, row: Row, media_type: str, nodes: str) -> releases.Stratum:
    return releases.Stratum(
        name=name,
        diff_id=row.diff_id,
        layer=releases.Descriptor(media_type=media_type, digest=row.layer, size=row.layer_size),
        image=row.image,
        image_size=verity.file_size(row.data_size),
        data_size=row.data_size,
        verity_root=row.verity_root,
        nodes=nodes,
    )


def expand(short: Short, base_tree: bytes, tree_digest: str, patch_lines: bytes) -> bytes:
    """The ordinary delta that an update stands for (docs/spec/delta.md)."""
    return codec.assembled(base_tree, tree_digest, patch_lines, short.frames, short.starts, short.content)


def shortened(base: Release, release: Release, base_tree: Lines, delta: bytes, signatures: Sequence[Sequence[bytes]]) -> bytes:
    """The update that a delta between two releases makes; b"" where it would be too large. `signatures`: in bundles, and older ones."""
    opened = codec.dismantled(delta, base_tree.data, release.tree_digest)
    edits, left = split(opened.patch, base_tree)
    names, changed = rows(base, release, with_nodes=bool(left))
    bundles, older = (tuple(kind[:MAX_SIGNATURES]) for kind in signatures)
    short = Short(short_of(base.digest), names, changed, edits, left, bundles, older, opened.frames, opened.starts, opened.content)
    data = encode(short, base_tree.data) if len(left) <= LINES_LIMIT else b""
    return data if len(data) <= LIMIT else b""
