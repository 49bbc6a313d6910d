"""What changes between two trees, as the lines that differ (docs/spec/delta.md, The patch). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stele.model.tree import TREE_HEADER, path_of, quote, unquote
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.model.tree import Tree

_GONE = b"-"


class PatchError(ValueError):
    """The patch cannot be read."""


class _Path(msgspec.Struct):
    path: str


_path_of = msgspec.json.Decoder(_Path)


def _lines(tree: Tree) -> dict[bytes, bytes]:
    """The line of every path, without its line feed."""
    return dict(zip((node.path for node in tree.nodes), tree.encode()[len(TREE_HEADER) : -1].split(b"\n"), strict=True))


def make(base: Tree, tree: Tree) -> bytes:
    """The patch that makes `tree` of `base`."""
    before, after = _lines(base), _lines(tree)
    out = []
    for path in sorted(before.keys() | after.keys()):
        line = after.get(path)
        if line is None:
            out.append(_GONE + quote(path).encode("ascii"))
        elif before.get(path) != line:
            out.append(line)
    return b"".join(line + b"\n" for line in out)


def apply(base: bytes, patch: bytes) -> bytes:
    """What should be the canonical bytes of the result; to be believed only at the digest that was signed.

    `base`: the canonical bytes of a tree that was checked; it is not decoded.

    Raises:
        PatchError: a line is neither a node's nor names a path of the base, or the last is cut short.
    """
    if patch and not patch.endswith(b"\n"):
        raise PatchError("its last line is cut short")
    lines = {path_of(line): line for line in base[len(TREE_HEADER) : -1].split(b"\n")}
    for line in patch.split(b"\n")[:-1]:
        try:
            if line.startswith(_GONE):
                del lines[unquote(line[1:].decode("ascii"))]
            else:
                lines[unquote(_path_of.decode(line).path)] = line
        except (KeyError, UnicodeDecodeError, msgspec.MsgspecError, SteleError) as error:
            raise PatchError(repr(line[:80])) from error
    return TREE_HEADER + b"".join(lines[path] + b"\n" for path in sorted(lines))
