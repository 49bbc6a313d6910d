"""Applying the layers of an image to a tree in memory (OCI image-spec, layer.md).

A layer is a set of changes, not a script: deletions apply to lower layers only, whatever their order in the tar;
additions apply parents first; hard links last. What depends on an order, or reaches through a symlink, is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.model.tree import parent, quote
from stele.seal.inode import Inode, Notes
from stele.seal.normalise import kept_xattrs
from stele.seal.sources.tar import WHITEOUT
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.seal.sources.spool import Spool
    from stele.seal.sources.tar import Entry, TarReader

META = b".wh..wh."  # AUFS bookkeeping, of which only the opaque mark means something
OPAQUE = b".wh..wh..opq"


def _refused(code: str, reason: str) -> SteleError:
    return SteleError(
        f"the layer is refused: {reason}",
        remedy="an ordinary image builder does not make such layers; build the image again, or look at who made it",
        code=code,
    )


def read_layer(tar: TarReader, spool: Spool, notes: Notes) -> tuple[list[Entry], dict[int, Inode]]:
    """Read all members of one layer; returns them and, by `Entry.at`, the inodes of those that are not hard links.

    Raises:
        SteleError: those of `TarReader`, `seal.no-room`, `seal.bad-xattr`.
    """
    entries = []
    inodes: dict[int, Inode] = {}
    for entry in tar:
        entries.append(entry)
        if entry.kind == "link":
            continue
        inode = Inode(
            kind=entry.kind,
            mode=entry.mode,
            uid=entry.uid,
            gid=entry.gid,
            mtime=entry.mtime,
            size=entry.size,
            target=entry.target,
            rdev=entry.rdev,
        )
        if entry.xattrs and entry.kind in {"file", "dir"}:
            inode.xattrs = kept_xattrs(entry.path, entry.xattrs, notes)
        if entry.kind == "file":
            inode.sha256, inode.compiled = spool.add(tar.data(), entry.size)
        inodes[entry.at] = inode
    return entries, inodes


def apply_layer(root: Inode, number: int, entries: list[Entry], inodes: dict[int, Inode]) -> None:
    """Change the tree below `root` by one layer.

    Args:
        root: the root directory of the layers below, changed in place.
        number: of this layer, from 1.
        entries: the layer's members in their order.
        inodes: from `read_layer`.

    Raises:
        SteleError: `seal.symlink-ancestor`, `seal.bad-link`, `seal.duplicate-entry`, `seal.reserved-name`.
    """
    additions: dict[bytes, Entry] = {}
    marks: list[Entry] = []
    for entry in entries:
        name = entry.path.rpartition(b"/")[2]
        if any(part.startswith(WHITEOUT) for part in parent(entry.path).split(b"/")):
            if not any(part.startswith(META) for part in parent(entry.path).split(b"/")):
                raise _refused("seal.reserved-name", f"/{quote(entry.path)[:300]} lies below a deletion mark")
            continue  # AUFS bookkeeping
        if name.startswith(WHITEOUT):
            marks.append(entry)
            continue
        before = additions.get(entry.path)
        if before is None:
            additions[entry.path] = entry
        elif not _same_directory(before, entry, inodes):
            raise _refused("seal.duplicate-entry", f"/{quote(entry.path)[:300]} appears twice, and readers differ in which one counts")
    for mark in marks:
        _delete(root, mark, additions)
    layer = _Layer(root, number, additions, inodes)
    for path in sorted(additions):
        if additions[path].kind != "link":
            layer.add(path, inodes[additions[path].at])
    for entry in entries:  # in their order, so that a link to a link finds its target made
        if entry.kind == "link" and additions.get(entry.path) is entry:
            layer.link(entry)


def _same_directory(one: Entry, other: Entry, inodes: dict[int, Inode]) -> bool:
    if one.kind != "dir" or other.kind != "dir":
        return False
    a, b = inodes[one.at], inodes[other.at]
    return (a.mode, a.uid, a.gid, a.mtime, a.xattrs) == (b.mode, b.uid, b.gid, b.mtime, b.xattrs)


def _delete(root: Inode, mark: Entry, additions: dict[bytes, Entry]) -> None:
    """Apply one whiteout or opaque mark to the layers below."""
    above, _, name = mark.path.rpartition(b"/")
    if name.startswith(META) and name != OPAQUE:
        return
    if mark.kind not in {"file", "link"}:
        raise _refused("seal.reserved-name", f"the deletion mark /{quote(mark.path)[:300]} is a {mark.kind}")
    victim = name[len(WHITEOUT) :]
    if name != OPAQUE and victim in {b"", b".", b".."}:
        raise _refused("seal.path-escapes", f"the deletion mark /{quote(mark.path)[:300]} names no file of its folder")
    folder = root
    walked = b""
    for part in above.split(b"/") if above else ():
        walked = walked + b"/" + part if walked else part
        inner = folder.children.get(part)
        if inner is None:
            return
        if inner.kind != "dir":
            own = additions.get(walked)
            if own is not None and own.kind == "dir":
                return  # this layer puts a directory in its place, in which nothing is from below
            raise _refused("seal.symlink-ancestor", f"the deletion mark /{quote(mark.path)[:300]} reaches through a {inner.kind}")
        folder = inner
    if name == OPAQUE:
        folder.children = {}
    else:
        folder.children.pop(victim, None)


class _Layer:
    """The additions of one layer on their way into the tree."""

    def __init__(self, root: Inode, number: int, additions: dict[bytes, Entry], inodes: dict[int, Inode]) -> None:
        self.root = root
        self.number = number
        self.additions = additions
        self.inodes = inodes

    def add(self, path: bytes, new: Inode) -> None:
        """Put an inode at `path`, keeping the children of a directory that becomes a directory."""
        new.layer = self.number
        if not path:
            self._describe(self.root, new)
            return
        folder = self._folder(path)
        name = path.rpartition(b"/")[2]
        present = folder.children.get(name)
        if present is not None and present.kind == "dir" and new.kind == "dir":
            self._describe(present, new)
        else:
            folder.children[name] = new

    def link(self, entry: Entry) -> None:
        """Make one hard link; its target must come earlier in the layer or from a layer below."""
        own = self.additions.get(entry.target)
        if own is not None and own.at >= entry.at:
            raise self._bad_link(entry, "does not come before it in the layer")
        inode = self._find(entry)
        self._folder(entry.path).children[entry.path.rpartition(b"/")[2]] = inode

    def _describe(self, present: Inode, new: Inode) -> None:
        present.mode, present.uid, present.gid, present.mtime = new.mode, new.uid, new.gid, new.mtime
        present.xattrs, present.layer = new.xattrs, new.layer

    def _folder(self, path: bytes) -> Inode:
        """The directory that `path` is in; missing ones are made, others than directories refused."""
        folder = self.root
        walked = b""
        for part in path.split(b"/")[:-1]:
            walked = walked + b"/" + part if walked else part
            own = self.additions.get(walked)
            inner = folder.children.get(part)
            if inner is None and (own is None or own.kind == "dir"):
                inner = folder.children[part] = Inode(kind="dir", layer=self.number)
            if inner is None or inner.kind != "dir" or (own is not None and own.kind != "dir"):
                kind = own.kind if own is not None else inner.kind if inner is not None else "missing"
                raise _refused("seal.symlink-ancestor", f"/{quote(path)[:300]} lies below /{quote(walked)[:300]}, which is a {kind}")
            folder = inner
        return folder

    def _find(self, entry: Entry) -> Inode:
        inode = self.root
        for part in entry.target.split(b"/"):
            inner = inode.children.get(part) if inode.kind == "dir" else None
            if inner is None:
                through = "" if inode.kind == "dir" else f" (it reaches through a {inode.kind})"
                raise self._bad_link(entry, f"is not in the image{through}")
            inode = inner
        if inode.kind == "dir":
            raise self._bad_link(entry, "is a directory")
        return inode

    @staticmethod
    def _bad_link(entry: Entry, why: str) -> SteleError:
        return _refused("seal.bad-link", f"/{quote(entry.path)[:300]} is a hard link to /{quote(entry.target)[:300]}, which {why}")
