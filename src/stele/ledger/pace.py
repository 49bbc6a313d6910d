"""The thread that publishes a ledger: soon, but not all of the time, and at once where very much is waiting; and who waits for it."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from stele.host import logs
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOOK_EVERY_S = 0.02  # what is waiting, during a pause


class Room:
    """Where very much is in the write-ahead log, calls wait while it is published and begins anew: so opening has a bound."""

    def __init__(self) -> None:
        self._is_there = threading.Event()
        self._is_there.set()

    def wait(self) -> None:
        """Wait until it is."""
        self._is_there.wait()

    @contextlib.contextmanager
    def narrow(self) -> Iterator[None]:
        """What takes no more than the disk and the processor do."""
        self._is_there.clear()
        try:
            yield
        finally:
            self._is_there.set()

    @contextlib.contextmanager
    def wide(self) -> Iterator[None]:
        """Within it, what may take as long as it likes, and holds nobody up: asking witnesses."""
        self._is_there.set()
        try:
            yield
        finally:
            self._is_there.clear()


class Pace:
    """Calls `publish` after `wake`, and after a pause before it.

    pause: how many seconds, given how long the last publishing took. meanwhile: is called during it; says whether it is to end.
    What `publish` raises is logged, once however often it is tried.
    """

    def __init__(self, publish: Callable[[], object], pause: Callable[[float], float], meanwhile: Callable[[], bool]) -> None:
        self._publish, self._pause, self._meanwhile = publish, pause, meanwhile
        self._ending, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger-publish", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """There is something to publish."""
        self._wake.set()

    def end(self) -> None:
        """Stop, and wait until it has."""
        self._ending.set()
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        took = 0.0
        said = ""
        while not self._ending.is_set():
            self._wake.wait()
            self._wake.clear()
            until = time.monotonic() + self._pause(took)
            while (left := until - time.monotonic()) > 0:
                if self._ending.wait(min(left, LOOK_EVERY_S)):
                    return
                if self._meanwhile():
                    break
            begun = time.monotonic()
            try:
                self._publish()
            except SteleError as error:
                if error.reason != said and error.code != "ledger.closed":  # which it may be by now
                    logs.of(__name__).error("%s", error.reason)
                said = error.reason
                if error.retryable:
                    self._wake.set()  # held back: whoever did it sets the pace
            except Exception:  # noqa: BLE001  it is logged, and tried again
                logs.of(__name__).exception("the ledger could not be published")
            took = time.monotonic() - begun
