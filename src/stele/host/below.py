"""Opening what lies below a folder without ever leaving it: no component of the path may be a symlink."""

from __future__ import annotations

import os


def open_below(root: int, path: bytes, flags: int) -> int:
    """Open `path` (relative, no '.' or '..'; b"": the folder itself) below the folder descriptor `root`.

    Every component is opened with O_NOFOLLOW, so neither a symlink nor a rename can lead elsewhere.

    Raises:
        OSError: ELOOP or ENOTDIR where a symlink is met, else as open(2).
        ValueError: the path is absolute or holds '.', '..' or an empty component.
    """
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    if not path:
        return os.open(".", flags, dir_fd=root)
    *above, last = path.split(b"/")
    if {b"", b".", b".."} & {*above, last}:
        raise ValueError(f"not a plain relative path: {path!r}")
    fd = root
    try:
        for part in above:
            inner = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            if fd != root:
                os.close(fd)
            fd = inner
        return os.open(last, flags, dir_fd=fd)
    finally:
        if fd != root:
            os.close(fd)
