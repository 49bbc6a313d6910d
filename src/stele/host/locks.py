"""Locks that one process holds: whoever comes second is told so at once."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class GivenUpError(KeyboardInterrupt):
    """Somebody who waited for a lock was told to stop (Ctrl-C): nothing was done yet."""


def hold(path: Path) -> int | None:
    """A descriptor of a file, made if need be, that is locked until it is closed or the process ends; None where another holds it.

    Raises:
        OSError: it cannot be made or locked.
    """
    # flock, not fcntl: a lock that any close of the file drops is no lock
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd
