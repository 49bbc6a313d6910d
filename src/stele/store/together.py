"""Files of a release that are whole, and wait for the others: one journal commit of the disk for all, in place of one for each.

Until they are settled they have no name but the one below `tmp/`, and a lock: whoever dies before leaves what any dead writer leaves.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

import msgspec

from stele.host import durable, immutable

if TYPE_CHECKING:
    from pathlib import Path

MOST = 200  # files: each is open until it is settled
LARGE = 1 << 20  # bytes, which the disk can write while others are made


class _Waiting(msgspec.Struct, frozen=True):
    path: Path
    fd: int


class Together:
    """Files that wait. May be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[Path, _Waiting] = {}

    def add(self, path: Path, fd: int, target: Path) -> None:
        """Take over a file that is whole: it becomes `target` when all are settled. Raises OSError like `settle`."""
        with self._lock:
            if target in self._files:
                path.unlink()
                os.close(fd)
                return
            self._files[target] = _Waiting(path, fd)
            if os.fstat(fd).st_size >= LARGE:
                durable.begin_sync(fd)
            if len(self._files) >= MOST:
                self._settle()

    def where(self, target: Path) -> Path:
        """Where the file lies that is `target`, or becomes it."""
        with self._lock:
            waiting = self._files.get(target)
        return waiting.path if waiting else target

    def settle(self) -> None:
        """Make the content of all durable, then give each its name, which is durable when its folder is synced.

        Raises:
            OSError: one could not be written, and none has its name; or not renamed, and neither are those after it.
        """
        with self._lock:
            self._settle()

    def _settle(self) -> None:
        durable.sync_all([waiting.fd for waiting in self._files.values()])
        for target in list(self._files):
            immutable.make_mutable(target)
            os.rename(self._files[target].path, target)
            os.close(self._files.pop(target).fd)

    def discard(self) -> None:
        """Remove those that were not settled."""
        with self._lock:
            for waiting in self._files.values():
                with contextlib.suppress(FileNotFoundError):
                    waiting.path.unlink()
                os.close(waiting.fd)
            self._files.clear()
