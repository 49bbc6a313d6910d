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


class Place(NamedTuple):
    """A writable place of an instance. `fd`: a descriptor of its top folder; `is_whole`: its file system is its own."""

    instance: str
    path: str
    fd: int
    filesystem: bytes
    is_whole: bool


class Unwatched(NamedTuple):
    """What cannot be watched, and why."""

    instance: str
    path: str
    why: str


class Changes:
    """One notification group and the places it watches. `fd` can be polled. Not thread-safe.

    Raises:
        OSError: fanotify was refused.
    """

    def __init__(self) -> None:
        flags = fanotify.CLASS_NOTIF | fanotify.CLOEXEC | fanotify.NONBLOCK | fanotify.UNLIMITED_MARKS | fanotify.REPORT_PIDFD
        self.fd = fanotify.init(flags | fanotify.REPORT_FID | fanotify.REPORT_DIR_FID | fanotify.REPORT_NAME)
        self._places: dict[bytes, list[Place]] = {}
        self._namespaces: dict[str, int] = {}
        self._folders: dict[bytes, list[str]] = {}  # handle of a marked folder of a volume -> instances

    def watch(self, instance: str, pid: int, paths: dict[str, bool]) -> list[Unwatched]:
        """Watch writable paths of an instance; each is a whole file system of its own, or part of the host's.

        Returns what could not be watched.
        """
        self._namespaces[instance] = procfs.mount_namespace(pid)
        bad = []
        for path, is_whole in paths.items():
            try:
                fd = os.open(f"/proc/{pid}/root{path}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError as error:
                bad.append(Unwatched(instance, path, str(error.strerror)))
                continue
            place = Place(instance, path, fd, handles.filesystem_id(fd), is_whole)
            try:
                if is_whole:
                    flags = fanotify.MARK_ADD | fanotify.MARK_FILESYSTEM
                    fanotify.mark(self.fd, flags, _SEEN | fanotify.ONDIR, dirfd=fd, path=".")
                elif not self._mark_below(place, fd):
                    bad.append(Unwatched(instance, path, f"it has more than {MOST_FOLDERS} folders; what is beyond is not watched"))
            except OSError as error:
                bad.append(Unwatched(instance, path, str(error.strerror)))
                os.close(fd)
                continue
            self._places.setdefault(place.filesystem, []).append(place)
        return bad

    def _mark_below(self, place: Place, top: int) -> bool:
        """Mark every folder at and below `top`; False if there are too many."""
        mask = _SEEN | fanotify.ONDIR | fanotify.EVENT_ON_CHILD
        for _, _, _, folder in os.fwalk(".", dir_fd=top, follow_symlinks=False, onerror=None):
            if len(self._folders) >= MOST_FOLDERS:
                return False
            with contextlib.suppress(FileNotFoundError):
                fanotify.mark(self.fd, fanotify.MARK_ADD, mask, dirfd=folder, path=".")
                owners = self._folders.setdefault(handles.handle_of(folder), [])
                if place.instance not in owners:
                    owners.append(place.instance)
        return True

    def forget(self, instance: str) -> None:
        """Take an instance's marks back and let go of its mounts."""
        self._namespaces.pop(instance, None)
        for handle, owners in list(self._folders.items()):
            if instance in owners:
                owners.remove(instance)
                if not owners:
                    del self._folders[handle]
        for filesystem, places in list(self._places.items()):
            for place in [place for place in places if place.instance == instance]:
                places.remove(place)
                with contextlib.suppress(OSError):
                    if place.is_whole:
                        flags = fanotify.MARK_REMOVE | fanotify.MARK_FILESYSTEM
                        fanotify.mark(self.fd, flags, _SEEN | fanotify.ONDIR, dirfd=place.fd, path=".")
                os.close(place.fd)
            if not places:
                del self._places[filesystem]

    def close(self) -> None:
        """Let go of everything."""
        for places in self._places.values():
            for place in places:
                os.close(place.fd)
        self._places.clear()
        os.close(self.fd)

    # ---- events ------------------------------------------------------------------------------

    def read(self, is_full: Callable[[str], bool]) -> Iterator[Report | None]:
        """Reports of what happened since; None when events were lost.

        Args:
            is_full: whether reports of an instance are only counted at present, so that nothing needs to be looked up.
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
                    yield from self._tell(event, event.parent, now, is_full)
            finally:
                if event.pidfd >= 0:
                    os.close(event.pidfd)

    def _tell(self, event: Event, parent: Handle, now: int, is_full: Callable[[str], bool]) -> Iterator[Report]:
        place = self._place_of(event, parent)
        if place is None:
            return
        if is_full(place.instance) and not event.mask & fanotify.ONDIR:
            yield Report(instance=place.instance, kind="change", seen=now, decided=now)
            return
        path, detail = self._look(place, event, parent)
        detail["what"] = ", ".join(word for bit, word in _WORDS if event.mask & bit)
        if event.new is not None:
            detail["from"] = path
            path, more = self._look(place, event, event.new)
            detail.update(more)
        # the process is named only if its descriptor was there: then the number still meant the same
        known = event.pidfd >= 0
        yield Report(
            instance=place.instance,
            kind="change",
            path=clean(path),
            pid=event.pid if known else 0,
            comm=clean(procfs.comm(event.pid)) if known else "",
            exe=clean(procfs.exe(event.pid)) if known else "",
            seen=now,
            decided=now,
            detail={key: clean(value, 512) for key, value in detail.items()},
        )

    def _place_of(self, event: Event, parent: Handle) -> Place | None:
        """The place that an event is about: by file system; where instances share one, by the actor's mount namespace."""
        candidates = self._places.get(parent.fsid, [])
        if candidates and candidates[0].is_whole:
            return candidates[0]
        owners = self._folders.get(parent.data, [])
        candidates = [place for place in candidates if place.instance in owners]
        if len(candidates) > 1 and event.pidfd >= 0:
            namespace = procfs.mount_namespace(event.pid)
            candidates = [place for place in candidates if self._namespaces.get(place.instance) == namespace] or candidates
        return candidates[-1] if candidates else None

    def _look(self, place: Place, event: Event, handle: Handle) -> tuple[str, dict[str, str]]:
        """The path inside the instance, and what is remarkable about what lies there now."""
        try:
            folder = handles.open_handle(place.fd, handle.kind, handle.data)
        except OSError:
            return f"{place.path}/…/{handle.name}", {}  # its folder is gone already
        try:
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), handle.name)
            if event.mask & fanotify.ONDIR and event.mask & (fanotify.CREATE | fanotify.RENAME) and not place.is_whole:
                self._follow_new_folder(place, folder, handle.name)
            if event.mask & fanotify.DELETE:
                return path, {}
            return path, _remarks(folder, handle.name)
        finally:
            os.close(folder)

    def _follow_new_folder(self, place: Place, parent: int, name: str) -> None:
        with contextlib.suppress(OSError):
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                self._mark_below(place, fd)
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
