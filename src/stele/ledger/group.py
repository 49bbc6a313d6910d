"""Group commit: who calls while a flush runs is in the next one, together with all others; who calls while none runs flushes at once.

One thread at a time leads. It does the work of all who wait, wakes each of them once, and hands the lead on in the order of arrival.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAX_BATCH = 4096  # items; a larger call is a batch of its own


_TURN_S = 0.0001
_TURNS = 10


class Ticket:
    """One call: its items, and once it is `done` a result or an error. `items` None: a turn to lead with no batch."""

    __slots__ = ("_turn", "done", "error", "items", "result")

    def __init__(self, items: Sequence[Any] | None) -> None:
        self.items = items
        self.result: list[Any] = []
        self.error: BaseException | None = None
        self.done = False
        self._turn = threading.Lock()
        self._turn.acquire()

    def settle(self) -> list[Any]:
        """The result, or the error."""
        if self.error is not None:
            raise self.error
        return self.result

    def wait(self) -> None:
        """Sleep until it is done or to lead."""
        self._turn.acquire()

    def wake(self) -> None:
        """End `wait`."""
        self._turn.release()


class Group:
    """Batches calls. `flush` gets what one batch is made of, and leaves a result or an error in each ticket."""

    def __init__(self, flush: Callable[[Sequence[Ticket]], None]) -> None:
        self._flush = flush
        self._mutex = threading.Lock()
        self._led = False
        self._queue: deque[Ticket] = deque()

    def submit(self, items: Sequence[Any]) -> Ticket:
        """Have the items flushed; returns the ticket when that is done."""
        ticket = Ticket(items)
        self._take_turn(ticket)
        if not ticket.done:
            batch = [ticket]
            try:
                batch += self._joining(len(items))
                self._flush(batch)
            finally:
                self._hand_on(batch)
        return ticket

    def give_way(self) -> None:
        """Let whoever leads go first, for as long as a lone call takes: Python runs one thread at a time, for 5 ms if it is not asked."""
        for _ in range(_TURNS):
            if not self._led:
                return
            time.sleep(_TURN_S)

    @contextlib.contextmanager
    def leading(self) -> Iterator[None]:
        """Be the one who leads, with no batch."""
        self._take_turn(Ticket(None))
        try:
            yield
        finally:
            self._hand_on(())

    def _take_turn(self, ticket: Ticket) -> None:
        """Wait until the ticket is done, or leads."""
        with self._mutex:
            if not self._led:
                self._led = True
                return
            self._queue.append(ticket)
        try:
            ticket.wait()
        except BaseException:  # interrupted: nobody may wait for a thread that is gone
            with self._mutex:
                queued = ticket in self._queue
                if queued:
                    self._queue.remove(ticket)
            if not queued:  # woken at the same time, or in somebody's batch
                ticket.wait()
                if not ticket.done:
                    self._hand_on(())
            raise

    def _joining(self, count: int) -> list[Ticket]:
        """What waits and may be in the batch of one that has `count` items: in order, up to the limit or to one who leads alone."""
        joining: list[Ticket] = []
        with self._mutex:
            while self._queue and (items := self._queue[0].items) is not None and count + len(items) <= MAX_BATCH:
                count += len(items)
                joining.append(self._queue.popleft())
        return joining

    def _hand_on(self, batch: Sequence[Ticket]) -> None:
        with self._mutex:
            following = self._queue.popleft() if self._queue else None
            self._led = following is not None
        if following is not None:
            following.wake()
        for number, ticket in enumerate(batch):
            ticket.done = True
            if number:  # the first is the caller's own
                ticket.wake()
