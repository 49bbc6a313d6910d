"""A tree as package managers' records speak of it: by paths that may lead through its symlinks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.model.tree import parent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stele.model.ports import ContentReader
    from stele.model.tree import Node, Tree

MAX_RECORD = 64 << 20  # bytes of one record; what is larger is none
_MAX_HOPS = 40  # symlinks on the way to one path, as in Linux


class Records:
    """Looks up what records name. Paths in and out are relative bytes, as in the tree."""

    def __init__(self, tree: Tree, contents: ContentReader) -> None:
        """Index the tree once."""
        self.tree = tree
        self._contents = contents
        self._nodes = {node.path: node for node in tree.nodes}
        self._directories = {node.path for node in tree.nodes if node.kind == "dir"}
        self._all_paths = b"\0".join(self._nodes)
        self._folders: dict[bytes, bytes | None] = {b"": b""}  # resolved

    def node(self, path: bytes) -> Node | None:
        """The node at exactly this path."""
        return self._nodes.get(path)

    def is_in_a_path(self, part: bytes) -> bool:
        """Whether this is a part of any path."""
        return part in self._all_paths

    def read(self, path: bytes) -> bytes:
        """A regular file's bytes; nothing where there is none, or it is too large for a record."""
        node = self._nodes.get(path)
        if node is None or node.kind != "file" or not 0 < node.size <= MAX_RECORD:
            return b""
        return self._contents.read(node.sha256)

    def owned(self, names: Iterable[bytes]) -> tuple[bytes, ...]:
        """The files and symlinks of the tree that these paths mean, sorted, each once."""
        all_names = set(names)
        found = all_names & self._nodes.keys()
        found.update(path for name in all_names - found if (path := self.resolve(name)) is not None)
        return tuple(sorted(found - self._directories))

    def resolve(self, name: bytes) -> bytes | None:
        """The path in the tree that `name` means when symlinks on the way are followed (not at its end), or None.

        `name` may begin with slashes; one with `.` or `..` in it means nothing.
        """
        name = name.strip(b"/")
        if name in self._nodes:
            return name
        folder, _, last = name.rpartition(b"/")
        if last in {b"", b".", b".."}:
            return None
        real = self._folder(folder, _MAX_HOPS)
        if real is None:
            return None
        path = real + b"/" + last if real else last
        return path if path in self._nodes else None

    def _folder(self, name: bytes, hops: int) -> bytes | None:
        """The directory that `name` means, with `hops` symlinks to go."""
        if name in self._folders:
            return self._folders[name]
        self._folders[name] = None  # for what comes back to itself
        found = self._step(name, hops)
        self._folders[name] = found
        return found

    def _step(self, name: bytes, hops: int) -> bytes | None:
        if name.count(b"/") > 256:
            return None
        above, _, last = name.rpartition(b"/")
        folder = self._folder(above, hops)
        if folder is None or last in {b"", b".", b".."}:
            return None
        path = folder + b"/" + last if folder else last
        node = self._nodes.get(path)
        if node is None or node.kind == "dir":
            return None if node is None else path
        if node.kind != "symlink" or hops == 0:
            return None
        at = b"" if node.target.startswith(b"/") else folder
        for part in node.target.split(b"/"):
            if part == b"..":
                at = parent(at)
            elif part not in {b"", b"."}:
                real = self._folder(at + b"/" + part if at else part, hops - 1)
                if real is None:
                    return None
                at = real
        return at


def text(raw: bytes, limit: int = 256) -> str:
    """A field of a record as text: what is no UTF-8 replaced, control characters too, at most `limit` characters."""
    return "".join(char if char.isprintable() else "\ufffd" for char in raw.decode("utf-8", "replace").strip()[:limit])
