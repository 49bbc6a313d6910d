"""Changes on writable places, by fanotify with file handles: created, written, deleted, renamed, other modes."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from typing import TYPE_CHECKING, NamedTuple

from stele.host import fanotify, handles, procfs
from stele.model.report import Report, clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stele.host.fanotify import Event, Handle

_SEEN = fanotify.CREATE | fanotify.CLOSE_WRITE | fanotify.DELETE | fanotify.RENAME | fanotify.ATTRIB
_WORDS = (
    (fanotify.RENAME, "renamed"),
    (fanotify.DELETE, "deleted"),
    (fanotify.CREATE, "created"),
    (fanotify.CLOSE_WRITE, "written"),
    (fanotify.ATTRIB, "mode, owner or times"),
)
_READ = 1 << 16
MOST_FOLDERS = 20_000  # of one volume, each with a mark of its own
MOST_BACKLOG = 32 << 20  # bytes of unread events; beyond, the group is given up


class Place(NamedTuple):
    """A writable place. `fd`: a descriptor of its top folder; `is_whole`: its file system is the instance's own."""

    path: str
    fd: int
    is_whole: bool


class Unwatched(NamedTuple):
    """What cannot be watched, and why."""

    path: str
    why: str


class Changes:
    """One instance's notification group and the places it watches. `fd` can be polled. Not thread-safe.

    A group each, so that a flood in one instance costs only its own events. The queue has no limit of its own; see `is_behind`.

    Args:
        instance: its id.
        pid: a process in its mount namespace.
        paths: writable path -> whether it is a whole file system of the instance's own, or else part of the host's.
        is_anothers: whether a mount namespace is that of another instance, whose changes on a shared volume it tells itself.

    Raises:
        OSError: fanotify was refused.
    """

    def __init__(self, instance: str, pid: int, paths: dict[str, bool], is_anothers: Callable[[int], bool]) -> None:
        flags = fanotify.CLASS_NOTIF | fanotify.CLOEXEC | fanotify.NONBLOCK | fanotify.UNLIMITED_MARKS | fanotify.UNLIMITED_QUEUE
        flags |= fanotify.REPORT_PIDFD | fanotify.REPORT_FID | fanotify.REPORT_DIR_FID | fanotify.REPORT_NAME
        self.fd = fanotify.init(flags)
        self.instance = instance
        self.unwatched: list[Unwatched] = []
        self._is_anothers = is_anothers
        self._own = procfs.mount_namespace(pid)
        self._places: dict[bytes, list[Place]] = {}
        self._folders: set[bytes] = set()
        for path, is_whole in paths.items():
            self._watch(pid, path, is_whole=is_whole)

    def _watch(self, pid: int, path: str, *, is_whole: bool) -> None:
        try:
            fd = os.open(f"/proc/{pid}/root{path}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            self.unwatched.append(Unwatched(path, str(error.strerror)))
            return
        place = Place(path, fd, is_whole)
        try:
            if is_whole:
                fanotify.mark(self.fd, fanotify.MARK_ADD | fanotify.MARK_FILESYSTEM, _SEEN | fanotify.ONDIR, dirfd=fd, path=".")
            elif not self._mark_below(fd):
                self.unwatched.append(Unwatched(path, f"it has more than {MOST_FOLDERS} folders; what is beyond is not watched"))
            self._places.setdefault(handles.filesystem_id(fd), []).append(place)
        except OSError as error:
            self.unwatched.append(Unwatched(path, str(error.strerror)))
            os.close(fd)

    def _mark_below(self, top: int) -> bool:
        """Mark every folder at and below `top`; False if there are too many."""
        mask = _SEEN | fanotify.ONDIR | fanotify.EVENT_ON_CHILD
        for _, _, _, folder in os.fwalk(".", dir_fd=top, follow_symlinks=False, onerror=None):
            if len(self._folders) >= MOST_FOLDERS:
                return False
            with contextlib.suppress(FileNotFoundError):
                fanotify.mark(self.fd, fanotify.MARK_ADD, mask, dirfd=folder, path=".")
                self._folders.add(handles.handle_of(folder))
        return True

    def is_behind(self) -> bool:
        """Whether so much is unread that memory is at stake: then what happens is no longer known, and that is an incident."""
        return fanotify.backlog(self.fd) > MOST_BACKLOG

    def close(self) -> None:
        """Let go of every mark and mount."""
        for places in self._places.values():
            for place in places:
                os.close(place.fd)
        self._places.clear()
        os.close(self.fd)

    # ---- events ------------------------------------------------------------------------------

    def read(self, *, is_full: bool) -> Iterator[Report | None]:
        """Reports of what happened since; None when events were lost.

        Args:
            is_full: reports are only counted at present, so that nothing needs to be looked up.
        """
        try:
            data = os.read(self.fd, _READ)
        except BlockingIOError:
            return
        now = time.monotonic_ns()
        for event in fanotify.parse(data):
            try:
                if event.mask & fanotify.Q_OVERFLOW:
                    yield None
                elif event.parent is not None:
                    yield from self._tell(event, event.parent, now, is_full=is_full)
            finally:
                if event.pidfd >= 0:
                    os.close(event.pidfd)

    def _tell(self, event: Event, parent: Handle, now: int, *, is_full: bool) -> Iterator[Report]:
        places = [place for place in self._places.get(parent.fsid, []) if place.is_whole or parent.data in self._folders]
        if not places:
            return
        if is_full and not event.mask & fanotify.ONDIR:
            yield Report(instance=self.instance, kind="change", seen=now, decided=now)
            return
        # the process is named only if its descriptor was there: then the number still meant the same
        known = event.pidfd >= 0
        namespace = procfs.mount_namespace(event.pid) if known else 0
        if namespace not in (0, self._own) and self._is_anothers(namespace):
            return
        path, detail = self._look(places, event, parent)
        detail["what"] = ", ".join(word for bit, word in _WORDS if event.mask & bit)
        if event.new is not None:
            detail["from"] = path
            path, more = self._look(places, event, event.new)
            detail.update(more)
        if namespace not in (0, self._own):
            detail["by"] = "a process outside the instance"
        yield Report(
            instance=self.instance,
            kind="change",
            path=clean(path),
            pid=event.pid if known else 0,
            comm=clean(procfs.comm(event.pid)) if known else "",
            exe=clean(procfs.exe(event.pid)) if known else "",
            seen=now,
            decided=now,
            detail={key: clean(value, 512) for key, value in detail.items()},
        )

    def _look(self, places: list[Place], event: Event, handle: Handle) -> tuple[str, dict[str, str]]:
        """The path inside the instance, and what is remarkable about what lies there now.

        Volumes of one file system differ only by mount: the right one is that through which the folder has a name below its top.
        """
        for place in places:
            try:
                folder = handles.open_handle(place.fd, handle.kind, handle.data)
            except OSError:
                continue  # its folder is gone already
            try:
                path = os.readlink(f"/proc/self/fd/{folder}")
                if path != place.path and not path.startswith(place.path + "/"):
                    continue
                path = os.path.join(path, handle.name)
                if event.mask & fanotify.ONDIR and event.mask & (fanotify.CREATE | fanotify.RENAME) and not place.is_whole:
                    self._follow_new_folder(folder, handle.name)
                return path, {} if event.mask & fanotify.DELETE else _remarks(folder, handle.name)
            finally:
                os.close(folder)
        return f"{places[0].path}/…/{handle.name}", {}

    def _follow_new_folder(self, parent: int, name: str) -> None:
        with contextlib.suppress(OSError):
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                self._mark_below(fd)
            finally:
                os.close(fd)


def _remarks(folder: int, name: str) -> dict[str, str]:
    """Whether a regular file looks like a program: by its mode and its first bytes."""
    found = {}
    try:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return {}
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            return {}
        if mode & 0o111:
            found["mode"] = f"{stat.S_IMODE(mode):04o}"
        reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOATIME | os.O_CLOEXEC)
        try:
            head = os.read(reader, 4)
        finally:
            os.close(reader)
        if head == b"\x7fELF":
            found["looks"] = "a program (ELF)"
        elif head.startswith(b"#!"):
            found["looks"] = "a script (#!)"
    except OSError:
        pass
    finally:
        os.close(fd)
    return found
