"""How a tree was cut into strata, written down: for releases that are kept as deltas until another version cuts otherwise.

The format is in docs/spec/delta.md, Packed releases. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import zstandard

from stele.model.release import MAX_STRATA
from stele.model.tree import parent
from stele.seal.strata import Slice
from stele.trust import canonical
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.model.tree import Node, Tree

LIMIT = 64 << 20  # bytes, unpacked


class _Cut(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    names: tuple[str, ...]
    runs: tuple[tuple[int, int], ...]


def _bad(reason: str) -> SteleError:
    return SteleError(
        f"the delta's record of its strata cannot be read: {reason}",
        remedy="it was altered or cut short; fetch it again, or take the whole strata instead",
        code="delta.damaged",
    )


def _single(tree: Tree) -> list[Node]:
    """The nodes that lie in one stratum: all but directories that hold something (and the root)."""
    above = {parent(node.path) for node in tree.nodes[1:]}
    return [node for node in tree.nodes[1:] if node.kind != "dir" or node.path not in above]


def encode(tree: Tree, slices: Sequence[Slice]) -> bytes:
    """The record of a cut, packed."""
    where = {node.path: at for at, piece in enumerate(slices) for node in piece.nodes}
    runs: list[list[int]] = []
    for node in _single(tree):
        at = where[node.path]
        if runs and runs[-1][0] == at:
            runs[-1][1] += 1
        else:
            runs.append([at, 1])
    data = canonical.encode({"names": [piece.name for piece in slices], "runs": runs})
    return zstandard.ZstdCompressor(level=19).compress(data)


def decode(tree: Tree, packed: bytes) -> tuple[Slice, ...]:
    """The strata of `tree` as a record says; untrusted.

    Raises:
        SteleError: `delta.damaged`.
    """
    try:
        if not 0 < zstandard.frame_content_size(packed) <= LIMIT:
            raise _bad("its size is not possible")
        data = zstandard.ZstdDecompressor().decompress(packed, max_output_size=LIMIT, allow_extra_data=False)
        cut = msgspec.convert(canonical.decode(data), _Cut)
    except (zstandard.ZstdError, msgspec.ValidationError, SteleError) as error:
        raise _bad(str(error)[:200]) from error
    nodes = _single(tree)
    if not 1 <= len(cut.names) <= MAX_STRATA or sum(count for _, count in cut.runs) != len(nodes):
        raise _bad("it is of another tree")
    needed: list[set[bytes]] = [{b""} for _ in cut.names]
    where: dict[bytes, int] = {}
    left = iter(nodes)
    for at, count in cut.runs:
        if not 0 <= at < len(cut.names) or count < 1:
            raise _bad("a number is out of range")
        for _ in range(count):
            path = next(left).path
            where[path] = at
            while (path := parent(path)) not in needed[at]:
                needed[at].add(path)
    found: list[list[Node]] = [[] for _ in cut.names]
    for node in tree.nodes:
        if node.path in where:
            found[where[node.path]].append(node)
            continue
        for at, above in enumerate(needed):
            if node.path in above:
                found[at].append(node)
    return tuple(Slice(name, tuple(pieces)) for name, pieces in zip(cut.names, found, strict=True))
