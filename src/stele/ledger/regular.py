"""Reading a file of a ledger folder that others may have made.

No FIFO is waited for, no symlink followed, no more read than such a file ever has.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from stele.model.damage import damaged

if TYPE_CHECKING:
    from pathlib import Path

_PIECE = 1 << 16
FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


def opened(path: Path | str, flags: int, mode: int = 0o644) -> int:
    """A descriptor of a regular file, opened like `os.open`.

    Raises:
        SteleError: `ledger.damaged`: there is something else.
        OSError: it cannot be opened.
    """
    try:
        fd = os.open(path, flags | FLAGS, mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise damaged(f"{os.path.basename(path)} is a symlink") from error
        raise
    kind = os.fstat(fd).st_mode
    if not stat.S_ISREG(kind):
        os.close(fd)
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise damaged(f"{os.path.basename(path)} is not a regular file")
    return fd


def read(path: Path | str, limit: int) -> bytes:
    """The bytes of a file that has at most `limit`. Raises like `opened`."""
    fd = opened(path, os.O_RDONLY)
    try:
        return read_fd(fd, path, limit)
    finally:
        os.close(fd)


def read_fd(fd: int, path: Path | str, limit: int) -> bytes:
    """Like `read`, of a file that is open."""
    parts, left = list[bytes](), limit + 1
    while left and (part := os.read(fd, min(left, _PIECE))):
        parts.append(part)
        left -= len(part)
    if not left:
        raise damaged(f"{os.path.basename(path)} has more than {limit} bytes")
    return b"".join(parts)


def is_other(path: Path) -> bool:
    """Whether something else than a regular file is there: for what is opened by code that is not ours."""
    try:
        return not stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False
