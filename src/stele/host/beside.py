"""One piece of work in a thread beside this one, without a pool: `concurrent.futures` takes as long to load as small work takes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Beside(Generic[T]):
    """Work that is being done. A context manager: leaving it waits for the work."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._found: list[T] = []
        self._raised: BaseException | None = None
        self._thread: threading.Thread | None = threading.Thread(target=self._run)
        try:
            self._thread.start()
        except RuntimeError:  # no thread is to be had: it is done at once
            self._thread = None
            self._run()

    def _run(self) -> None:
        try:
            self._found.append(self._work())
        except BaseException as error:  # noqa: BLE001  whoever waits gets it
            self._raised = error

    def __enter__(self) -> Beside[T]:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._thread.join()

    def result(self) -> T:
        """Wait for the work; what it returned, or raise what it raised."""
        self.__exit__()
        if self._raised is not None:
            raise self._raised
        return self._found[0]
