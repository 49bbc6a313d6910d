"""Removing blobs and images that nothing needs any more, while nobody adds what might (docs/spec/store.md, Removing)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from stele.host import durable, immutable
from stele.store import drafts
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LOOK_S = 0.02  # between two looks whether those who add have ended
_counting = threading.Lock()
_adding: Counter[Path] = Counter()  # how often this process adds to each store


@contextlib.contextmanager
def adding(root: Path) -> Iterator[None]:
    """While this lasts nothing is removed: what was found in the store may be relied on.

    Waits for a removal that is under way, or waits for those who add; not where this process adds already, which that one waits for.
    """
    with contextlib.ExitStack() as held:
        fd = _open(root, "removal")
        held.callback(os.close, fd)
        with _counting:
            nested = _adding[root] > 0
        if nested:
            fcntl.flock(fd, fcntl.LOCK_SH)
        else:
            turn = _open(root, "removing")
            try:
                fcntl.flock(turn, fcntl.LOCK_SH)
                fcntl.flock(fd, fcntl.LOCK_SH)
            finally:
                os.close(turn)
        with _counting:
            _adding[root] += 1
        try:
            yield
        finally:
            with _counting:
                _adding[root] -= 1


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
def removing(root: Path, wait: float = 0.0) -> Iterator[None]:
    """While this lasts nobody adds.

    Args:
        root: of the store.
        wait: seconds for which those who add may take to end; meanwhile nobody else begins, so that it comes to its turn where
            somebody always adds.

    Raises:
        SteleError: `store.busy`: somebody still does.
    """
    deadline = time.monotonic() + wait
    with contextlib.ExitStack() as held:
        for name in ("removing", "removal"):
            fd = _open(root, name)
            held.callback(os.close, fd)
            if not _is_alone_by(fd, deadline):
                raise _busy(wait)
        yield


@contextlib.contextmanager
def packing(root: Path, wait: float = 0.0) -> Iterator[None]:
    """While this lasts nobody else packs: each of two would remove what the other made, and believe in its own.

    Raises:
        SteleError: `store.busy`: somebody still does after `wait` seconds.
    """
    deadline = time.monotonic() + wait
    fd = _open(root, "packing")
    try:
        if not _is_alone_by(fd, deadline):
            raise SteleError(
                "releases are being packed already",
                remedy="try again when that is done; `stele store pack --wait 10m` waits longer",
                code="store.busy",
                retryable=True,
            )
        yield
    finally:
        os.close(fd)


def _is_alone_by(fd: int, deadline: float) -> bool:
    """Wait for a lock alone; False if it was not to be had by then."""
    while not _alone(fd):
        if time.monotonic() >= deadline:
            return False
        time.sleep(LOOK_S)
    return True


def _alone(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _busy(wait: float) -> SteleError:
    waited = f" (waited {wait:g} s for it to end)" if wait else ""
    return SteleError(
        f"nothing can be removed from the store while a release is being sealed, pulled, pushed or unpacked{waited}",
        remedy="try again when that is done; `stele store prune --wait 10m` waits longer, and lets nothing new begin meanwhile",
        code="store.busy",
        retryable=True,
    )


def _open(root: Path, name: str) -> int:
    with drafts.writing(root):
        durable.make_dirs(root)
        return os.open(root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


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
