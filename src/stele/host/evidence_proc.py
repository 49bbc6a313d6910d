"""Reading /proc and an instance's files for evidence: bounded, without following, without entering. `None` where it cannot be read."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct

from stele.host import openat2

CONTENT = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
TMPFS_MAGIC = 0x01021994
LEASE_BREAK = "/proc/sys/fs/lease-break-time"

_libc = ctypes.CDLL(None, use_errno=True)


def read(path: str, limit: int) -> bytes | None:
    """At most `limit` bytes of a /proc file."""
    try:
        fd = os.open(path, CONTENT)
    except OSError:
        return None
    out = bytearray()
    try:
        while len(out) < limit and (data := os.read(fd, min(1 << 20, limit - len(out)))):
            out += data
    except OSError:
        return bytes(out) or None
    finally:
        os.close(fd)
    return bytes(out)


def link(path: str) -> str:
    """Target of a /proc link, "" if it cannot be read."""
    with contextlib.suppress(OSError):
        return os.readlink(path)
    return ""


def listing(path: str) -> list[str]:
    """Names in a /proc folder."""
    with contextlib.suppress(OSError):
        return os.listdir(path)
    return []


def numbers(path: str) -> list[int]:
    """Names in a /proc folder that are numbers (tasks, descriptors), in order."""
    return sorted(int(name) for name in listing(path) if name.isascii() and name.isdigit())


def open_in_root(root: int, path: str, flags: int) -> int:
    """Open `path` as a process whose root is `root` would, with no way out of it (openat2 RESOLVE_IN_ROOT).

    Raises:
        OSError: as open does.
    """
    return openat2.open_at(root, path, flags | os.O_CLOEXEC, openat2.IN_ROOT | openat2.NO_MAGICLINKS)


def open_beneath(folder: int, path: str, flags: int) -> int:
    """Open `path` below `folder`, through no symlink at all.

    Raises:
        OSError: as open does; ELOOP or EXDEV for a path that would lead elsewhere.
    """
    return openat2.open_at(folder, path, flags | os.O_CLOEXEC, openat2.BENEATH | openat2.NO_SYMLINKS | openat2.NO_MAGICLINKS)


def is_tmpfs(fd: int) -> bool:
    """Whether an open folder is on a tmpfs."""
    answer = ctypes.create_string_buffer(256)
    if _libc.fstatfs(fd, answer) < 0:
        return False
    return bool(struct.unpack_from("@l", answer)[0] == TMPFS_MAGIC)


def open_content(path: str, *, dir_fd: int | None = None, follow: bool = False) -> int:
    """Open a regular file for reading; never waits, never touches its time of access, never opens anything else.

    Args:
        path: a name in `dir_fd`, or with `follow` a link of /proc/PID/fd or map_files.
        dir_fd: the folder.
        follow: for the links of /proc.

    Raises:
        BlockingIOError: somebody holds a lease on it; the kernel ends that `lease_break_s` seconds after this call.
        OSError: as open does; EINVAL: not a regular file.
    """
    nofollow = 0 if follow else os.O_NOFOLLOW
    # asked before it is opened: opening a fifo would wait, opening a device would act
    if not stat.S_ISREG(os.stat(path, dir_fd=dir_fd, follow_symlinks=follow).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
    try:
        fd = os.open(path, CONTENT | nofollow | os.O_NOATIME, dir_fd=dir_fd)
    except PermissionError:
        fd = os.open(path, CONTENT | nofollow, dir_fd=dir_fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return fd


def lease_break_s() -> int:
    """Seconds after which the kernel takes a lease away from its holder."""
    return int(read(LEASE_BREAK, 64) or b"45")


def xattrs(fd: int) -> dict[str, bytes]:
    """A file's extended attributes; names as the file system decodes them (surrogates for what is not UTF-8)."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listxattr(fd):
            with contextlib.suppress(OSError):
                found[name] = os.getxattr(fd, name)
    return found


def extents(fd: int, size: int, most: int) -> tuple[list[tuple[int, int]], bool]:
    """Where a file has data: (offset, length) in bytes, at most `most` of them; and whether those are all."""
    found: list[tuple[int, int]] = []
    position = 0
    while position < size:
        try:
            begin = os.lseek(fd, position, os.SEEK_DATA)
            end = min(os.lseek(fd, begin, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            return [(0, size)], True  # a file system that knows no holes
        if begin >= size:
            break
        if len(found) == most:
            return found, False
        found.append((begin, end - begin))
        position = end
    return found, True
