"""The one doorway for inotify: waiting until something in a folder is replaced, without looking again and again."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_IN_CLOSE_WRITE, _IN_MOVED_TO = 0x8, 0x80


class Watch:
    """A watch on the names in one folder; a context manager."""

    def __init__(self, folder: Path) -> None:
        """Begin.

        Raises:
            OSError: the kernel has no watch left, or the folder is not there.
        """
        self._fd = int(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        if self._fd < 0:
            raise _error(str(folder))
        if _libc.inotify_add_watch(self._fd, os.fsencode(folder), _IN_CLOSE_WRITE | _IN_MOVED_TO) < 0:
            error = _error(str(folder))
            os.close(self._fd)
            raise error

    def wait(self, seconds: float) -> bool:
        """Whether a file was written or moved into the folder since the last call, waiting up to so long for it."""
        if not select.select([self._fd], [], [], seconds)[0]:
            return False
        with contextlib.suppress(BlockingIOError):
            while os.read(self._fd, 65536):
                pass
        return True

    def close(self) -> None:
        """End."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _error(path: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)
