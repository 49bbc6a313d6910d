"""A process that helps with one thing: forked from this one, asked over a pipe, and gone with it.

For work that Python's one lock would keep on one processor. What a helper did not do, whoever asks does without it.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import threading
import warnings
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_LENGTH = 8  # bytes before a request or an answer: how long it is
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_HANDLED = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
_libc = ctypes.CDLL(None)


def possible() -> bool:
    """Whether this process may have helpers: it has no other threads, whose locks a fork would leave locked for good."""
    return threading.active_count() == 1 and threading.current_thread() is threading.main_thread()


class Helper:
    """One helper. Used by one thread at a time; closed by any."""

    def __init__(self, serve: Callable[[bytes], bytes]) -> None:
        """Fork it; `serve` answers a request there.

        Raises:
            OSError: no process or no pipe is to be had.
        """
        asked, self._into = os.pipe2(os.O_CLOEXEC)
        self._out, told = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        # whatever came between the fork and `_live` would have the child leave by way of its asker's cleaning up
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of other threads; see `possible`
                self._child = os.fork()
            if not self._child:
                _live(serve, asked, told, (self._into, self._out), parent, before)
        except OSError:
            for fd in (asked, self._into, self._out, told):
                os.close(fd)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(asked)
        os.close(told)

    def ask(self, request: bytes) -> bytes | None:
        """Its answer; None where there is none: it failed, or is gone, now or before."""
        try:
            _write(self._into, request)
            return _read(self._out)
        except OSError:
            return None

    def kill(self) -> None:
        """End it, whatever it is at; who waits for its answer gets none."""
        os.kill(self._child, signal.SIGKILL)  # not waited for yet, so it is still ours

    def close(self) -> None:
        """End it, once nobody asks any more, and give up the pipes."""
        self.kill()
        os.waitpid(self._child, 0)
        os.close(self._into)
        os.close(self._out)


def _live(serve: Callable[[bytes], bytes], asked: int, told: int, others: tuple[int, int], parent: int, mask: Iterable[int]) -> NoReturn:
    """The whole life of a helper. `mask`: the signals that its asker has blocked."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's goes to all; who forked this one decides
        for number in _HANDLED:
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)  # what its asker does on them is not for this one to do
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        gc.disable()
        for fd in others:
            os.close(fd)
        while os.getppid() == parent and (request := _read(asked)) is not None:
            _write(told, serve(request))
    finally:
        os._exit(0)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(len(data).to_bytes(_LENGTH, "little") + data)
    while view:
        view = view[os.write(fd, view) :]


def _read(fd: int) -> bytes | None:
    head = _exactly(fd, _LENGTH)
    return None if head is None else _exactly(fd, int.from_bytes(head, "little"))


def _exactly(fd: int, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        piece = os.read(fd, min(size - len(data), 1 << 20))
        if not piece:
            return None
        data += piece
    return bytes(data)
