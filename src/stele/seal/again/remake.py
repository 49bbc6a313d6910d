"""The tree and the strata of a folder of which some plain files have changed, out of those of its last seal."""

from __future__ import annotations

import itertools
from array import array
from bisect import bisect_left, bisect_right
from operator import attrgetter
from typing import TYPE_CHECKING

import msgspec

from stele.model import tree as trees
from stele.seal import release as releases
from stele.seal import strata
from stele.seal.again import splice
from stele.seal.again.changes import Edit, NotPlain
from stele.seal.contents import Contents, InFolder
from stele.seal.makers import Makers
from stele.seal.normalise import folder_owner

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from stele.model.ports import BlobSink, StrataFiles
    from stele.model.release import Release, Stratum
    from stele.model.tree import Node
    from stele.seal.again.changes import Changed, Kept
    from stele.seal.again.last import LastSeal, Part
    from stele.seal.codec import Compression
    from stele.seal.contents import Place


class Remade(msgspec.Struct, frozen=True):
    """A tree out of another. `data`: the other's canonical bytes. `edits`: in order. `runs`: new lengths. `parts`: as in `LastSeal`."""

    data: bytes
    edits: list[Edit]
    runs: array[int]
    parts: list[Part]

    def pieces(self, begins: int = 0, ends: int | None = None) -> Iterator[bytes | memoryview]:
        """The new tree's canonical bytes, or of them what was from `begins` to `ends`: most of them are the old ones where they lie."""
        whole, ends = memoryview(self.data), len(self.data) if ends is None else ends
        for edit in self.edits[bisect_left(self.edits, begins, key=_at) :]:
            if edit.at >= ends:
                break
            yield whole[begins : edit.at]
            yield trees.line(edit.new)
            begins = edit.at + len(trees.line(edit.old))
        yield whole[begins:ends]


_at = attrgetter("at")


def tree(data: bytes, last: LastSeal, changed: Sequence[Changed], kept: Sequence[Kept], top: os.stat_result) -> Remade:
    """The tree with what changed.

    Args:
        data: the canonical bytes of the last one.
        last: the last seal.
        changed: files that may hold something else.
        kept: folders whose state is another.
        top: of the source folder.

    Raises:
        NotPlain: the whole way is to be gone.
    """
    if last.owner != (top.st_uid, top.st_gid):  # whose files are root's in the release
        raise NotPlain
    for folder in kept:
        if folder.info.st_dev != top.st_dev:
            raise NotPlain
        if folder.path and _metadata(folder.info, top) != _metadata_of(_found(data, folder.path)[1]):
            raise NotPlain
    edits = []
    for item in changed:
        at, old = _found(data, item.path)
        mode = item.state[2] & 0o7777
        if (mode, *_owner(item.owner, top), ()) != _metadata_of(old) or old.kind != "file" or old.link is not None:
            raise NotPlain
        if old.sha256 != item.sha256:
            new = msgspec.structs.replace(old, sha256=item.sha256, size=item.state[3])
            edits.append(Edit(at, item, old, new))
    parts = _parts(last, edits)
    return Remade(data, sorted(edits, key=_at), _runs(data, last, edits), parts)


def _runs(data: bytes, last: LastSeal, edits: Sequence[Edit]) -> array[int]:
    """The lengths of runs of now.

    Raises:
        NotPlain: the last ones are not those of these bytes.
    """
    runs = array("Q", last.runs)
    begins = _begins(runs)
    if begins[-1] != len(data):
        raise NotPlain
    for edit in edits:
        runs[bisect_right(begins, edit.at) - 1] += len(trees.line(edit.new)) - len(trees.line(edit.old))
    return runs


def _begins(runs: array[int]) -> list[int]:
    """Where runs begin, and where the last one ends."""
    return list(itertools.accumulate(runs, initial=len(trees.TREE_HEADER)))


def _owner(owner: tuple[int, int], top: os.stat_result) -> tuple[int, int]:
    return folder_owner(owner[0], top.st_uid), folder_owner(owner[1], top.st_gid)


def _metadata(info: os.stat_result, top: os.stat_result) -> tuple[object, ...]:
    return (info.st_mode & 0o7777, *_owner((info.st_uid, info.st_gid), top), ())


def _metadata_of(node: Node) -> tuple[object, ...]:
    return (node.mode, node.uid, node.gid, node.xattrs)


def _found(data: bytes, path: bytes) -> tuple[int, Node]:
    """Where the line of `path` begins, and what it says."""
    place = trees.found_in(data, path)
    if place is None:
        raise NotPlain
    return place[0], trees.decode_line(data[slice(*place)])


def _parts(last: LastSeal, edits: Sequence[Edit]) -> list[Part]:
    """The parts with their sizes of now.

    Raises:
        NotPlain: the tree would be cut in another way.
    """
    parts = list(last.parts)
    folders: dict[bytes, int] = {}
    for edit in edits:
        role, more = edit.changed.role, edit.new.size - edit.old.size
        part = parts[role]
        if not part.kind or not more:
            continue
        parts[role] = msgspec.structs.replace(part, size=part.size + more)
        if part.kind == "files":
            if max(edit.old.size, edit.new.size) > strata.TARGET:
                raise NotPlain
            above = edit.new.path
            while above:
                above = trees.parent(above)
                folders[above] = folders.get(above, last.sizes[above]) + more
    for folder, size in folders.items():
        if (size <= strata.TARGET) != (last.sizes[folder] <= strata.TARGET):
            raise NotPlain
    kinds = {part.kind for part, old in zip(parts, last.parts, strict=True) if part is not old}
    was = strata.divided({(part.kind, part.key): part.size for part in last.parts if part.kind in kinds})
    if strata.divided({(part.kind, part.key): part.size for part in parts if part.kind in kinds}) != was:
        raise NotPlain
    last.sizes.update(folders)
    return parts


def table(
    remade: Remade, last: LastSeal, release: Release, root: int, files: StrataFiles, sink: BlobSink, compression: Compression
) -> tuple[Stratum, ...]:
    """The strata: those in which something changed made anew, the others as they were.

    Args:
        remade: the tree, and what of it is another.
        last: the last seal.
        release: that it made.
        root: descriptor of the source folder.
        files: all of the release's images, and the layers that are there.
        sink: takes blobs and images.
        compression: of the layers.

    Raises:
        SteleError: `seal.source-changed`, `seal.unreadable`, and those of `sink`.
    """
    found = list(release.strata)
    begins = _begins(array("Q", last.runs))
    for number in sorted({last.parts[edit.changed.role].stratum for edit in remade.edits}):
        edits = [edit for edit in remade.edits if last.parts[edit.changed.role].stratum == number]
        runs = array("I", last.members[number])
        encoded = trees.joined(piece for run in runs for piece in remade.pieces(begins[run], begins[run + 1]))
        try:
            found[number] = splice.stratum(found[number], files, edits, encoded, sink, compression)
        except splice.NotAlikeError:
            found[number] = _anew(found[number].name, edits, encoded, root, sink, compression)
    return tuple(found)


def _anew(name: str, edits: Sequence[Edit], encoded: bytes, root: int, sink: BlobSink, compression: Compression) -> Stratum:
    lines = trees.lines_of(encoded)
    nodes = tuple(map(trees.decode_line, lines))
    places: dict[str, Place] = {node.sha256: InFolder(node.path, node.size) for node in nodes if node.kind == "file"}
    places.update((edit.new.sha256, edit.changed.data) for edit in edits if edit.changed.data is not None)
    by_path = {node.path: line + b"\n" for node, line in zip(nodes, lines, strict=True)}
    with Makers(sink, Contents(places, folder=root), compression) as makers:
        return releases.begin(makers, strata.Slice(name, nodes), releases.Lines(by_path), {})()
