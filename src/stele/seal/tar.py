"""The tar form of a stratum: pax, byte-exact, a function of its nodes and contents alone (docs/spec/strata.md, Tar)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.model.tree import quote
from stele.seal.contents import changed
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stele.model.ports import ContentReader
    from stele.model.tree import Node

BLOCK = 512
END = bytes(2 * BLOCK)
_PADDING = bytes(BLOCK)
SMALL = 1 << 20  # bytes; contents up to this size are read whole
_TYPE = {"file": b"0", "symlink": b"2", "char": b"3", "block": b"4", "dir": b"5", "fifo": b"6"}
_LINK = b"1"
_MAX_NAME = 100  # bytes that fit a header
_MAX_ID = 0o7777777
_MAX_SIZE = 0o77777777777
_XATTR = b"SCHILY.xattr."
_MAGIC = b"ustar\x0000"
_FIXED = sum(_MAGIC) + 8 * ord(" ")  # what is the same in all checksums: the checksum itself counts as spaces


def _header(name: bytes, kind: bytes, numbers: tuple[int, int, int, int, int], target: bytes, rdev: tuple[int, int]) -> bytes:
    """A ustar header; `numbers`: mode, uid, gid, size, mtime."""
    fields = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % numbers
    devices = b"%07o\0%07o\0" % rdev
    total = sum(name) + sum(fields) + sum(kind) + sum(target) + sum(devices) + _FIXED  # the zeros between them add nothing
    return b"".join(
        (
            name.ljust(_MAX_NAME, b"\0"), fields, b"%06o\0 " % total, kind, target.ljust(_MAX_NAME, b"\0"), _MAGIC, bytes(64), devices,
            bytes(167),
        )
    )  # fmt: skip


def _record(key: bytes, value: bytes) -> bytes:
    """A pax record: its own length in decimal, a space, key=value, a newline."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    while rest + len(str(length)) != length:
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _pax(node: Node, name: bytes, target: bytes, size: int) -> dict[bytes, bytes]:
    """What of a member does not fit a ustar header."""
    records: dict[bytes, bytes] = {}
    if len(name) > _MAX_NAME:
        records[b"path"] = name
    if len(target) > _MAX_NAME:
        records[b"linkpath"] = target
    if not all(map(_is_utf8, records.values())):
        records[b"hdrcharset"] = b"BINARY"
    if size > _MAX_SIZE:
        records[b"size"] = b"%d" % size
    if node.uid > _MAX_ID:
        records[b"uid"] = b"%d" % node.uid
    if node.gid > _MAX_ID:
        records[b"gid"] = b"%d" % node.gid
    if node.link is None:
        for key, value in node.xattrs:
            if b"=" in key:
                raise SteleError(
                    f"/{quote(node.path)[:300]} cannot be sealed: tar cannot express '=' in the attribute name {quote(key)[:100]}",
                    remedy="remove the extended attribute from the source (setfattr -x)",
                    code="seal.xattr-not-supported",
                )
            records[_XATTR + key] = value
    return records


def member(node: Node) -> bytes:
    """The header blocks of one node.

    Raises:
        SteleError: `seal.xattr-not-supported`.
    """
    name = node.path + b"/" if node.kind == "dir" else node.path
    if not node.path:
        name = b"./"
    linked = node.link is not None
    target = node.target if node.link is None else node.link
    size = 0 if linked else node.size
    fits = len(name) <= _MAX_NAME and len(target) <= _MAX_NAME and size <= _MAX_SIZE and node.uid <= _MAX_ID and node.gid <= _MAX_ID
    records = {} if fits and not node.xattrs else _pax(node, name, target, size)
    out = b""
    if records:
        body = b"".join(_record(key, value) for key, value in sorted(records.items()))
        out = _header(b"PaxHeaders/entry", b"x", (0o644, 0, 0, len(body), 0), b"", (0, 0)) + body + bytes(-len(body) % BLOCK)
    uid = node.uid if node.uid <= _MAX_ID else 0
    gid = node.gid if node.gid <= _MAX_ID else 0
    numbers = (node.mode, uid, gid, size if size <= _MAX_SIZE else 0, node.mtime)
    kind = _LINK if linked else _TYPE[node.kind]
    return out + _header(name[:_MAX_NAME], kind, numbers, target[:_MAX_NAME], node.rdev)


def headers(nodes: Sequence[Node]) -> tuple[list[bytes], int]:
    """The header blocks of each node, and the size in bytes of the whole tar. Raises like `member`."""
    found = list(map(member, nodes))
    contents = sum([node.size + -node.size % BLOCK for node in nodes if node.kind == "file" and node.link is None])
    return found, sum(map(len, found)) + contents + len(END)


def fill(room: memoryview, nodes: Sequence[Node], found: Sequence[bytes], put: Callable[[Node, memoryview], None]) -> None:
    """The whole tar in memory: what `stream` gives.

    Args:
        room: as long as the tar; whatever was in it.
        nodes: as for `stream`.
        found: their `headers`.
        put: puts the content of a node into its part of the room.

    Raises:
        SteleError: what `put` raises.
    """
    at = 0
    for node, header in zip(nodes, found, strict=True):
        ends = at + len(header)
        room[at:ends] = header
        at = ends
        if node.kind == "file" and node.link is None and node.size:
            ends = at + node.size
            put(node, room[at:ends])
            at = ends + -ends % BLOCK
            room[ends:at] = _PADDING[: at - ends]
    room[at:] = END


def stream(nodes: Sequence[Node], contents: ContentReader) -> Iterator[bytes]:
    """The tar of a stratum in pieces, in the order of its nodes, ended by two zero blocks.

    Args:
        nodes: one stratum, sorted; the first name of a hard link precedes the others.
        contents: the bytes of the files.

    Raises:
        SteleError: `seal.source-changed`, `seal.xattr-not-supported`, and what `contents` raises.
    """
    padding = b""
    for node in nodes:
        yield padding + member(node)
        padding = b""
        if node.kind != "file" or node.link is not None or not node.size:
            continue
        done = 0
        for chunk in (contents.read(node.sha256),) if node.size <= SMALL else contents.chunks(node.sha256, SMALL):
            done += len(chunk)
            yield chunk
        if done != node.size:
            raise changed(node.path, " its size")
        padding = bytes(-done % BLOCK)
    yield padding + END
