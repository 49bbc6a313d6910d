"""What a source is read into before it becomes a tree: inodes under names, changeable while layers are applied."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stele.model.tree import Kind, quote

if TYPE_CHECKING:
    from collections.abc import Iterator


class Inode(msgspec.Struct, eq=False):
    """One file, directory, … of a source, as recorded there. Hard links are one Inode under several names.

    `mtime`: whole seconds, floored. `compiled`: for a Python byte code file that checks times, the (mtime, size)
    of its source as it recorded them (both modulo 2^32). `children`: of directories. `layer`: which layer it came from.
    """

    kind: Kind
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    sha256: str = ""
    target: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = {}
    compiled: tuple[int, int] | None = None
    children: dict[bytes, Inode] = {}
    layer: int = 0


def walk(root: Inode) -> Iterator[tuple[bytes, Inode]]:
    """Every (path, inode) below and with the root (b""), parents before children."""
    pending: list[tuple[bytes, Inode]] = [(b"", root)]
    while pending:
        path, inode = pending.pop()
        yield path, inode
        if inode.children:
            prefix = path + b"/" if path else b""
            pending.extend((prefix + name, child) for name, child in inode.children.items())


class Notes:
    """What was left out or changed on the way, for the person who seals: each kind once, with a count and an example."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, bytes | None]] = {}

    def add(self, what: str, path: bytes | None = None) -> None:
        """Count one more of `what`; the first path is kept as the example."""
        count, first = self._seen.get(what, (0, path))
        self._seen[what] = (count + 1, first)

    def lines(self) -> tuple[str, ...]:
        """One line each, in the order in which they first occurred."""
        return tuple(
            what if first is None else f"{what}: {count} ({'' if count == 1 else 'the first is '}/{quote(first)})"
            for what, (count, first) in self._seen.items()
        )
