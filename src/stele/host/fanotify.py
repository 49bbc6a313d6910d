"""fanotify: groups, marks, events (fanotify(7), linux/fanotify.h). The one doorway to it.

Permission groups (class CONTENT) give an open descriptor with each event and wait for an answer; notification groups
give file handles, names and pidfds. The kernel does not combine the two (EINVAL), so there are two kinds of group.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import termios
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

# fanotify_init flags
CLOEXEC, NONBLOCK = 0x1, 0x2
CLASS_NOTIF, CLASS_CONTENT = 0x0, 0x4
UNLIMITED_QUEUE, UNLIMITED_MARKS = 0x10, 0x20
REPORT_PIDFD, REPORT_TID, REPORT_FID, REPORT_DIR_FID, REPORT_NAME, REPORT_TARGET_FID = 0x80, 0x100, 0x200, 0x400, 0x800, 0x1000

# fanotify_mark flags
MARK_ADD, MARK_REMOVE, MARK_ONLYDIR, MARK_FLUSH = 0x1, 0x2, 0x8, 0x80
MARK_IGNORED_SURV_MODIFY, MARK_EVICTABLE, MARK_IGNORE = 0x40, 0x200, 0x400
MARK_INODE, MARK_MOUNT, MARK_FILESYSTEM = 0x0, 0x10, 0x100

# events
ACCESS, MODIFY, ATTRIB, CLOSE_WRITE = 0x1, 0x2, 0x4, 0x8
MOVED_FROM, MOVED_TO, CREATE, DELETE, DELETE_SELF, MOVE_SELF = 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
OPEN_EXEC, Q_OVERFLOW, FS_ERROR = 0x1000, 0x4000, 0x8000
OPEN_PERM, ACCESS_PERM, OPEN_EXEC_PERM = 0x10000, 0x20000, 0x40000
EVENT_ON_CHILD, RENAME, ONDIR = 0x0800_0000, 0x1000_0000, 0x4000_0000
PERMISSION = OPEN_PERM | ACCESS_PERM | OPEN_EXEC_PERM

ALLOW, DENY = 1, 2
NOFD = -1
AT_FDCWD = -100
EVENT_SIZE = 24  # struct fanotify_event_metadata
_METADATA = struct.Struct("<IBBHQii")
_RESPONSE = struct.Struct("<iI")
_INFO_HEADER = struct.Struct("<BBH")
_VERSION = 3
_INFO_FID, _INFO_DFID_NAME, _INFO_DFID, _INFO_PIDFD, _INFO_OLD_DFID_NAME, _INFO_NEW_DFID_NAME = 1, 2, 3, 4, 10, 12

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fanotify_mark.argtypes = [ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p]


class Handle(NamedTuple):
    """A file handle: file system id, type, opaque bytes; with the name that was given beside it."""

    fsid: bytes
    kind: int
    data: bytes
    name: str


class Event(NamedTuple):
    """One event. `fd` is -1 in groups that report handles; `pid` as seen from the reader; `pidfd` -1 if unknown."""

    mask: int
    fd: int
    pid: int
    pidfd: int
    parent: Handle | None  # directory and name (DFID_NAME), or the directory alone
    target: Handle | None  # the object itself (FID)
    new: Handle | None  # where a rename led


class Malformed(ValueError):  # noqa: N818  a bad buffer, not a user's error
    """The buffer does not have the form of fanotify events."""


def init(flags: int, event_flags: int = os.O_RDONLY | os.O_CLOEXEC | os.O_LARGEFILE) -> int:
    """fanotify_init(2); raises OSError."""
    fd = int(_libc.fanotify_init(ctypes.c_uint(flags), ctypes.c_uint(event_flags)))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"fanotify_init: {os.strerror(number)}")
    return fd


def mark(group: int, flags: int, mask: int, *, path: str | None = None, dirfd: int = AT_FDCWD) -> None:
    """fanotify_mark(2): `path` from `dirfd`, or `dirfd` itself without a path. Raises OSError."""
    encoded = None if path is None else os.fsencode(path)
    if _libc.fanotify_mark(group, flags, mask, dirfd, encoded) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"fanotify_mark {path or dirfd}: {os.strerror(number)}")


def answer(group: int, fd: int, verdict: int) -> None:
    """Answer a permission event by the number of its descriptor. ENOENT: nobody waits for that number."""
    os.write(group, _RESPONSE.pack(fd, verdict))


def backlog(group: int) -> int:
    """Bytes of events that wait to be read; the kernel counts them one by one, so ask seldom."""
    count = bytearray(4)
    fcntl.ioctl(group, termios.FIONREAD, count)
    return int.from_bytes(count, "little")


def parse(data: bytes) -> Iterator[Event]:
    """Split what was read from a group into events.

    Raises:
        Malformed: lengths that contradict each other, or another version of the structure.
    """
    at = 0
    while at < len(data):
        if len(data) - at < EVENT_SIZE:
            raise Malformed("a cut event")
        length, version, _, head, mask, fd, pid = _METADATA.unpack_from(data, at)
        if version != _VERSION or length < EVENT_SIZE or head != EVENT_SIZE or at + length > len(data):
            raise Malformed("an event with impossible lengths or of another version")
        if length == EVENT_SIZE:
            yield Event(mask, fd, pid, -1, None, None, None)
        else:
            yield _with_infos(data[at + EVENT_SIZE : at + length], mask, fd, pid)
        at += length


def _with_infos(data: bytes, mask: int, fd: int, pid: int) -> Event:
    pidfd = -1
    parent: Handle | None = None
    target: Handle | None = None
    new: Handle | None = None
    at = 0
    while at < len(data):
        if len(data) - at < _INFO_HEADER.size:
            raise Malformed("a cut information record")
        kind, _, length = _INFO_HEADER.unpack_from(data, at)
        if length < _INFO_HEADER.size or at + length > len(data):
            raise Malformed("an information record with an impossible length")
        body = data[at + _INFO_HEADER.size : at + length]
        if kind == _INFO_PIDFD:
            if len(body) < 4:
                raise Malformed("a cut pidfd")
            (pidfd,) = struct.unpack_from("<i", body)
        elif kind == _INFO_FID:
            target = _handle(body, named=False)
        elif kind in (_INFO_DFID_NAME, _INFO_OLD_DFID_NAME):
            parent = _handle(body, named=True)
        elif kind == _INFO_DFID:
            parent = parent or _handle(body, named=False)
        elif kind == _INFO_NEW_DFID_NAME:
            new = _handle(body, named=True)
        at += length
    return Event(mask, fd, pid, pidfd, parent, target, new)


def _handle(body: bytes, *, named: bool) -> Handle:
    if len(body) < 16:
        raise Malformed("a cut file handle")
    size, kind = struct.unpack_from("<Ii", body, 8)
    if size > len(body) - 16:
        raise Malformed("a file handle with an impossible length")
    end = 16 + size
    name = os.fsdecode(body[end:].split(b"\0", 1)[0]) if named else ""
    return Handle(bytes(body[:8]), kind, bytes(body[16:end]), name)
