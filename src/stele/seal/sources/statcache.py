"""What a folder's files held when they were last sealed, so that unchanged ones need not be read (docs/spec/stat-cache.md).

A file is taken for unchanged only if all that a stat says of it is as it was, and its ctime was past when it was recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stele.host import states
from stele.seal import cached

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stele.host.states import State

HEADER = b"stele-stat-cache v0\n"


class Known(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A file as it was: `state` (device, inode, mode, size, mtime, ctime; times in ns), and what its content said.

    `compiled`: as in `Inode`.
    """

    state: tuple[int, int, int, int, int, int]
    sha256: str
    compiled: tuple[int, int] | None = None


class Listed:
    """A folder as it was read: its path and state, and what lies in it but the folders that were read themselves.

    `plain`: of each name, whether it is a file of one name without xattrs, not empty, and no byte code.
    """

    def __init__(self, path: bytes, state: State) -> None:
        self.path = path
        self.names: list[bytes] = []
        self.plain: list[bool] = []
        self.states = [state]

    def add(self, name: bytes, state: State, *, plain: bool) -> None:
        """One more entry."""
        self.names.append(name)
        self.plain.append(plain)
        self.states.append(state)


class StatCache:
    """Files by path: those known from an earlier seal, and those that this one records.

    `folders`: all that were read. `owner`: user and group of the source folder.
    """

    def __init__(self, known: Mapping[bytes, Known] | None = None) -> None:
        self._known = known or {}
        self.recorded: dict[bytes, Known] = {}
        self.folders: list[Listed] = []
        self.owner = (0, 0)
        self.hits = 0

    def find(self, path: bytes, state: tuple[int, ...]) -> Known | None:
        """What a file holds, if it is as it was."""
        known = self._known.get(path)
        if known is None or known.state != state:
            return None
        self.hits += 1
        self.recorded[path] = known
        return known

    def record(self, path: bytes, known: Known) -> None:
        """A file that was read."""
        self.recorded[path] = known

    def encode(self, begun_ns: int) -> bytearray:
        """The cache for the next seal. `begun_ns`: when this one began, UTC nanoseconds; what is younger is left out."""
        settled = {path: known for path, known in self.recorded.items() if known.state[states.CTIME] < begun_ns - states.SETTLED_NS}
        return cached.encode(HEADER, settled)


_decoder = msgspec.msgpack.Decoder(dict[bytes, Known])


def decode(data: bytes) -> StatCache:
    """A cache as it was written; an empty one where it was not."""
    return StatCache(cached.decode(HEADER, data, _decoder))
