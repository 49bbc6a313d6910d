"""From a layer back: the nodes of its stratum, and its EROFS image, bit for bit (docs/spec/strata.md, Rebuilding).

Adapter of the port `Rebuilder`. The layer is read twice and never stored unfolded; memory holds the nodes, no contents.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, BinaryIO

from stele.model.tree import Node, Tree
from stele.seal import erofs, erofs_layout
from stele.seal.forms import finish_image
from stele.seal.sources.source import Limits
from stele.seal.sources.stream import Budget, Reader, unfold
from stele.seal.sources.tar import Entry, TarReader
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stele.model.release import Stratum

_ANY = Limits(max_bytes=1 << 62, max_entries=1 << 40, max_ratio=1 << 40)  # the digest is checked: it is our own layer


def _differs(stratum: Stratum, what: str) -> SteleError:
    return SteleError(
        f"the stratum {stratum.name} does not come out at the signed {what} when it is made again from its layer",
        remedy="the layer is not the one that was sealed, or another version of the format made it; seal or copy the release again",
        code="release.rebuild-differs",
    )


def members(layer: BinaryIO, stratum: Stratum) -> Iterator[tuple[Entry, Iterator[memoryview]]]:
    """Members of the layer with their contents; at the end the whole tar is compared with the diff_id.

    Raises:
        SteleError: `release.rebuild-differs`, and those of the tar reader (`seal.bad-archive`).
    """
    state = hashlib.sha256()

    def hashed() -> Iterator[bytes]:
        for piece in unfold(layer, f"the layer of {stratum.name}"):
            state.update(piece)
            yield piece

    layer.seek(0)
    pieces = hashed()
    tar = TarReader(Reader(pieces, f"the layer of {stratum.name}"), Budget(_ANY))
    for entry in tar:
        yield entry, tar.data()
    for _ in pieces:
        pass
    if "sha256:" + state.hexdigest() != stratum.diff_id:
        raise _differs(stratum, "diff_id")


def _node(entry: Entry, digest: str, known: dict[bytes, Node]) -> Node:
    if entry.kind == "link":
        first = known[entry.target]
        return Node(
            path=entry.path, link=first.path, kind=first.kind, mode=first.mode, uid=first.uid, gid=first.gid, mtime=first.mtime,
            size=first.size, sha256=first.sha256, target=first.target, rdev=first.rdev, xattrs=first.xattrs,
        )  # fmt: skip
    return Node(
        path=entry.path, kind=entry.kind, mode=entry.mode, uid=entry.uid, gid=entry.gid, mtime=entry.mtime, size=entry.size,
        sha256=digest, target=entry.target, rdev=entry.rdev, xattrs=tuple(sorted(entry.xattrs.items())),
    )  # fmt: skip


class LayerRebuilder:
    """Makes again from a layer what can be made from it."""

    def nodes(self, layer: BinaryIO, stratum: Stratum) -> tuple[Node, ...]:
        """The nodes of the stratum, sorted.

        Raises:
            SteleError: `release.rebuild-differs`, and those of the tar reader (`seal.bad-archive`).
        """
        found: dict[bytes, Node] = {}
        for entry, data in members(layer, stratum):
            digest = ""
            if entry.kind == "file":
                state = hashlib.sha256()
                for piece in data:
                    state.update(piece)
                digest = state.hexdigest()
            if entry.kind == "link" and entry.target not in found:
                raise _differs(stratum, "diff_id")
            found[entry.path] = _node(entry, digest, found)
        return Tree.build(found.values()).nodes

    def image(self, layer: BinaryIO, stratum: Stratum, fd: int) -> None:
        """Write the stratum's EROFS image with its hash tree to the empty file `fd`. Raises like `nodes`."""
        nodes = self.nodes(layer, stratum)
        layout = erofs_layout.plan(nodes)
        if layout.data_size != stratum.data_size:
            raise _differs(stratum, "size")
        pieces = layout.pieces()
        digests = {node.path: node.sha256 for node in nodes if node.kind == "file" and node.size and node.link is None}
        uuid = erofs.image_uuid(nodes)
        erofs.write_structure(fd, layout, uuid)
        for entry, data in members(layer, stratum):
            places = pieces.pop(digests.get(entry.path, ""), None) if entry.kind == "file" else None
            if places is None:
                continue
            done = 0
            for piece in data:
                erofs.place(fd, places, piece, done)
                done += len(piece)
        image = finish_image(fd, layout.data_size, uuid)
        if (image.digest, image.verity_root) != (stratum.image, stratum.verity_root):
            raise _differs(stratum, "image digest")
