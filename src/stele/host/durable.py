"""The one doorway for durable writes: temp file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_libc = ctypes.CDLL(None, use_errno=True)


_HOLE = 4096  # bytes: less is not worth a hole
_ZEROS = bytes(1 << 20)
_AT_ONCE = 16  # fsyncs
_SLOW_S = 0.001  # of one that has nothing to commit; a thread takes some tenths of that
_WRITE = 2  # SYNC_FILE_RANGE_WRITE


def is_hole(data: bytes | memoryview) -> bool:
    """Whether bytes that are to be written are zeros, and enough of them to leave a hole in a new file instead."""
    size = len(data)
    if size < _HOLE or size > len(_ZEROS) or data[0] or data[-1] or data[size // 2]:
        return False
    return bytes(data) == (_ZEROS if size == len(_ZEROS) else _ZEROS[:size])


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data` at the current position; that it is on disk, whoever closes the file sees to."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_at(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of `data` at a position; like `write_all`."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


def begin_sync(fd: int) -> None:
    """Have the disk begin to write a file that is whole, and do not wait (sync_file_range): who syncs it later waits for less."""
    _libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), _WRITE)  # where that is not possible, nothing is lost


def sync_data(fd: int) -> None:
    """Have what was written to a file on disk; that it became longer, too."""
    os.fdatasync(fd)


def sync_dir(folder: Path) -> None:
    """Fsync a folder, so that names created in it survive a crash."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_all(fds: Sequence[int]) -> None:
    """Fsync several files with one commit of the disk's journal for all of them, in place of one for each.

    The disk is told to write all before the first is waited for, whose commit then is that of the others. What is left of each is that
    the disk empties its own cache: where that takes longer than making threads, the rest is done by as many as there are files.

    Raises:
        OSError: one of them could not be written.
    """
    for fd in fds:
        begin_sync(fd)
    for number, fd in enumerate(fds):
        begun = time.perf_counter()
        os.fsync(fd)
        if number and time.perf_counter() - begun > _SLOW_S:
            _sync_at_once(fds[number + 1 :])
            return


def _sync_at_once(fds: Sequence[int]) -> None:
    count = min(len(fds), _AT_ONCE)
    failed: list[OSError] = []

    def some(first: int) -> None:
        for fd in fds[first::count]:
            try:
                os.fsync(fd)
            except OSError as error:
                failed.append(error)

    threads = [threading.Thread(target=some, args=(first,)) for first in range(1, count)]
    for thread in threads:
        thread.start()
    if fds:
        some(0)
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def _sync_with(fd: int, folders: Sequence[Path]) -> None:
    """Fsync a file and folders at once."""
    with contextlib.ExitStack() as opened:
        fds = [fd]
        for folder in folders:
            fds.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            opened.callback(os.close, fds[-1])
        sync_all(fds)


class Filesystem:
    """The file system that a folder is on: what it failed to write since this was opened is told, whoever else was told before.

    `failed`: it did once. What was lost then, memory may show as written: no later sync says anything of it.
    """

    def __init__(self, folder: Path) -> None:
        self._fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._folder, self.failed = folder, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sync(self) -> None:
        """Flush all of it (syncfs): cheaper than an fsync for each of thousands of files.

        Raises:
            OSError: something of it could not be written.
        """
        if _libc.syncfs(self._fd) < 0:
            number, self.failed = ctypes.get_errno(), True
            raise OSError(number, os.strerror(number), str(self._folder))

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)


def sync_filesystem(folder: Path) -> None:
    """Flush the whole file system that a folder is on. Raises like `Filesystem.sync`."""
    with Filesystem(folder) as found:
        found.sync()


def write_again(path: Path | str, data: bytes) -> None:
    """Write bytes once more that a file begins with: after a failed sync, memory may show them where the disk does not have them."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        write_at(fd, data, 0)
    finally:
        os.close(fd)


def make_dirs(folder: Path, mode: int = 0o755) -> None:
    """Create a folder and its parents durably; existing ones are left as they are."""
    if folder.is_dir():
        return
    make_dirs(folder.parent, 0o755)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=mode)
        sync_dir(folder.parent)


def write(path: Path, data: bytes, *, mode: int = 0o644, after: Sequence[Path] = ()) -> None:
    """Replace `path` atomically with `data`; on return both content and name are on disk.

    `after`: folders whose names are on disk before it gets its own.
    """
    write_with(path, lambda fd: write_all(fd, data), mode=mode, after=after)


def replace(path: Path, data: bytes | bytearray, *, mode: int = 0o644) -> None:
    """Replace `path` at once with `data`, and wait for no disk: for what may be lost, and whose reader sees when it was cut."""
    write_with(path, lambda fd: write_all(fd, data), mode=mode, sync=False)


def write_with(path: Path, fill: Callable[[int], None], *, mode: int = 0o644, sync: bool = True, after: Sequence[Path] = ()) -> None:
    """Like `write`, but `fill(fd)` produces the content. If it raises, nothing is left behind. `sync`: whether to wait for the disk."""
    temp = path.parent / f".{path.name[:100]}.{os.urandom(6).hex()}.tmp"
    fd = os.open(temp, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fill(fd)
            os.fchmod(fd, mode)
            if sync:
                _sync_with(fd, after)
        finally:
            os.close(fd)
        os.rename(temp, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temp.unlink()
        raise
    if sync:
        sync_dir(path.parent)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """While it lasts nobody else is alone in `folder`: for files that are read, changed, and written again. Waits for who is."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def remove(path: Path) -> None:
    """Unlink durably; a path that is not there is fine."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        sync_dir(path.parent)
