"""Whether files are what they were when they were looked at last: one lstat for each, in processes of their own.

A folder is entered (chdir), so that each name costs the lookup of one component; that is why it is done in children. They do nothing
but calls of the system, and what they say is numbers.
"""

from __future__ import annotations

import os
import struct
import warnings
from array import array
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WIDTH = 48  # bytes of one state
SIZE, CTIME = 3, 5  # their places in a state
# file times advance with the timer tick, 1 to 10 ms: a file whose ctime is younger than this when a seal begins
# may yet be written within the same tick, and would look the same
SETTLED_NS = 20_000_000
_ALONE = 2_000  # entries that are not worth a second process
_pack = struct.Struct("6q").pack
_state = attrgetter("st_dev", "st_ino", "st_mode", "st_size", "st_mtime_ns", "st_ctime_ns")

State = tuple[int, int, int, int, int, int]


class Folder(NamedTuple):
    """A folder and those of its entries that are looked at; `names` are joined by `/`. `at`: where its own state begins."""

    path: bytes
    names: bytes
    at: int

    def listed(self) -> list[bytes]:
        """The names."""
        return self.names.split(b"/") if self.names else []


def of(info: os.stat_result) -> State:
    """Device, inode, mode, size, mtime and ctime, the times in nanoseconds."""
    found: State = _state(info)
    return found


def packed(states: Iterable[State]) -> bytes:
    """States as they are compared.

    Raises:
        OverflowError: a number does not fit 63 bits.
    """
    try:
        return b"".join([_pack(*state) for state in states])
    except struct.error as error:
        raise OverflowError(str(error)) from error


class Looking:
    """Children that look at folders. A context manager: leaving it waits for them."""

    def __init__(self, root: bytes, folders: Sequence[Folder], states: bytes) -> None:
        """Begin. `root`: an absolute path. `states`: what they were, packed: of each folder itself, then of its names."""
        self._children: list[tuple[int, int, int]] = []  # process, pipe, number of its first folder
        half = len(states) // 2 if len(states) > _ALONE * WIDTH else len(states)
        middle = next((number for number, folder in enumerate(folders) if folder.at >= half), len(folders))
        try:
            for first, last in ((0, middle), (middle, len(folders))):
                if first < last:
                    self._begin(root, folders[first:last], states, first)
        except BaseException:
            self.__exit__()
            raise

    def _begin(self, root: bytes, folders: Sequence[Folder], states: bytes, first: int) -> None:
        out, into = os.pipe2(os.O_CLOEXEC)
        with warnings.catch_warnings():
            # that other threads do not come along is what is wanted: the child calls the system, takes no lock, and ends
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            code = 1
            try:
                with os.fdopen(into, "wb") as pipe:
                    pipe.write(array("q", [*_differing(root, folders, states), -1]).tobytes())
                code = 0
            finally:
                os._exit(code)
        os.close(into)
        self._children.append((child, out, first))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child, out, _first in self._children:
            os.close(out)
            os.waitpid(child, 0)
        self._children = []

    def changed(self) -> list[int] | None:
        """Numbers of the folders that are not what they were, or in which something is not; None where that could not be told."""
        found: list[int] = []
        for _child, out, first in self._children:
            data = b""
            while piece := os.read(out, 1 << 16):
                data += piece
            numbers = array("q", data if len(data) % 8 == 0 else b"")
            if not numbers or numbers.pop() != -1:
                return None
            found += [first + number for number in numbers]
        return found


def _differing(root: bytes, folders: Sequence[Folder], states: bytes) -> list[int]:
    found = []
    for number, folder in enumerate(folders):
        names = folder.listed()
        try:
            os.chdir(root + b"/" + folder.path)
            now = packed(map(_state, map(os.lstat, (b".", *names))))
        except (OSError, OverflowError):
            found.append(number)
            continue
        if now != states[folder.at : folder.at + len(now)]:
            found.append(number)
    return found
