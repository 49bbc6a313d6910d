"""A folder as source: walked by descriptors, never following a symlink, noticing what changes meanwhile."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from stele.host import states
from stele.host.below import open_below
from stele.host.states import State
from stele.model.names import name_fault
from stele.model.tree import Kind, quote
from stele.seal.contents import Contents, InFolder, InRoom, Place, changed, unreadable
from stele.seal.hands import Hands
from stele.seal.inode import Inode, Notes
from stele.seal.normalise import MOUNT_POINTS, folder_owner, is_kept_xattr, kept_xattrs, tree_of
from stele.seal.sources.reading import READ, Found, Reader, Reading, Wanted
from stele.seal.sources.source import Source
from stele.seal.sources.statcache import Known, Listed, StatCache
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from pathlib import Path

SMALL = 128 << 10  # bytes up to which a file is kept
KEPT = 64 << 20  # bytes of small files kept in memory, so that they are read once
_KINDS: dict[int, Kind] = {
    stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink", stat.S_IFCHR: "char", stat.S_IFBLK: "block", stat.S_IFIFO: "fifo"
}  # fmt: skip
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK


def load(folder: Path, *, time: int, cache: StatCache | None = None, data: bool = False, hands: Hands | None = None) -> Source:
    """Read a folder. `cache`: says of files what they hold, and is told. `data`: as in `tree_of`. `hands`: help.

    Raises:
        SteleError: `seal.source-missing`, `seal.unreadable`, `seal.source-changed`, and those of `normalise.tree_of`.
    """
    try:
        root = os.open(folder, _DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SteleError(
            f"the source folder {folder} cannot be opened: {error.strerror}",
            remedy="give the path of a folder that you may read",
            code="seal.source-missing",
        ) from error
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, root)
        walk = _Walk(root, cache or StatCache(), data=data)
        with contextlib.nullcontext(hands) if hands else Hands() as helping:
            top = walk.run(helping)
        tree = tree_of(top, time=time, notes=walk.notes, data=data)
        undo.pop_all()
        return Source(tree=tree, contents=Contents(walk.places, folder=root, room=walk.room), kind="folder", notes=walk.notes.lines())


class _Waiting(NamedTuple):
    """A file that is being read. `at`: where it goes in the room, -1: nowhere. `number`: of the entry in `listed` that it is."""

    inode: Inode
    path: bytes
    state: State
    at: int
    listed: Listed
    number: int


class _Walk:
    """One pass over a folder."""

    def __init__(self, root: int, cache: StatCache, *, data: bool) -> None:
        info = os.fstat(root)
        self.root = root
        self.cache = cache
        self.emptied = () if data else MOUNT_POINTS
        self.device = info.st_dev
        self.owner, self.group = cache.owner = info.st_uid, info.st_gid
        self.notes = Notes()
        self.places: dict[str, Place] = {}
        self.kept = 0
        self.linked: dict[tuple[int, int], Inode] = {}
        self.directories: list[tuple[bytes, State]] = []
        self.waiting: list[_Waiting] = []
        room = mmap.mmap(-1, max(KEPT, mmap.PAGESIZE))  # shared with helpers
        self.room = memoryview(room)
        self.reader = Reader(root, room)

    def run(self, hands: Hands) -> Inode:
        """Walk; returns the root directory."""
        top = self._inode("dir", os.fstat(self.root))
        pending = [(b"", top)]
        hands.root, hands.room = self.root, self.room
        hands.serve(READ, self.reader.serve)
        with Reading(self.reader, hands) as self.reading:
            while pending:
                path, inode = pending.pop()
                pending += self._directory(path, inode)
            for waiting, found in zip(self.waiting, self.reading.results(), strict=True):
                self._read(waiting, found or self.reader.one(waiting.path, waiting.state, waiting.at))
        for path, was in self.directories:
            self._compare(path, was)
        return top

    def _skip(self, path: bytes) -> None:
        """A mount point's content is not sealed; only say so if there is some."""
        with contextlib.suppress(OSError):
            fd = open_below(self.root, path, _DIRECTORY)
            try:
                with os.scandir(fd) as entries:
                    if next(entries, None) is not None:
                        self.notes.add(f"content of /{path.decode()} left out (mounted afresh at run time)")
            finally:
                os.close(fd)

    def _directory(self, path: bytes, inode: Inode) -> list[tuple[bytes, Inode]]:
        """Read one directory; returns the directories in it."""
        try:
            fd = open_below(self.root, path, _DIRECTORY)
        except PermissionError as error:
            raise unreadable(path, error) from error
        except OSError as error:
            raise changed(path) from error
        inner = []
        try:
            info = os.fstat(fd)
            self.directories.append((path, states.of(info)))
            if info.st_dev != self.device:
                self.notes.add("another file system is mounted here; its content is sealed too", path)
            inode.xattrs = self._xattrs(fd, path)
            try:
                names = [os.fsencode(name) for name in os.listdir(fd)]
            except PermissionError as error:
                raise unreadable(path, error) from error
            prefix = path + b"/" if path else b""
            listed = Listed(path, states.of(info))
            self.cache.folders.append(listed)
            self.reading.folder(path)
            for name in names:
                below = _stat(fd, name, prefix + name)
                state = states.of(below)
                child = self._entry(fd, name, prefix + name, below, state, listed)
                if child is not None:
                    inode.children[name] = child
                    if child.kind == "dir" and prefix + name not in self.emptied:
                        inner.append((prefix + name, child))
                        continue
                    if child.kind == "dir":
                        self._skip(prefix + name)
                listed.add(name, state, plain=child is not None and below.st_nlink == 1 and _is_plain(child))
        finally:
            os.close(fd)
        return inner

    def _entry(self, folder: int, name: bytes, path: bytes, info: os.stat_result, state: State, listed: Listed) -> Inode | None:
        if len(path) > 4095:  # before the pending list is filled with what cannot be sealed
            raise SteleError(f"the path /{quote(path)[:300]}… {name_fault(path)}", remedy="rename it in the source", code="seal.bad-name")
        kind = _kind(info.st_mode)
        if kind is None:
            self.notes.add("sockets left out", path)
            return None
        if kind == "dir":
            return self._inode(kind, info)
        if info.st_nlink > 1:
            known = self.linked.get((info.st_dev, info.st_ino))
            if known is not None:
                return known
        inode = self._inode(kind, info)
        if info.st_nlink > 1:
            self.linked[info.st_dev, info.st_ino] = inode
        if kind == "file":
            self._file(name, path, inode, state, listed)
        elif kind == "symlink":
            try:
                inode.target = os.readlink(name, dir_fd=folder)
            except OSError as error:
                raise changed(path) from error
        elif kind in {"char", "block"}:
            inode.rdev = (os.major(info.st_rdev), os.minor(info.st_rdev))
        return inode

    def _inode(self, kind: Kind, info: os.stat_result) -> Inode:
        return Inode(
            kind=kind,
            mode=stat.S_IMODE(info.st_mode),
            uid=folder_owner(info.st_uid, self.owner),
            gid=folder_owner(info.st_gid, self.group),
            mtime=info.st_mtime_ns // 1_000_000_000,
            size=info.st_size if kind == "file" else 0,
        )

    def _file(self, name: bytes, path: bytes, inode: Inode, state: State, listed: Listed) -> None:
        known = self.cache.find(path, state)
        if known is not None:
            inode.sha256, inode.compiled = known.sha256, known.compiled
            self.places.setdefault(known.sha256, InFolder(path, inode.size))
            return
        at = -1
        if inode.size <= SMALL and self.kept + inode.size <= KEPT:
            at = self.kept
            self.kept += inode.size
        self.waiting.append(_Waiting(inode, path, state, at, listed, len(listed.names)))
        self.reading.add(Wanted(name, state, at))

    def _read(self, waiting: _Waiting, found: Found) -> None:
        """What a file holds is known now."""
        inode, path = waiting.inode, waiting.path
        inode.sha256, inode.compiled = found.sha256, found.compiled
        if found.xattrs:
            inode.xattrs = kept_xattrs(path, found.xattrs, self.notes)
        if not _is_plain(inode):
            waiting.listed.plain[waiting.number] = False
        self._record(path, inode, waiting.state)
        here = InFolder(path, inode.size) if waiting.at < 0 else InRoom(waiting.at, inode.size)
        self.places.setdefault(inode.sha256, here)

    def _record(self, path: bytes, inode: Inode, state: State) -> None:
        if not inode.xattrs:  # those with any are few, and read again
            self.cache.record(path, Known(state, inode.sha256, inode.compiled))

    def _xattrs(self, fd: int, path: bytes) -> dict[bytes, bytes]:
        try:
            names = os.listxattr(fd)
        except OSError:
            return {}  # a file system without xattrs
        if not names:
            return {}
        raw = {}
        for text in names:
            name = os.fsencode(text)
            try:
                raw[name] = os.getxattr(fd, text) if is_kept_xattr(name) else b""
            except OSError as error:
                raise unreadable(path, error) from error
        return kept_xattrs(path, raw, self.notes)

    def _compare(self, path: bytes, before: State) -> None:
        try:
            fd = open_below(self.root, path, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            raise changed(path) from error
        try:
            if states.of(os.fstat(fd)) != before:
                raise changed(path)
        finally:
            os.close(fd)


def _stat(folder: int, name: bytes, path: bytes) -> os.stat_result:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError as error:
        raise changed(path) from error
    except PermissionError as error:
        raise unreadable(path, error) from error


def _is_plain(inode: Inode) -> bool:
    """Whether nothing but its content says anything: then other bytes in it change its own line of the tree alone."""
    return inode.kind == "file" and inode.size > 0 and not inode.xattrs and inode.compiled is None


def _kind(mode: int) -> Kind | None:
    """The kind of node, None for a socket."""
    return _KINDS.get(stat.S_IFMT(mode))
