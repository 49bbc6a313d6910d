"""Whether files are what they were when they were looked at last: one lstat for each, in processes of their own.

A folder is entered (chdir), so that each name costs the lookup of one component; that is why it is done in children. They do nothing
but calls of the system, and what they say is numbers.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import warnings
from array import array
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

WIDTH = 52  # bytes of one state
SIZE, CTIME = 3, 5  # their places in a state
# file times advance with the timer tick, 1 to 10 ms: a file whose ctime is younger than this when a seal begins
# may yet be written within the same tick, and would look the same
SETTLED_NS = 20_000_000
_ALONE = 20_000  # entries that are looked at while the store is opened; more are worth a second process
# of the C library, if it has it; without giving up Python's lock each time, and found before a child is made
_lstat: Any = getattr(ctypes.PyDLL(None), "lstat", None)
_pack = struct.Struct("=QQIQqIqI").pack
_SECOND = 1_000_000_000
_RECORD = 64  # 32-bit words that are more than enough for the C library's struct stat
_FEW = 12  # names that are looked at and packed one by one sooner than word by word
_SLOTS = 256  # names that are looked at before what was found is packed
# where a state's words lie in it, on 64-bit Linux: device, inode, mode (x86-64; elsewhere), size, and seconds and nanoseconds of both times
_WORDS = tuple((0, 1, 2, 3, mode, 12, 13, 22, 23, 24, 26, 27, 28) for mode in (6, 4))
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
    """States as they are compared (docs/spec/stat-cache.md, The last seal).

    Raises:
        OverflowError: a number does not fit its place.
    """
    try:
        return b"".join(
            [_pack(*four, *divmod(mtime, _SECOND), *divmod(ctime, _SECOND)) for *four, mtime, ctime in states],
        )
    except struct.error as error:
        raise OverflowError(str(error)) from error


class Looking:
    """Children that look at folders. A context manager: leaving it waits for them."""

    def __init__(self, root: bytes, folders: Sequence[Folder], states: bytes | memoryview) -> None:
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

    def _begin(self, root: bytes, folders: Sequence[Folder], states: bytes | memoryview, first: int) -> None:
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


class _Quick:
    """Looks at names in the current folder by the C library itself: Python's lstat makes twenty objects of what is compared as bytes."""

    def __init__(self, words: Sequence[int]) -> None:
        """`words`: where the words of a state lie in a struct stat."""
        self._words = words
        self._room = array("I", bytes(4 * _RECORD * _SLOTS))
        address, _ = self._room.buffer_info()
        self._slots = [ctypes.c_void_p(address + 4 * _RECORD * number) for number in range(_SLOTS)]

    def look(self, names: Sequence[bytes]) -> bytes:
        """Their states, packed. Raises OSError where one cannot be looked at."""
        if len(names) < _FEW:
            return _look(names)
        found = []
        for first in range(0, len(names), _SLOTS):
            some = names[first : first + _SLOTS]
            if any(map(_lstat, some, self._slots)):
                raise OSError
            made = array("I", bytes(WIDTH * len(some)))
            for place, word in enumerate(self._words):
                made[place :: len(self._words)] = self._room[word : len(some) * _RECORD : _RECORD]
            found.append(made.tobytes())
        return b"".join(found)


def _look(names: Sequence[bytes]) -> bytes:
    return packed(map(_state, map(os.lstat, names)))


def quickest() -> Callable[[Sequence[bytes]], bytes]:
    """How to look at names in the current folder: the quick way where it finds what Python finds."""
    for words in _WORDS if _lstat is not None else ():
        with contextlib.suppress(OSError, OverflowError):
            quick, some = _Quick(words), (b".", b"/") * _FEW
            if quick.look(some) == _look(some):
                return quick.look
    return _look


def _differing(root: bytes, folders: Sequence[Folder], states: bytes | memoryview) -> list[int]:
    found = []
    look = quickest()
    for number, folder in enumerate(folders):
        names = folder.listed()
        try:
            os.chdir(root + b"/" + folder.path)
            now = look((b".", *names))
        except (OSError, OverflowError):
            found.append(number)
            continue
        if now != bytes(states[folder.at : folder.at + len(now)]):
            found.append(number)
    return found
