"""Files that are being written: they have a name below `tmp/` and a lock until they get their real one.

A draft whose writer died is known by its lock, which died with it, and is swept when the store is opened.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from typing import TYPE_CHECKING, Self

from stele.host import durable, immutable
from stele.trust.digest import digest_hex
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stele.store.together import Together

KEPT_SECONDS = 7 * 24 * 3600.0  # a blob that came in part is kept for so long to go on with


@contextlib.contextmanager
def writing(root: Path) -> Iterator[None]:
    """Turn what a file system says into errors with a remedy.

    Raises:
        SteleError: `store.full`, `store.not-writable`.
    """
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise SteleError(
                f"there is no room left for the store {root}",
                remedy="free space on its file system and seal again; nothing was changed",
                code="store.full",
                retryable=True,
            ) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise SteleError(
                f"the store {root} cannot be written: {error.strerror}",
                remedy="run as the user who owns the data folder (sudo), or name another with --data",
                code="store.not-writable",
            ) from error
        raise


class Draft:
    """One file below `tmp/`; adapter of the port `Draft`."""

    def __init__(self, root: Path, target: Callable[[str], Path], together: Together | None = None) -> None:
        """Begin a file that becomes `target(digest)`. `together`: with others."""
        self._root = root
        self._together = together
        self._target = target
        self._fd = -1
        with writing(root):
            self._path = self._begin()

    def _begin(self) -> Path:
        return self._create(self._root / "tmp")

    def _create(self, folder: Path) -> Path:
        while True:
            path = folder / os.urandom(8).hex()
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:  # else a sweeper came between
                self._fd = fd
                return path
            os.close(fd)

    @property
    def fd(self) -> int:
        """Open for reading and writing."""
        return self._fd

    def commit(self, digest: str) -> None:
        """Make the content durable and give it its name, at once or with others; the name is durable when `publish` returns.

        What has the name already is replaced, which repairs it; but an immutable file stays: it was checked, and is
        mounted perhaps.

        Raises:
            SteleError: `store.full`, `store.not-writable`.
        """
        target = self._target(digest)
        with writing(self._root):
            if _is_immutable(target, os.fstat(self._fd).st_size):
                self.discard()
                return
            os.fchmod(self._fd, 0o444)
            if self._together is not None:
                fd, self._fd = self._fd, -1
                self._together.add(self._path, fd, target)
                return
            os.fsync(self._fd)
            immutable.make_mutable(target)
            os.rename(self._path, target)
            self._close()

    def discard(self) -> None:
        """Remove it, unless it was committed."""
        if self._fd >= 0:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.discard()
        error = raised[1]
        if isinstance(error, OSError):
            with writing(self._root):
                raise error

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Partial(Draft):
    """A blob that comes from elsewhere and may come in several goes: what is here when a writer dies is there for the next.

    Where somebody else is fetching it just now, it is an ordinary draft.
    """

    def __init__(self, root: Path, target: Callable[[str], Path], digest: str) -> None:
        """Begin or go on with the blob `digest`. What is there already is at the file's beginning, unchecked."""
        self._name = digest_hex(digest)
        self._kept = False
        super().__init__(root, target)

    def _begin(self) -> Path:
        folder = self._root / "partial"
        durable.make_dirs(folder)
        path = folder / self._name
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(fd), path.lstat()):  # else it was committed since it was opened
                self._fd, self._kept = fd, True
                return path
        except BlockingIOError:
            pass
        os.close(fd)
        return self._create(self._root / "tmp")

    def __exit__(self, *raised: object) -> None:
        error = raised[1]
        is_passing = isinstance(error, KeyboardInterrupt) or (isinstance(error, SteleError) and error.code.startswith("registry."))
        if self._kept and is_passing:
            self._close()  # to go on with
        super().__exit__(*raised)


def _is_immutable(path: Path, size: int) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        return immutable.is_immutable(fd) and os.fstat(fd).st_size == size
    finally:
        os.close(fd)


def sweep(root: Path) -> int:
    """Remove what dead writers left behind; returns how many files. Live writers' are left alone, and so is what came lately."""
    count = 0
    old = time.time() - KEPT_SECONDS
    stale = [path for path in _listed(root / "partial") if path.lstat().st_mtime < old]
    for path in [*_listed(root / "tmp"), *stale]:
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(fd), path.lstat()):  # else it was committed since it was opened
                    immutable.change(fd, immutable=False)
                    path.unlink()
                    count += 1
            finally:
                os.close(fd)
    return count


def idle_partials(root: Path) -> list[str]:
    """Names of the blobs below `partial/` that came in part and that nobody is fetching."""
    found = []
    for path in sorted(_listed(root / "partial")):
        with contextlib.suppress(OSError):  # it was committed meanwhile, is another's, or no file
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found.append(path.name)
            finally:
                os.close(fd)
    return found


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """The store's one lock, which serialises changes of index.json."""
    with writing(root):
        fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        sweep_index(root)
        yield
    finally:
        os.close(fd)


def begin(root: Path, layout: bytes, index: bytes) -> None:
    """Make a folder an OCI layout that holds nothing. One that has blobs has lost its index.json, which is not for a new one to hide."""
    with locked(root):
        if not (root / "index.json").exists() and not _listed(root / "blobs" / "sha256"):
            durable.write(root / "index.json", index)
        if not (root / "oci-layout").exists():
            durable.write(root / "oci-layout", layout)


def sweep_index(root: Path) -> None:
    """Remove half-written indexes. Only under the store's lock: no live writer has one then."""
    for path in _listed(root):
        if path.name.startswith(".index.json.") and path.name.endswith(".tmp"):
            durable.remove(path)


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, PermissionError):
        return []
