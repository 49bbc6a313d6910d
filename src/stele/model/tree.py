"""The tree: the canonical list of every path in a release (docs/spec/tree.md, version 0).

Paths are bytes, relative, without a leading slash; the root is b"". Order is by path bytes.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from operator import attrgetter
from typing import TYPE_CHECKING, Literal

import msgspec

from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

TREE_HEADER = b"stele-tree v0\n"
MAX_COMPONENT = 255  # bytes, Linux NAME_MAX
MAX_PATH = 4095  # bytes, Linux PATH_MAX without its NUL
MAX_ID = 2**32 - 2  # the last value is "no id" for chown(2)
MAX_TIME = 2**33 - 1
MAX_SIZE = 2**63 - 1
MAX_XATTR = 65_536  # bytes of a value, Linux XATTR_SIZE_MAX

Kind = Literal["file", "dir", "symlink", "char", "block", "fifo"]


class Node(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One path.

    `mode`: the 12 permission bits. `mtime`: seconds. `size` (bytes), `sha256` (64 hex digits): of regular files.
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


class _Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node as it is spelled in the canonical bytes."""

    path: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    sha256: str = ""
    target: str = ""
    link: str | None = None
    rdev: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, str], ...] = ()


_PATH = b'"path":"'
_PLAIN = re.compile(rb"[!-$&-~]*\Z")  # 0x21-0x7E without '%'
_EDGE = frozenset({b"", b".", b"/"})
_SUSPECT = re.compile(rb"/[./]|\0")
_HEX64 = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)
_QUOTED = re.compile(r"(?:[!-$&-~]|%[0-9A-F]{2})*\Z", re.ASCII)
_line_decoder = msgspec.json.Decoder(_Line)
_path_of = attrgetter("path")


def quote(raw: bytes) -> str:
    """Bytes as ASCII text: all but 0x21-0x7E, and '%', become %XX (upper-case hex)."""
    if _PLAIN.match(raw):
        return raw.decode("ascii")
    return "".join(chr(b) if 0x21 <= b <= 0x7E and b != 0x25 else f"%{b:02X}" for b in raw)


def unquote(text: str) -> bytes:
    """The inverse of `quote`; refuses any other spelling.

    Raises:
        SteleError: `tree.bad-path`.
    """
    if "%" not in text and _QUOTED.match(text):
        return text.encode("ascii")
    if _QUOTED.match(text):
        first, *rest = text.encode("ascii").split(b"%")
        raw = first + b"".join(bytes([int(part[:2], 16)]) + part[2:] for part in rest)
        if quote(raw) == text:
            return raw
    raise SteleError(f"{text[:80]!r} is not a quoted path", remedy="the tree is damaged; pull or seal it again", code="tree.bad-path")


def parent(path: bytes) -> bytes:
    """The path of the directory that holds `path` (b"" for names directly below the root)."""
    return path.rpartition(b"/")[0]


def _text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def line(node: Node) -> bytes:
    """The canonical line of a node, with its line feed."""
    # canonical JSON (docs/spec/canonical.md) spelled out, for speed: keys in order, ASCII, only '"' and '\' need escapes
    link = "" if node.link is None else f'"link":{_text(quote(node.link))},'
    rdev = f'"rdev":[{node.rdev[0]},{node.rdev[1]}],' if node.kind in {"char", "block"} else ""
    content = f'"sha256":"{node.sha256}","size":{node.size},' if node.kind == "file" else ""
    target = f'"target":{_text(quote(node.target))},' if node.kind == "symlink" else ""
    pairs = ",".join(f"[{_text(quote(name))},{_text(quote(value))}]" for name, value in node.xattrs)
    xattrs = f',"xattrs":[{pairs}]' if pairs else ""
    return (
        f'{{"gid":{node.gid},"kind":"{node.kind}",{link}"mode":{node.mode},"mtime":{node.mtime},"path":{_text(quote(node.path))},'
        f'{rdev}{content}{target}"uid":{node.uid}{xattrs}}}\n'
    ).encode("ascii")


def _bad(reason: str) -> SteleError:
    return SteleError(
        f"the tree is not valid: {reason}", remedy="it is damaged or forged; pull or seal the release again", code="tree.invalid"
    )


def name_fault(path: bytes) -> str:
    """What is wrong with a non-root path as such ("" if nothing): length, NUL, empty, '.' or '..' components."""
    if len(path) <= MAX_COMPONENT and path[:1] not in _EDGE and path[-1:] != b"/" and not _SUSPECT.search(path):
        return ""  # as nearly all are
    if len(path) > MAX_PATH:
        return f"is longer than {MAX_PATH} bytes"
    if b"\0" in path:
        return "holds a NUL byte"
    for part in path.split(b"/"):
        if not part:
            return "has an empty component"
        if part in {b".", b".."}:
            return f"has a component {part.decode()!r}"
        if len(part) > MAX_COMPONENT:
            return f"has a component longer than {MAX_COMPONENT} bytes"
    return ""


def _node_fault(node: Node) -> str:
    """What is wrong with one node by itself ("" if nothing)."""
    if not (0 <= node.mode <= 0o7777 and 0 <= node.uid <= MAX_ID and 0 <= node.gid <= MAX_ID and 0 <= node.mtime <= MAX_TIME):
        return "mode, owner or time is out of range"
    if node.kind == "file":
        if not 0 <= node.size <= MAX_SIZE or not _HEX64.match(node.sha256):
            return "size or digest is not valid"
    elif node.size or node.sha256:
        return f"a {node.kind} has a size or digest"
    if node.kind == "symlink":
        if not node.target or len(node.target) > MAX_PATH or b"\0" in node.target or node.mode != 0o777:
            return "a symlink needs a target of 1 to 4095 bytes without NUL, and mode 0777"
    elif node.target:
        return f"a {node.kind} has a target"
    if node.kind in {"char", "block"}:
        if not (0 <= node.rdev[0] < 1 << 12 and 0 <= node.rdev[1] < 1 << 20):
            return "device numbers are out of range"
    elif node.rdev != (0, 0):
        return f"a {node.kind} has device numbers"
    if not node.xattrs:
        return ""
    names = [name for name, _ in node.xattrs]
    if names != sorted(set(names)):
        return "xattrs are not sorted or repeat"
    if any(not 0 < len(name) <= 255 or b"\0" in name or len(value) > MAX_XATTR for name, value in node.xattrs):
        return "an xattr has a bad name or is too large"
    return ""


def check(nodes: tuple[Node, ...]) -> None:
    """Everything that makes a list of nodes a tree (docs/spec/tree.md, Rules).

    Raises:
        SteleError: `tree.invalid`.
    """
    if not nodes or nodes[0].path != b"" or nodes[0].kind != "dir" or nodes[0].link is not None:
        raise _bad("its first node is not the root directory")
    seen: dict[bytes, Node] = {}
    before: bytes | None = None
    for node in nodes:
        if before is not None and node.path <= before:
            raise _bad(f"{quote(node.path)[:200]} is out of order or appears twice")
        before = node.path
        fault = _node_fault(node) or (name_fault(node.path) if node.path else "")
        if fault:
            raise _bad(f"{quote(node.path)[:200]}: {fault}")
        if node.path:
            above = seen.get(parent(node.path))
            if above is None or above.kind != "dir":
                raise _bad(f"{quote(node.path)[:200]} has no directory above it")
        if node.link is not None:
            first = seen.get(node.link)
            if first is None or node.kind == "dir" or first.link is not None:
                raise _bad(f"{quote(node.path)[:200]} links to what is not the first name of a file")
            if msgspec.structs.replace(node, path=first.path, link=None) != first:
                raise _bad(f"{quote(node.path)[:200]} differs from {quote(node.link)[:200]}, whose other name it is")
        seen[node.path] = node


def joined(lines: Iterable[bytes | memoryview]) -> bytes:
    """The canonical bytes of a tree, of the lines of its nodes in order."""
    return TREE_HEADER + b"".join(lines)


def lines_of(data: bytes) -> list[bytes]:
    """The lines of a tree's canonical bytes, without line feeds."""
    return data[len(TREE_HEADER) : -1].split(b"\n")


def number_of(lines: Sequence[bytes], path: bytes) -> int | None:
    """Which of a checked tree's lines says of a path. Raises like `path_of`."""
    number = bisect_left(lines, path, key=path_of)
    return number if number < len(lines) and path_of(lines[number]) == path else None


def found_in(data: bytes, path: bytes) -> tuple[int, int] | None:
    """Where in the canonical bytes of a checked tree the line of a path begins, and where its line feed is. Raises like `path_of`."""
    low, high = len(TREE_HEADER), len(data)  # where a line begins
    while low < high:
        begins = data.rfind(b"\n", low - 1, (low + high) // 2) + 1
        ends = data.index(b"\n", begins)
        here = path_of(data[begins:ends])
        if here == path:
            return begins, ends
        low, high = (ends + 1, high) if here < path else (low, begins)
    return None


class Tree(msgspec.Struct, frozen=True):
    """All nodes, sorted by path bytes; the first is the root directory (path b"").

    Make one with `Tree.build` or `decode`, which check it.
    """

    nodes: tuple[Node, ...]

    @classmethod
    def build(cls, nodes: Iterable[Node]) -> Tree:
        """Sort and check nodes.

        Raises:
            SteleError: `tree.invalid`.
        """
        ordered = tuple(sorted(nodes, key=_path_of))
        check(ordered)
        return cls(ordered)

    def encode(self) -> bytes:
        """The canonical bytes: the header line, then one canonical JSON line per node."""
        return joined(self.lines())

    def lines(self) -> list[bytes]:
        """The canonical line of each node, in order."""
        return list(map(line, self.nodes))

    def digest(self) -> str:
        """The tree digest, `sha256:<hex>` of `encode()`."""
        return sha256(self.encode())

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def _at(self, path: bytes) -> int:
        return bisect_left(self.nodes, path, key=_path_of)

    def get(self, path: bytes) -> Node | None:
        """The node at exactly `path`, or None; symlinks are not followed."""
        at = self._at(path)
        return self.nodes[at] if at < len(self.nodes) and self.nodes[at].path == path else None

    def below(self, path: bytes) -> tuple[Node, ...]:
        """All nodes strictly below the directory `path`, in order."""
        if not path:
            return self.nodes[1:]
        return self.nodes[self._at(path + b"/") : self._at(path + b"0")]  # '0' is the byte after '/'

    def with_nodes(self, new: Iterable[Node], *, without: Collection[bytes] = ()) -> Tree:
        """A tree with `new` in place of what had their paths, and without the paths named (what is below them stays).

        Where the first of several names of an inode goes, the next one becomes the first.

        Raises:
            SteleError: `tree.invalid` if the result is none.
        """
        added = {node.path: node for node in new}
        if not added and not without:
            return self
        kept = [node for node in self.nodes if node.path not in added and node.path not in without]
        kept_paths = {node.path for node in kept}
        promoted: dict[bytes, bytes] = {}
        for at, node in enumerate(kept):
            if node.link is not None and node.link not in kept_paths:
                first = promoted.setdefault(node.link, node.path)
                kept[at] = msgspec.structs.replace(node, link=None if first == node.path else first)
        return Tree.build([*kept, *added.values()])

    def files(self) -> Iterator[Node]:
        """Regular files, one name (the first) per inode, in order."""
        return (node for node in self.nodes if node.kind == "file" and node.link is None)

    def bytes_total(self) -> int:
        """Bytes of all regular files, each inode counted once."""
        return sum(node.size for node in self.files())


def _node(raw_line: bytes) -> Node:
    try:
        raw = _line_decoder.decode(raw_line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _bad(f"a line cannot be read: {error}") from error
    node = Node(
        path=unquote(raw.path),
        kind=raw.kind,
        mode=raw.mode,
        uid=raw.uid,
        gid=raw.gid,
        mtime=raw.mtime,
        size=raw.size,
        sha256=raw.sha256,
        target=unquote(raw.target),
        link=None if raw.link is None else unquote(raw.link),
        rdev=raw.rdev,
        xattrs=tuple((unquote(name), unquote(value)) for name, value in raw.xattrs),
    )
    if _node_fault(node):
        raise _bad(f"{raw.path[:200]}: {_node_fault(node)}")
    if line(node) != raw_line + b"\n":
        raise _bad(f"{raw.path[:200]} is not spelled the one way")
    return node


def path_of(line: bytes) -> bytes:
    """The path in a line of a checked tree: no other quotation mark stands unescaped before that key.

    Raises:
        ValueError, TypeError, KeyError, SteleError: it is no such line.
    """
    start = line.index(_PATH) + len(_PATH)
    text = line[start : line.index(b'",', start)] if b"\\" not in line else msgspec.json.decode(line)["path"].encode("ascii")
    return unquote(text.decode("ascii"))


def decode_line(data: bytes) -> Node:
    """One node from its line (without the line feed), checked by itself. Raises like `decode`."""
    return _node(data)


def decode(data: bytes) -> Tree:
    """Parse the canonical bytes; every other spelling of the same tree is refused.

    Raises:
        SteleError: `tree.invalid`, `tree.bad-path`.
    """
    if not data.startswith(TREE_HEADER):
        raise _bad("it does not begin with the header of version 0")
    if not data.endswith(b"\n") or len(data) == len(TREE_HEADER):
        raise _bad("it is cut short")
    nodes = tuple(map(_node, lines_of(data)))
    check(nodes)
    return Tree(nodes)
