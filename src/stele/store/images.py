"""EROFS images beside the layout: `erofs/<hex>.erofs`, made immutable before they are checked for a mount."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, BinaryIO

from stele.host import durable, immutable
from stele.host.hashing import hash_fd
from stele.model.release import PreparedImage, Stratum
from stele.store.index import damaged
from stele.trust.digest import digest_hex
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

CheckedFile = BinaryIO
_COARSE_NS = 20_000_000  # file times advance with the timer tick, 1 to 10 ms
_WORKERS = max(2, min(8, len(os.sched_getaffinity(0))))


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise damaged(f"{path} cannot be read: {error.strerror}") from error


def _check(fd: int, path: Path, digest: str) -> int:
    try:
        found, size = hash_fd(fd)
    except OSError as error:
        raise damaged(f"{path} cannot be read: {error.strerror}") from error
    if found != digest:
        raise damaged(f"{path} has the digest {found}, not {digest}")
    return size


@contextlib.contextmanager
def opened(path: Path, digest: str) -> Iterator[CheckedFile]:
    """A file, open for reading, whose content was just checked against its digest.

    Raises:
        SteleError: `store.damaged`.
    """
    with os.fdopen(_open(path), "rb") as file:
        _check(file.fileno(), path, digest)
        yield file


def unchecked(path: Path) -> int | None:
    """A file, open for reading, not checked; None if it is not there or cannot be read."""
    try:
        return _open(path)
    except SteleError:
        return None


def are_whole(*parts: tuple[Path, int]) -> bool:
    """Whether each of these is a regular file with so many bytes."""
    return all(path.is_file() and path.stat().st_size == size for path, size in parts)


def check_all(parts: Sequence[tuple[Path, str]]) -> list[int]:
    """Check files against their digests, several at a time; returns their sizes in bytes.

    Raises:
        SteleError: `store.damaged` for the first that is not what it should be.
    """

    def one(part: tuple[Path, str]) -> int:
        fd = _open(part[0])
        try:
            return _check(fd, *part)
        finally:
            os.close(fd)

    from concurrent.futures import ThreadPoolExecutor  # with all of logging, which who checks nothing need not load

    with ThreadPoolExecutor(_WORKERS) as pool:  # the largest first, so that none is left for the end
        checking = {part: pool.submit(one, part) for part in sorted(parts, key=lambda part: -_size(part[0]))}
        return [checking[part].result() for part in parts]


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0  # whoever opens it says why


class Images:
    """The folder of images.

    An image that was checked once by this process, is immutable, and has the same inode, size, mtime and ctime still, is
    not hashed again: clearing the flag, which writing needs, changes the ctime. A ctime as young as the clock is coarse
    says nothing, and is not relied on.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / "erofs"
        self._known: dict[str, tuple[int, ...]] = {}
        self._lock = threading.Lock()

    def path(self, digest: str) -> Path:
        """Where the image with a digest lies."""
        return self.folder / f"{digest_hex(digest)}.erofs"

    def open(self, stratum: Stratum) -> int | None:
        """An image, open for reading, not checked; None if it is not there or cannot be read."""
        return unchecked(self.path(stratum.image))

    def prepare(self, path: Path, stratum: Stratum) -> PreparedImage:
        """Make an image immutable where the file system can, then check it.

        Raises:
            SteleError: `store.damaged`.
        """
        fd = _open(path)
        try:
            fixed = immutable.change(fd, immutable=True)
            info = os.fstat(fd)
            state = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
            with self._lock:
                known = fixed and self._known.get(stratum.image) == state
            if not known:
                if info.st_size != stratum.image_size:
                    raise damaged(f"{path} has {info.st_size} bytes, not {stratum.image_size}")
                _check(fd, path, stratum.image)
                if fixed and time.time_ns() - info.st_ctime_ns > _COARSE_NS:
                    with self._lock:
                        self._known[stratum.image] = state
        finally:
            os.close(fd)
        return PreparedImage(stratum=stratum, path=str(path.absolute()), immutable=fixed)

    def remove(self, stratum: Stratum) -> None:
        """Remove an image, immutable or not; one that is not there is fine."""
        path = self.path(stratum.image)
        immutable.make_mutable(path)
        durable.remove(path)
