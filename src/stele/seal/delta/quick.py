"""Applying a delta that only changes what paths hold, without decoding two whole trees: their lines are enough.

This is most updates: of a release with 17,000 paths it takes a tenth of the time that `codec.apply` takes. The result is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from stele.model import tree as trees
from stele.model.tree import TREE_HEADER
from stele.seal.delta import codec
from stele.seal.delta.plan import pairs_of
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from stele.model.ports import ContentReader
    from stele.model.tree import Node
    from stele.seal.contents import Contents


class Lines:
    """The lines of a tree, found by path; none is decoded."""

    def __init__(self, data: bytes) -> None:
        """Of a tree's canonical bytes, which are known to be those of a digest that was signed."""
        self.data = data
        self.lines = trees.lines_of(data)

    def place(self, line: bytes) -> int | None:
        """Which line says of the same path."""
        try:
            return self.at(trees.path_of(line))
        except (KeyError, SteleError, TypeError, ValueError):
            return None

    def at(self, path: bytes, guess: int = -1) -> int | None:
        """Which line says of a path. `guess`: a number where it may be."""
        if 0 <= guess < len(self.lines) and trees.path_of(self.lines[guess]) == path:
            return guess
        return trees.number_of(self.lines, path)

    def of(self, paths: Iterable[bytes]) -> list[int]:
        """The numbers of the lines of those of some paths that the tree has, in order."""
        found: list[int] = []
        for path in sorted(paths):
            at = self.at(path, found[-1] + 1 if found else 0)
            if at is not None:
                found.append(at)
        return found

    def joined(self, numbers: Iterable[int]) -> bytes:
        """Some lines as a tree of their own."""
        return trees.joined(self.lines[at] + b"\n" for at in numbers)

    def has_content(self, digest: str) -> bool:
        """Whether a file has the content with this SHA-256 (hex)."""
        return b'"sha256":"' + digest.encode("ascii") + b'"' in self.data

    def replaced(self, changes: Mapping[int, bytes]) -> Lines:
        """These lines with some in place of others, of the same paths."""
        new = Lines.__new__(Lines)
        new.lines = list(self.lines)
        for at, line in changes.items():
            new.lines[at] = line
        new.data = TREE_HEADER + b"\n".join(new.lines) + b"\n"
        return new


class Patched(NamedTuple):
    """What a delta makes of a tree. `changes`: the lines that differ, by number. `header`: of the delta."""

    tree: Lines
    changes: Mapping[int, bytes]
    header: codec.Frames


class Applied(NamedTuple):
    """What a delta made. `changed`: the numbers of the lines that differ."""

    tree: Lines
    changed: frozenset[int]
    contents: Contents


def apply(
    base: Lines,
    delta: BinaryIO,
    tree_digest: str,
    old: Callable[[Mapping[str, bytes]], ContentReader],
    spool: Callable[[], int],
) -> Applied | None:
    """Like `codec.apply`; None, and nothing done, where the delta does more than change what is at paths that the base has.

    Args:
        base: the lines of the tree that is here.
        delta: positioned at its first byte.
        tree_digest: of the tree that is wanted.
        old: contents of the base, for the ones that are named: by SHA-256 (hex), with a path that has each.
        spool: makes the empty file for the new contents.

    Raises:
        SteleError: as `codec.apply`.
    """
    header, patch = codec.open_patch(delta, base.data, tree_digest)
    if patch and not patch.endswith(b"\n"):
        raise codec.damaged("its change of the tree is cut short")
    changes: dict[int, bytes] = {}
    for line in patch.split(b"\n")[:-1]:
        at = base.place(line)
        if at is None or line.startswith(b"-"):
            return None
        changes[at] = line
    tree = base.replaced(changes)
    if sha256(tree.data) != tree_digest:
        raise codec.wrong_result("its tree has another digest")
    return unpack(base, Patched(tree, changes, header), delta, old, spool)


def unpack(
    base: Lines, patched: Patched, delta: BinaryIO, old: Callable[[Mapping[str, bytes]], ContentReader], spool: Callable[[], int]
) -> Applied | None:
    """The contents, where the tree is known and has the digest that was signed; the rest as of `apply`. `delta`: at its content."""
    fresh: list[tuple[Node, Node | None]] = []
    seen: set[str] = set()
    for at in sorted(patched.changes):
        node, before = trees.decode_line(patched.changes[at]), trees.decode_line(base.lines[at])
        if node.kind != "file" or node.link is not None or not node.size or node.sha256 in seen or node.sha256 == before.sha256:
            continue
        if base.has_content(node.sha256):
            return None  # what is at another path, the whole tree tells
        if before.kind != "file" or not before.size:
            return None  # which old content it goes with, only the whole tree tells
        seen.add(node.sha256)
        fresh.append((node, before))
    needed = {before.sha256: before.path for _, before in fresh if before is not None}
    contents = codec.unpack_contents(patched.header, pairs_of(fresh), old(needed), delta, spool())
    return Applied(patched.tree, frozenset(patched.changes), contents)
