"""The immutable flag of files (`chattr +i`, ioctl_iflags(2)).

Once it is set, nobody writes to the file, not even through descriptors opened earlier, and nobody renames or removes it;
only root can clear it, which changes the file's ctime. Not every file system has it, and only root may set it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_GETFLAGS = 0x80086601  # _IOR('f', 1, long); the kernel moves 4 bytes all the same
_SETFLAGS = 0x40086602
_IMMUTABLE = 0x10
_CANNOT = {errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.EROFS}


def _flags(fd: int) -> int:
    buffer = bytearray(8)
    fcntl.ioctl(fd, _GETFLAGS, buffer)
    return int(struct.unpack_from("=I", buffer)[0])


def is_immutable(fd: int) -> bool:
    """Whether an open file has the flag."""
    try:
        return bool(_flags(fd) & _IMMUTABLE)
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise


def change(fd: int, *, immutable: bool) -> bool:
    """Set or clear the flag of an open file (read access is enough); returns whether it is as wanted.

    False: the file system has no such flag, or this user may not set it.

    Raises:
        OSError: for every other reason.
    """
    try:
        flags = _flags(fd)
        if bool(flags & _IMMUTABLE) != immutable:
            fcntl.ioctl(fd, _SETFLAGS, struct.pack("=Q", flags ^ _IMMUTABLE))
    except OSError as error:
        if error.errno in _CANNOT:
            return is_immutable(fd) == immutable
        raise
    return is_immutable(fd) == immutable


def is_possible(folder: Path) -> bool:
    """Whether this user may set the flag of files in a folder; tried on one without a name."""
    try:
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        return change(fd, immutable=True)
    finally:
        change(fd, immutable=False)
        os.close(fd)


def make_mutable(path: Path) -> bool:
    """Clear the flag of a file so that it can be removed; False if that is not possible. No file is fine."""
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return change(fd, immutable=False)
        finally:
            os.close(fd)
    return True
