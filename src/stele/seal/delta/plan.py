"""Which bytes a delta carries, against which old bytes: a function of the two trees and few numbers (docs/spec/delta.md). Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stele.model.tree import Node, Tree

PIECE = 32 << 20  # bytes: of a piece, of the pieces of a group together, and of their old pieces together
_HASHED = re.compile(rb"(?=[a-f]{0,64}[0-9])[0-9a-f]{6,}")
_NUMBER = re.compile(rb"[0-9]+")


class Range(NamedTuple):
    """Bytes of one content: `digest` (64 hex digits), from `start`, `size` of them (both bytes)."""

    digest: str
    start: int
    size: int


class Pair(NamedTuple):
    """A piece and its old piece, if it has one. `whole`: bytes of the content that the old piece is of."""

    piece: Range
    old: Range | None
    whole: int

    @property
    def placed(self) -> bool:
        """Whether the delta says where the old piece begins: the old content does not fit into one."""
        return self.whole > PIECE


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


def pairs(base: Tree, tree: Tree) -> list[Pair]:
    """Every piece with its old piece, in order; old pieces that the delta is to place begin where the piece begins, or end with it."""
    seen = {node.sha256 for node in base.files()}
    new = []
    for node in tree.files():
        if node.sha256 not in seen and node.size:
            seen.add(node.sha256)
            new.append(node)
    alike: dict[bytes, Node] = {}
    if any(_same_path(base, node) is None for node in new):
        for node in base.files():
            if node.size:
                alike.setdefault(pattern(node.path), node)
    return pairs_of((node, _same_path(base, node) or alike.get(pattern(node.path))) for node in new)


def pairs_of(new: Iterable[tuple[Node, Node | None]]) -> list[Pair]:
    """The pieces of new contents, each given by a file that has it, and the file of the base whose content it goes with."""
    found = []
    for node, before in new:
        for start in range(0, node.size, PIECE):
            piece = Range(node.sha256, start, min(PIECE, node.size - start))
            if before is None:
                found.append(Pair(piece, None, 0))
                continue
            at = min(start, max(0, before.size - PIECE))
            found.append(Pair(piece, Range(before.sha256, at, min(PIECE, before.size - at)), before.size))
    return found


def _same_path(base: Tree, node: Node) -> Node | None:
    before = base.get(node.path)
    return before if before is not None and before.kind == "file" and before.size else None


def place(found: Iterable[Pair], starts: Sequence[int]) -> list[Pair]:
    """Pairs whose old pieces begin where `starts` says, a number for each that is `placed`, in order.

    Raises:
        ValueError: too few or many numbers, one that is outside of its content, or before that of the piece before.
    """
    left = list(reversed(starts))
    out: list[Pair] = []
    for pair in found:
        if pair.old is None or not pair.placed:
            out.append(pair)
            continue
        start = left.pop() if left else -1
        before = out[-1] if pair.piece.start else None
        least = before.old.start if before is not None and before.old is not None else 0
        if not least <= start < pair.whole:
            raise ValueError("an old piece begins outside of its content")
        out.append(pair._replace(old=Range(pair.old.digest, start, min(PIECE, pair.whole - start))))
    if left:
        raise ValueError("it says of more old pieces where they begin than there are")
    return out


def groups(found: Iterable[Pair]) -> tuple[Group, ...]:
    """The content frames of a delta with these pairs."""
    out: list[Group] = []
    pieces: list[Range] = []
    old: dict[Range, None] = {}
    new_size = old_size = 0
    for piece, against, _ in found:
        more = against.size if against is not None and against not in old else 0
        if pieces and (new_size + piece.size > PIECE or old_size + more > PIECE):
            out.append(Group(tuple(pieces), tuple(old)))
            pieces, old, new_size, old_size = [], {}, 0, 0
            more = against.size if against is not None else 0
        pieces.append(piece)
        new_size += piece.size
        if against is not None:
            old[against] = None
            old_size += more
    if pieces:
        out.append(Group(tuple(pieces), tuple(old)))
    return tuple(out)
