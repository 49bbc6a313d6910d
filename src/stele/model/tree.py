"""The tree: the canonical list of every path in a release (docs/spec/tree.md, version 0).

Paths are bytes, relative, without a leading slash; the root is b"". Order is by path bytes.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from stele.trust import canonical
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

TREE_HEADER = b"stele-tree v0\n"

Kind = Literal["file", "dir", "symlink", "char", "block", "fifo"]


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One path.

    `mode`: the 12 permission bits. `mtime`: seconds. `size`, `sha256`: of regular files.
    `target`: of symlinks. `link`: for the second and later names of one inode, the first name (then the
    other fields repeat those of the first). `rdev`: (major, minor) of devices. `xattrs`: sorted pairs.
    """

    path: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    sha256: str = ""
    target: bytes = b""
    link: bytes | None = None
    rdev: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


def quote(raw: bytes) -> str:
    """Bytes as ASCII text: all but 0x21-0x7E, and '%', become %XX (upper-case hex)."""
    return "".join(chr(b) if 0x21 <= b <= 0x7E and b != 0x25 else f"%{b:02X}" for b in raw)


def unquote(text: str) -> bytes:
    """The inverse of `quote`; refuses any other spelling.

    Raises:
        SteleError: `tree.bad-path`.
    """
    out = bytearray()
    position = 0
    while position < len(text):
        char = text[position]
        if char == "%":
            try:
                out.append(int(text[position + 1 : position + 3], 16))
            except ValueError:
                break
            position += 3
        else:
            out.append(ord(char) & 0xFF)
            position += 1
    raw = bytes(out)
    if quote(raw) != text:
        raise SteleError(f"{text[:80]!r} is not a quoted path", remedy="the tree is damaged; pull or seal it again", code="tree.bad-path")
    return raw


def _line(node: Node) -> bytes:
    record: dict[str, Any] = {
        "path": quote(node.path),
        "kind": node.kind,
        "mode": node.mode,
        "uid": node.uid,
        "gid": node.gid,
        "mtime": node.mtime,
    }
    if node.kind == "file":
        record["size"] = node.size
        record["sha256"] = node.sha256
    if node.kind == "symlink":
        record["target"] = quote(node.target)
    if node.link is not None:
        record["link"] = quote(node.link)
    if node.kind in {"char", "block"}:
        record["rdev"] = list(node.rdev)
    if node.xattrs:
        record["xattrs"] = [[quote(name), quote(value)] for name, value in node.xattrs]
    return canonical.encode(record) + b"\n"


class Tree(msgspec.Struct, frozen=True):
    """All nodes, sorted by path bytes; the first is the root directory (path b"")."""

    nodes: tuple[Node, ...]

    def encode(self) -> bytes:
        """The canonical bytes: the header line, then one canonical JSON line per node."""
        return TREE_HEADER + b"".join(map(_line, self.nodes))

    def digest(self) -> str:
        """The tree digest, `sha256:<hex>` of `encode()`."""
        return sha256(self.encode())
