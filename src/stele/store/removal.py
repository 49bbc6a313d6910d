"""Removing blobs and images that nothing needs any more, while nobody adds what might (docs/spec/store.md, Removing)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import TYPE_CHECKING

from stele.host import durable, immutable
from stele.store import drafts
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


@contextlib.contextmanager
def adding(root: Path) -> Iterator[None]:
    """While this lasts nothing is removed: what was found in the store may be relied on. Waits for a removal that is under way."""
    fd = _open(root)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def looking(root: Path) -> Iterator[None]:
    """`adding`, for who only reads: where the file system is mounted read-only nothing can be removed, and there is no lock to be had."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(adding(root))
        except SteleError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EROFS:
                raise
        yield


@contextlib.contextmanager
def removing(root: Path) -> Iterator[None]:
    """While this lasts nobody adds.

    Raises:
        SteleError: `store.busy`: somebody does.
    """
    fd = _open(root)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SteleError(
                "nothing can be removed from the store while a release is being sealed, pulled, pushed or unpacked",
                remedy="wait until that is done, then try again",
                code="store.busy",
                retryable=True,
            ) from error
        yield
    finally:
        os.close(fd)


def _open(root: Path) -> int:
    with drafts.writing(root):
        durable.make_dirs(root)
        return os.open(root / "removal", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def remove(root: Path, paths: Iterable[Path]) -> tuple[int, int]:
    """Remove files, immutable or not; returns how many, and their bytes. To be called within `removing`."""
    count = size = 0
    with drafts.writing(root):
        for path in paths:
            try:
                info = path.lstat()
            except FileNotFoundError:
                continue
            immutable.make_mutable(path)
            path.unlink(missing_ok=True)
            count, size = count + 1, size + info.st_size
    return count, size
