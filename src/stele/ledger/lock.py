"""The sequencer's lock: one process writes a ledger, and notices when the lock is taken from under it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stele.host import locks
from stele.ledger.tiles import damaged
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from pathlib import Path


class Lock:
    """`.state/lock`, held until `release`."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path, self._fd = path, fd
        found = os.fstat(fd)
        self._identity = found.st_dev, found.st_ino

    @classmethod
    def take(cls, folder: Path) -> Lock:
        """Take it, or refuse at once.

        Raises:
            SteleError: `ledger.locked`.
            OSError: it cannot be made.
        """
        path = folder / ".state" / "lock"
        fd = locks.hold(path)
        if fd is None:
            raise SteleError(
                "another process writes this ledger",
                remedy="let it finish, or talk to the agent that holds it",
                code="ledger.locked",
                retryable=True,
            )
        return cls(path, fd)

    def is_ours(self) -> bool:
        """Whether the file that is locked is still the one that others would lock."""
        try:
            found = os.stat(self._path, follow_symlinks=False)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def check(self) -> None:
        """Refuse if it is not.

        Raises:
            SteleError: `ledger.damaged`.
        """
        if not self.is_ours():
            raise damaged("its lock file was replaced, so that two processes may write it")

    def release(self) -> None:
        """Let others write."""
        os.close(self._fd)
