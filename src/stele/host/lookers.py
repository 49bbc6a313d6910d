"""Processes that look at folders beside the one that seals: each looks at its share, and says which of them are not what they were.

They are made when they are needed, or before (`stand_by`), by who has the time then. They do nothing but calls of the system, and what
they say is numbers.
"""

from __future__ import annotations

import itertools
import os
import struct
import warnings
from array import array
from bisect import bisect_left
from operator import attrgetter
from typing import TYPE_CHECKING, Self

import msgspec

from stele.host import states

if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Iterator, Sequence

    from stele.host.states import Folder

MOST = 4  # at a time: the kernel's own locks let more wait for each other
_ALONE = 20_000  # entries that one process looks at while the store is opened; so many more are worth another one
_FEW = 500  # entries that are worth one more that stands by
_LENGTHS = struct.Struct("=4Q")  # of root, paths, names and states, which follow


class _Looker(msgspec.Struct, frozen=True):
    """`out`: from where what it finds is read, to its end."""

    pid: int
    out: _socket.socket


_standing_by: list[_Looker] = []


def stand_by(count: int) -> list[int]:
    """Make so many, for the next `Looking` of this process; returns their ids. They end with it.

    A process that has much memory of its own is slow to make another, and each page that both have is copied when it is written to.
    """
    for _ in range(count):
        _standing_by.append(_forked(_wait))
    return [looker.pid for looker in _standing_by]


def descriptors() -> list[int]:
    """Of those that stand by."""
    return [looker.out.fileno() for looker in _standing_by]


class Looking:
    """Folders that are looked at. A context manager: leaving it waits for who does."""

    def __init__(self, root: bytes, folders: Sequence[Folder], states_: bytes | memoryview) -> None:
        """Begin. `root`: an absolute path. `states_`: what they were, packed: of each folder itself, then of its names."""
        self._lookers: list[tuple[_Looker, int]] = []  # and the number of its first folder
        entries = len(states_) // states.WIDTH
        count = min(1 + entries // (_FEW if _standing_by else _ALONE), len(_standing_by) or len(os.sched_getaffinity(0)), MOST)
        cuts = [bisect_left(folders, len(states_) * part // count, key=attrgetter("at")) for part in range(count)]
        try:
            for first, last in itertools.pairwise([*cuts, len(folders)]):
                if first < last:
                    self._lookers.append((_begun(root, folders[first:last], states_), first))
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for looker, _first in self._lookers:
            _end(looker)
        self._lookers = []

    def changed(self) -> list[int] | None:
        """Numbers of the folders that are not what they were, or in which something is not; None where that could not be told."""
        found: list[int] = []
        for looker, first in self._lookers:
            data = b""
            try:
                while piece := looker.out.recv(1 << 16):
                    data += piece
            except OSError:
                return None
            numbers = array("q", data if len(data) % 8 == 0 else b"")
            if not numbers or numbers.pop() != -1:
                return None
            found += [first + number for number in numbers]
        return found


def _begun(root: bytes, folders: Sequence[Folder], states_: bytes | memoryview) -> _Looker:
    """One that looks at these: one that stands by, if it still does."""
    while _standing_by:
        looker = _standing_by.pop()
        try:
            for piece in _task(root, folders, states_):
                looker.out.sendall(piece)
        except OSError:  # somebody ended it
            _end(looker)
        else:
            return looker

    def look(into: _socket.socket) -> None:
        _say(into, states.differing(root, folders, states_))

    return _forked(look)


def _task(root: bytes, folders: Sequence[Folder], states_: bytes | memoryview) -> Iterator[bytes | memoryview]:
    begins, last = folders[0].at, folders[-1]
    some = memoryview(states_)[begins : last.at + states.WIDTH * (1 + len(last.listed()))]
    paths, names = b"\0".join(folder.path for folder in folders), b"\0".join(folder.names for folder in folders)
    yield _LENGTHS.pack(len(root), len(paths), len(names), len(some)) + root + paths + names
    yield some


def _forked(work: Callable[[_socket.socket], None]) -> _Looker:
    """A child that does this, with its end of a socket, and ends."""
    import _socket  # of which `socket` is made, with what takes half as long to load as Python to start

    mine, its = _socket.socketpair()
    with warnings.catch_warnings():
        # that other threads do not come along is what is wanted: the child calls the system, takes no lock, and ends
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        code = 1
        try:
            mine.close()
            work(its)
            code = 0
        finally:
            os._exit(code)
    its.close()
    return _Looker(child, mine)


def _end(looker: _Looker) -> None:
    looker.out.close()
    os.waitpid(looker.pid, 0)


def _wait(sock: _socket.socket) -> None:
    """Wait for a task and do it; or for the end of who would give it, whose other descriptors are not for here."""
    os.closerange(3, sock.fileno())
    os.closerange(sock.fileno() + 1, 1 << 16)
    lengths = _LENGTHS.unpack(_received(sock, _LENGTHS.size))
    root, paths, names, some = (_received(sock, length) for length in lengths)
    _say(sock, states.differing(bytes(root), states.folders_of(bytes(paths), bytes(names)), memoryview(some)))


def _received(sock: _socket.socket, size: int) -> bytearray:
    """So many bytes. Raises EOFError."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = sock.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return data


def _say(sock: _socket.socket, numbers: list[int]) -> None:
    sock.sendall(array("q", [*numbers, -1]).tobytes())
