"""Work that is shared out: this thread does it when it has time for it, and others do some of it meanwhile."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")


class Sharing(Generic[T]):
    """Items of work, in the order in which they were added. A context manager: leaving it leaves undone what nobody has begun."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._given_back: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Sharing[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self._help(lambda _: None)
        self._join()

    def add(self, item: T) -> None:
        """One more."""
        self._waiting.put(item)

    def begin(self, others: Iterable[Callable[[T], bool]]) -> None:
        """Have each of `others` take items, in a thread of its own.

        One that does not do an item (it says so, or raises) is not asked again. This thread does the item instead, before others, and
        meets what was in the way.
        """
        with contextlib.suppress(RuntimeError):  # no thread is to be had: this one does what is left
            for do in others:
                thread = threading.Thread(target=self._work, args=(do,), daemon=True)
                thread.start()
                self._threads.append(thread)

    def one(self, do: Callable[[T], None]) -> bool:
        """Do one that is left; whether there was one. Raises what `do` raises."""
        try:
            item = self._next()
        except queue.Empty:
            return False
        do(item)
        return True

    def finish(self, do: Callable[[T], None]) -> None:
        """Do what is left, wait for the others, and do what they gave back. Raises what `do` raises."""
        self._help(do)
        self._join()
        self._help(do)

    def _next(self) -> T:
        with contextlib.suppress(queue.Empty):
            return self._given_back.get_nowait()
        while (item := self._waiting.get_nowait()) is None:
            pass
        return item

    def _work(self, do: Callable[[T], bool]) -> None:
        while (item := self._waiting.get()) is not None:
            done = False
            with contextlib.suppress(Exception):
                done = do(item)
            if not done:
                self._given_back.put(item)
                return

    def _help(self, do: Callable[[T], None]) -> None:
        while self.one(do):
            pass

    def _join(self) -> None:
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
