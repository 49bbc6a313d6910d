"""Processes that help with one seal of a folder: with reading its files, then with making strata of them.

They are forked while this process is small, see the source folder and the room of small contents as this one does, and are told the rest.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Self

from stele.host import helper

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stele.host.helper import Serve

    Ask = Callable[[bytes, bytes, Sequence[int]], bytes | None]  # for something, with a request and files; see `Helper.ask`

OTHERS = max(1, min(3, len(os.sched_getaffinity(0)) - 1))  # besides this process; each has a stratum in memory at a time


class Hands:
    """A context manager: leaving it ends them.

    `root`: descriptor of the source folder; `room`: of small contents (see `contents.InRoom`); both are there when they are forked.
    """

    def __init__(self) -> None:
        self.root = -1
        self.room = memoryview(b"")
        self._served: dict[bytes, Serve] = {}
        self._helpers: list[helper.Helper] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        while self._helpers:
            self._helpers.pop().close()
        self.room = memoryview(b"")

    def serve(self, what: bytes, how: Serve) -> None:
        """What they do when they are asked for `what` (one byte)."""
        self._served[what] = how

    def begin(self) -> None:
        """Fork them, where that is possible and was not done."""
        if not self._helpers and helper.possible():
            with contextlib.suppress(OSError):
                for _ in range(OTHERS):
                    self._helpers.append(helper.Helper(self._answer))

    def _answer(self, request: bytes, files: Sequence[int]) -> bytes:
        return self._served[request[:1]](request[1:], files)

    def asks(self) -> list[Ask]:
        """How to ask each of those that were forked; one thread asks one at a time."""
        return [lambda what, request, files, of=each: of.ask(what + request, files) for each in self._helpers]  # type: ignore[misc]

    def kill(self) -> None:
        """End all, whatever they are at: who waits for an answer gets none."""
        for each in self._helpers:
            each.kill()
