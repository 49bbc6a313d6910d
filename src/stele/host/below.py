"""Opening what lies below a folder without ever leaving it: no component of the path may be a symlink."""

from __future__ import annotations

import errno
import os
import sys

from stele.host import openat2

_missing = sys.platform != "linux"  # openat2(2)


def open_below(root: int, path: bytes, flags: int) -> int:
    """Open `path` (relative, no '.' or '..'; b"": the folder itself) below the folder descriptor `root`.

    No component is followed where it is a symlink, so neither a symlink nor a rename can lead elsewhere.

    Raises:
        OSError: ELOOP or ENOTDIR where a symlink is met, else as open(2).
        ValueError: the path is absolute or holds '.', '..' or an empty component.
    """
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    if not path:
        return os.open(".", flags, dir_fd=root)
    parts = path.split(b"/")
    if b"" in parts or b"." in parts or b".." in parts or b"\0" in path:
        raise ValueError(f"not a plain relative path: {path!r}")
    if len(parts) == 1:
        return os.open(path, flags, dir_fd=root)
    fd = _at_once(root, path, flags)
    return _by_component(root, parts, flags) if fd is None else fd


def _at_once(root: int, path: bytes, flags: int) -> int | None:
    """By openat2(2); None where it is not to be had (a kernel before 5.6, or a sandbox that does not know it)."""
    global _missing  # noqa: PLW0603
    if _missing:
        return None
    try:
        return openat2.open_at(root, path, flags, openat2.NO_SYMLINKS)
    except OSError as error:
        if error.errno not in {errno.ENOSYS, errno.EPERM}:
            raise
        _missing = error.errno == errno.ENOSYS
        return None


def _by_component(root: int, parts: list[bytes], flags: int) -> int:
    fd = root
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            if fd != root:
                os.close(fd)
            fd = inner
        return os.open(parts[-1], flags, dir_fd=fd)
    finally:
        if fd != root:
            os.close(fd)
