"""Reading /proc and an instance's files for evidence: bounded, without following, without entering. `None` where it cannot be read."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct

SYS_OPENAT2 = 437
RESOLVE_IN_ROOT = 0x10
RESOLVE_NO_MAGICLINKS = 0x02

_libc = ctypes.CDLL(None, use_errno=True)


def read(path: str, limit: int) -> bytes | None:
    """At most `limit` bytes of a /proc file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
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


def read_file(path: str, limit: int) -> bytes | None:
    """Content of a regular file behind a /proc link; anything else is not opened for reading."""
    try:
        if not os.path.isfile(path):
            return None
    except OSError:
        return None
    return read(path, limit)


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


def open_in_root(root: int, path: str, flags: int) -> int:
    """Open `path` as a process whose root is `root` would, with no way out of it (openat2 RESOLVE_IN_ROOT).

    Raises:
        OSError: as open does.
    """
    how = ctypes.create_string_buffer(struct.pack("<QQQ", flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS))
    fd: int = _libc.syscall(SYS_OPENAT2, root, os.fsencode(path), how, len(how.raw) - 1)
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return fd


def xattr_names(fd: int) -> list[str]:
    """Names of a file's extended attributes."""
    with contextlib.suppress(OSError):
        return os.listxattr(fd)
    return []


def xattr(fd: int, name: str) -> bytes:
    """One extended attribute, b"" if it is gone."""
    with contextlib.suppress(OSError):
        return os.getxattr(fd, name)
    return b""
