"""What files are, as far as one lstat tells, packed to be compared; and which folders are not what they were."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from array import array
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

WIDTH = 52  # bytes of one state
SIZE, CTIME = 3, 5  # their places in a state
# file times advance with the timer tick, 1 to 10 ms: a file whose ctime is younger than this when a seal begins
# may yet be written within the same tick, and would look the same
SETTLED_NS = 20_000_000
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


def folders_of(paths: bytes, names: bytes) -> list[Folder]:
    """Folders out of their paths, joined by NUL, and the names of each, joined by `/`, these joined by NUL.

    Raises:
        ValueError: these are not of as many.
    """
    found, at = [], 0
    for path, each in zip(paths.split(b"\0"), names.split(b"\0"), strict=True):
        found.append(Folder(path, each, at))
        at += WIDTH * (1 + (each.count(b"/") + 1 if each else 0))
    return found


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
            [
                _pack(device, inode, mode, size, mtime // _SECOND, mtime % _SECOND, ctime // _SECOND, ctime % _SECOND)
                for device, inode, mode, size, mtime, ctime in states
            ]
        )
    except struct.error as error:
        raise OverflowError(str(error)) from error


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


def differing(root: bytes, folders: Sequence[Folder], states: bytes | memoryview) -> list[int]:
    """Numbers of the folders that are not what they were, or in which something is not.

    It makes the source folder the current one: this is for a process that does nothing else.

    Args:
        root: an absolute path.
        folders: in it, one after another as their states are.
        states: what they were, packed: of each folder itself, then of its names, each from `Folder.at` on.
    """
    try:
        os.chdir(root)
    except OSError:
        return list(range(len(folders)))
    look, found = quickest(), list[int]()
    first, paths = 0, list[bytes]()
    for number, folder in enumerate(folders):
        paths += _paths(folder)
        if len(paths) >= _SLOTS or number == len(folders) - 1:
            at = folders[first].at
            if _now(look, paths) != states[at : at + WIDTH * len(paths)]:
                found += [each for each in range(first, number + 1) if not _is_same(look, folders[each], states)]
            first, paths = number + 1, []
    return found


def _paths(folder: Folder) -> list[bytes]:
    """Of a folder and what is looked at in it, from the source folder."""
    if not folder.path:
        return [b".", *folder.listed()]
    prefix = folder.path + b"/"
    return [folder.path, *[prefix + name for name in folder.listed()]]


def _now(look: Callable[[Sequence[bytes]], bytes], paths: Sequence[bytes]) -> bytes | None:
    try:
        return look(paths)
    except (OSError, OverflowError):
        return None


def _is_same(look: Callable[[Sequence[bytes]], bytes], folder: Folder, states: bytes | memoryview) -> bool:
    now = _now(look, _paths(folder))
    return now is not None and now == states[folder.at : folder.at + len(now)]
