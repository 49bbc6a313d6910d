"""Reading the files of a folder: in batches, by this process and by helpers at the same time.

What is found out of a file is the same whoever reads it. A helper says nothing of a file that it cannot read or that has changed;
that one is read again by this process, which says what is wrong.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Self

import msgspec

from stele.host import states
from stele.host.below import open_below
from stele.host.sharing import Sharing
from stele.host.states import State
from stele.seal import hands
from stele.seal.byte_code import PYC_HEADER, compiled_from
from stele.seal.contents import CHUNK, changed, unreadable
from stele.seal.normalise import is_kept_xattr

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

READ = b"r"  # what helpers are asked for
_BATCH_FILES, _BATCH_BYTES = 128, 4 << 20  # a batch is not larger than needed
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK


class Wanted(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A file that is to be read: its name, what it was when it was listed, and where in the room its content goes (-1: nowhere)."""

    name: bytes
    state: State
    at: int


class Found(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a file holds. `xattrs`: all of them; the values of those that are not sealed are empty. `compiled`: as in `Inode`."""

    sha256: str
    compiled: tuple[int, int] | None
    xattrs: dict[bytes, bytes]


Batch = list[tuple[bytes, list[Wanted]]]  # folders, and files in them
_batches = msgspec.msgpack.Decoder(Batch)
_answers = msgspec.msgpack.Decoder(list[Found | None])


class Reader:
    """Reads files below the folder descriptor `root`, small ones into `room`."""

    def __init__(self, root: int, room: mmap.mmap) -> None:
        self._root, self._room = root, memoryview(room)
        self.stopped = threading.Event()

    def serve(self, request: bytes, _: Sequence[int] = ()) -> bytes:
        """What a batch holds: of each file that could be read, in order; both encoded."""
        return msgspec.msgpack.encode(list(self._each(_batches.decode(request))))

    def _each(self, batch: Batch) -> Iterator[Found | None]:
        for path, files in batch:
            try:
                folder = open_below(self._root, path, os.O_PATH | os.O_DIRECTORY)
            except OSError:
                yield from [None] * len(files)
                continue
            try:
                for wanted in files:
                    try:
                        yield self._one(folder, wanted)
                    except OSError:
                        yield None
            finally:
                os.close(folder)

    def one(self, path: bytes, state: State, at: int) -> Found:
        """One file.

        Raises:
            SteleError: `seal.source-changed`, `seal.unreadable`.
        """
        above, _, name = path.rpartition(b"/")
        try:
            folder = open_below(self._root, above, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            raise changed(path) from error
        try:
            found = self._one(folder, Wanted(name, state, at))
        except PermissionError as error:
            raise unreadable(path, error) from error
        except OSError as error:
            now = _state(folder, name)
            raise (unreadable(path, error) if now == state else changed(path)) from error
        finally:
            os.close(folder)
        if found is None:
            raise changed(path)
        return found

    def _one(self, folder: int, wanted: Wanted) -> Found | None:
        """One file; None if it is not what it was."""
        fd = os.open(wanted.name, _FILE, dir_fd=folder)
        try:
            size = wanted.state[states.SIZE]
            if wanted.at >= 0:
                view = self._room[wanted.at : wanted.at + size]
                done = os.preadv(fd, [view], 0) if size else 0
                while 0 < done < size and (more := os.preadv(fd, [view[done:]], done)):
                    done += more
                digest, head = hashlib.sha256(view).hexdigest(), bytes(view[:PYC_HEADER])
            else:
                digest, head, done = self._streamed(fd, size)
            xattrs = _xattrs(fd)
            if done != size or states.of(os.fstat(fd)) != wanted.state:
                return None
            return Found(digest, compiled_from(head), xattrs)
        finally:
            os.close(fd)

    def _streamed(self, fd: int, size: int) -> tuple[str, bytes, int]:
        """Digest, beginning and size of a file that is not kept; of one that has more than `size` bytes, not all is read."""
        state = hashlib.sha256()
        buffer = bytearray(CHUNK)
        view, head, done = memoryview(buffer), b"", 0
        while done <= size and not self.stopped.is_set() and (count := os.preadv(fd, [buffer], done)):
            head = head or bytes(view[:PYC_HEADER])
            state.update(view[:count])
            done += count
        return state.hexdigest(), head, done


def _state(folder: int, name: bytes) -> State | None:
    try:
        return states.of(os.stat(name, dir_fd=folder, follow_symlinks=False))
    except OSError:
        return None


def _xattrs(fd: int) -> dict[bytes, bytes]:
    try:
        names = os.listxattr(fd)
    except OSError:
        return {}  # a file system without xattrs
    return {os.fsencode(name): os.getxattr(fd, name) if is_kept_xattr(os.fsencode(name)) else b"" for name in names}


class Reading:
    """Batches that are being read. A context manager: leaving it ends whoever reads."""

    def __init__(self, reader: Reader, helping: hands.Hands) -> None:
        self._reader, self._hands = reader, helping
        self._batch: Batch = []
        self._files = self._bytes = 0
        self._sharing: Sharing[tuple[int, bytes]] = Sharing()
        self._answers: dict[int, bytes] = {}
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if raised[0] is not None:
            self._reader.stopped.set()
            self._hands.kill()
        self._sharing.__exit__(*raised)

    def folder(self, path: bytes) -> None:
        """What is added from now on lies in this folder."""
        self._batch.append((path, []))

    def add(self, wanted: Wanted) -> None:
        """One more file."""
        self._batch[-1][1].append(wanted)
        self._files += 1
        self._bytes += wanted.state[states.SIZE]
        if self._files >= _BATCH_FILES or self._bytes >= _BATCH_BYTES:
            self._flush()
            if self._count == 1:  # there is enough to read for more than one
                self._hands.begin()
                self._sharing.begin(partial(self._ask, ask) for ask in self._hands.asks() or [self._alone] * hands.OTHERS)

    def _flush(self) -> None:
        last = self._batch[-1][0] if self._batch else b""
        self._sharing.add((self._count, msgspec.msgpack.encode(self._batch)))
        self._count += 1
        self._batch, self._files, self._bytes = [(last, [])], 0, 0

    def _alone(self, _: bytes, request: bytes, files: Sequence[int]) -> bytes:
        return self._reader.serve(request, files)

    def _ask(self, ask: hands.Ask, item: tuple[int, bytes]) -> bool:
        answer = ask(READ, item[1], ())
        if answer is not None:
            self._answers[item[0]] = answer
        return answer is not None

    def _here(self, item: tuple[int, bytes]) -> None:
        self._answers[item[0]] = self._reader.serve(item[1])

    def results(self) -> Iterator[Found | None]:
        """What is known of each file, in the order in which they were added: None of those that could not be read."""
        if self._files:
            self._flush()
        for number in range(self._count):  # some are taken while others are read still
            while number not in self._answers:
                if not self._sharing.one(self._here):
                    self._sharing.finish(self._here)
            yield from _answers.decode(self._answers.pop(number))
