"""The tree: the canonical list of every path in a release (docs/spec/tree.md, version 0).

Paths are bytes, relative, without a leading slash; the root is b"". Order is by path bytes.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from itertools import pairwise
from operator import attrgetter, lt
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import UNSET, UnsetType

from stele.model.names import MAX_ID, MAX_PATH, MAX_SIZE, MAX_TIME, MAX_XATTR, above, doubtful, name_fault
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

TREE_HEADER = b"stele-tree v0\n"

Kind = Literal["file", "dir", "symlink", "char", "block", "fifo"]


class Node(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
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


class _Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A node as it is spelled in the canonical bytes, its keys in order."""

    gid: int
    kind: Kind
    link: str | UnsetType = UNSET
    mode: int
    mtime: int
    path: str
    rdev: tuple[int, int] | UnsetType = UNSET
    sha256: str | UnsetType = UNSET
    size: int | UnsetType = UNSET
    target: str | UnsetType = UNSET
    uid: int
    xattrs: tuple[tuple[str, str], ...] | UnsetType = UNSET


_PATH = b'"path":"'
_PLAIN = re.compile(rb"[!-$&-~]*\Z")  # 0x21-0x7E without '%'
_PLAIN_LINES = bytes({*range(0x21, 0x7F), 0x0A} - {0x25})
_PLAIN_TEXT = re.compile(r"[!-$&-~]*\Z", re.ASCII)
_QUOTED = re.compile(r"(?:[!-$&-~]|%[0-9A-F]{2})*\Z", re.ASCII)
_LINES, _PIECE = 4096, 1 << 20  # lines and bytes that are made or read at a time: what is made on the way takes more memory
_HEX64 = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)
_DEVICES = frozenset({"char", "block"})
_line_decoder = msgspec.json.Decoder(_Line)
_encoder = msgspec.json.Encoder()
_path_of, _size_of, _digest_of = attrgetter("path"), attrgetter("size"), attrgetter("sha256")
_same_in_files = attrgetter("mode", "uid", "gid", "mtime", "target", "rdev", "xattrs")  # in nearly all of them


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
    if _PLAIN_TEXT.match(text):
        return text.encode("ascii")
    if _QUOTED.match(text):
        raw = re.sub(rb"%(..)", lambda found: bytes.fromhex(found[1].decode("ascii")), text.encode("ascii"))
        if quote(raw) == text:
            return raw
    raise SteleError(f"{text[:80]!r} is not a quoted path", remedy="the tree is damaged; pull or seal it again", code="tree.bad-path")


def parent(path: bytes) -> bytes:
    """The path of the directory that holds `path` (b"" for names directly below the root)."""
    return path.rpartition(b"/")[0]


def _spelled(node: Node, path: str) -> _Line:
    """A node as it is spelled. `path`: its path, quoted."""
    file = node.kind == "file"
    return _Line(
        gid=node.gid,
        kind=node.kind,
        link=UNSET if node.link is None else quote(node.link),
        mode=node.mode,
        mtime=node.mtime,
        path=path,
        rdev=node.rdev if node.kind in _DEVICES else UNSET,
        sha256=node.sha256 if file else UNSET,
        size=node.size if file else UNSET,
        target=quote(node.target) if node.kind == "symlink" else UNSET,
        uid=node.uid,
        xattrs=tuple([(quote(name), quote(value)) for name, value in node.xattrs]) if node.xattrs else UNSET,
    )


def line(node: Node) -> bytes:
    """The canonical line of a node, with its line feed."""
    # canonical JSON (docs/spec/canonical.md): the keys of `_Line` are in order, and all text is ASCII without DEL
    return _encoder.encode(_spelled(node, quote(node.path))) + b"\n"


def _encoded(nodes: Sequence[Node]) -> Iterator[bytes]:
    """The canonical lines of nodes, in pieces."""
    for at in range(0, len(nodes), _LINES):
        some = nodes[at : at + _LINES]
        whole = b"\n".join(map(_path_of, some))
        paths = [] if whole.translate(None, _PLAIN_LINES) else whole.decode("ascii").split("\n")  # mostly, none needs to be quoted
        if len(paths) != len(some):
            paths = [quote(node.path) for node in some]
        yield _encoder.encode_lines(list(map(_spelled, some, paths)))


def _bad(reason: str) -> SteleError:
    return SteleError(
        f"the tree is not valid: {reason}", remedy="it is damaged or forged; pull or seal the release again", code="tree.invalid"
    )


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
    if node.kind in _DEVICES:
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


def _dubious(nodes: Sequence[Node]) -> Iterable[Node]:
    """Those for `_node_fault` to look at: of files whose sizes and digests are fine, one of all that are the same but for these."""
    files = [node for node in nodes if node.kind == "file"]
    sizes, digests = list(map(_size_of, files)), list(map(_digest_of, files))
    others = "".join(digests).encode("ascii", "replace").translate(None, b"0123456789abcdef")
    if min(sizes, default=-1) < 0 or max(sizes) > MAX_SIZE or set(map(len, digests)) != {64} or others:
        return nodes
    return [*(node for node in nodes if node.kind != "file"), *{_same_in_files(file): file for file in files}.values()]


def check(nodes: tuple[Node, ...]) -> None:
    """Everything that makes a list of nodes a tree (docs/spec/tree.md, Rules).

    Raises:
        SteleError: `tree.invalid`.
    """
    if not nodes or nodes[0].path != b"" or nodes[0].kind != "dir" or nodes[0].link is not None:
        raise _bad("its first node is not the root directory")
    paths = list(map(_path_of, nodes))
    if not all(map(lt, paths, paths[1:])):
        late = next(path for before, path in pairwise(paths) if path <= before)
        raise _bad(f"{quote(late)[:200]} is out of order or appears twice")
    for node in _dubious(nodes):
        if fault := _node_fault(node):
            raise _bad(f"{quote(node.path)[:200]}: {fault}")
    for path in doubtful(paths[1:]):
        if fault := name_fault(path):
            raise _bad(f"{quote(path)[:200]}: {fault}")
    folders = {node.path for node in nodes if node.kind == "dir"}
    if not folders.issuperset([path.rpartition(b"/")[0] for path in paths]):  # which are before it, by the order
        lost = next(path for path in paths if parent(path) not in folders)
        raise _bad(f"{quote(lost)[:200]} has no directory above it")
    linked = [node for node in nodes if node.link is not None]
    firsts = {node.path: node for node in nodes if node.link is None} if linked else {}
    for node in linked:
        first = firsts.get(node.link or b"")
        if first is None or node.kind == "dir" or first.path > node.path:
            raise _bad(f"{quote(node.path)[:200]} links to what is not the first name of a file")
        if msgspec.structs.replace(node, path=first.path, link=None) != first:
            raise _bad(f"{quote(node.path)[:200]} differs from {quote(first.path)[:200]}, whose other name it is")


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
        return joined(_encoded(self.nodes))

    def lines(self) -> list[bytes]:
        """The canonical line of each node, in order."""
        return [line for piece in _encoded(self.nodes) for line in piece.splitlines(keepends=True)]

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
        # whether they say nothing of other nodes, and those nothing of what goes, unless that stays a directory
        beside = (node.link is None and ((was := self.get(node.path)) is None or was.kind == node.kind == "dir") for node in added.values())
        if not without and all(beside):
            there = {node.path: node for path in added for node in map(self.get, above(path)) if node}
            Tree.build({**there, **added}.values())  # these are a tree, too, or the whole is none
            return Tree(tuple(sorted([*(node for node in self.nodes if node.path not in added), *added.values()], key=_path_of)))
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


def _node(raw: _Line) -> Node:
    return Node(
        path=unquote(raw.path),
        kind=raw.kind,
        mode=raw.mode,
        uid=raw.uid,
        gid=raw.gid,
        mtime=raw.mtime,
        size=raw.size or 0,
        sha256=raw.sha256 or "",
        target=unquote(raw.target or ""),
        link=None if raw.link is UNSET else unquote(raw.link),
        rdev=raw.rdev or (0, 0),
        xattrs=tuple([(unquote(name), unquote(value)) for name, value in raw.xattrs or ()]),
    )


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
    nodes = _decoded(data + b"\n")
    if fault := _node_fault(nodes[0]) if len(nodes) == 1 else "it is no line":
        raise _bad(f"{data[:200]!r}: {fault}")
    return nodes[0]


def decode(data: bytes) -> Tree:
    """Parse the canonical bytes; every other spelling of the same tree is refused.

    Raises:
        SteleError: `tree.invalid`, `tree.bad-path`.
    """
    if not data.startswith(TREE_HEADER) or not data.endswith(b"\n") or len(data) == len(TREE_HEADER):
        raise _bad("it does not begin with the header of version 0, or is cut short")
    nodes: list[Node] = []
    at = len(TREE_HEADER)
    while at < len(data):
        ends = data.find(b"\n", at + _PIECE) + 1 or len(data)
        nodes += _decoded(data[at:ends])
        at = ends
    tree = Tree(tuple(nodes))
    check(tree.nodes)
    return tree


def _decoded(lines: bytes) -> list[Node]:
    """Nodes of whole lines, which are spelled the one way."""
    try:
        nodes = list(map(_node, _line_decoder.decode_lines(lines)))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _bad(f"a line cannot be read: {error}") from error
    if b"".join(_encoded(nodes)) != lines:
        raise _bad("a line is not spelled the one way")
    return nodes
