"""Which bytes a delta carries, against which old bytes: a function of the two trees alone (docs/spec/delta.md). Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stele.model.tree import Node, Tree

PIECE = 32 << 20  # bytes: of a piece, of the pieces of a group together, and of their old pieces together
_HASHED = re.compile(rb"(?=[a-f]{0,64}[0-9])[0-9a-f]{6,}")
_NUMBER = re.compile(rb"[0-9]+")


class Range(NamedTuple):
    """Bytes of one content: `digest` (64 hex digits), from `start`, `size` of them (both bytes)."""

    digest: str
    start: int
    size: int


class Group(NamedTuple):
    """The pieces that one frame holds, and the old pieces that are its dictionary, both in order."""

    pieces: tuple[Range, ...]
    old: tuple[Range, ...]

    @property
    def size(self) -> int:
        """Bytes of the pieces together."""
        return sum(piece.size for piece in self.pieces)


def pattern(path: bytes) -> bytes:
    """A path without what changes with a version: hashes and numbers become `#`."""
    return _NUMBER.sub(b"#", _HASHED.sub(b"#", path))


def groups(base: Tree, tree: Tree) -> tuple[Group, ...]:
    """The content frames of a delta from `base` to `tree`."""
    found: list[Group] = []
    pieces: list[Range] = []
    old: dict[Range, None] = {}
    new_size = old_size = 0
    for piece, against in _pieces(base, tree):
        more = against.size if against is not None and against not in old else 0
        if pieces and (new_size + piece.size > PIECE or old_size + more > PIECE):
            found.append(Group(tuple(pieces), tuple(old)))
            pieces, old, new_size, old_size = [], {}, 0, 0
            more = against.size if against is not None else 0
        pieces.append(piece)
        new_size += piece.size
        if against is not None:
            old[against] = None
            old_size += more
    if pieces:
        found.append(Group(tuple(pieces), tuple(old)))
    return tuple(found)


def _pieces(base: Tree, tree: Tree) -> Iterator[tuple[Range, Range | None]]:
    """Every piece with its old piece, in order."""
    seen = {node.sha256 for node in base.files()}
    alike: dict[bytes, Node] = {}
    for node in base.files():
        if node.size:
            alike.setdefault(pattern(node.path), node)
    for node in tree.files():
        if node.sha256 in seen or not node.size:
            continue
        seen.add(node.sha256)
        before = base.get(node.path)
        if before is None or before.kind != "file" or not before.size:
            before = alike.get(pattern(node.path))
        for start in range(0, node.size, PIECE):
            against = None
            if before is not None and start < before.size:
                against = Range(before.sha256, start, min(PIECE, before.size - start))
            yield Range(node.sha256, start, min(PIECE, node.size - start)), against
