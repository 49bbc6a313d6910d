"""A process that helps with one thing: forked from this one, asked over a socket, and gone with it.

For work that Python's one lock would keep on one processor. What a helper did not do, whoever asks does without it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import threading
import warnings
from array import array
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Iterable, Sequence

    Serve = Callable[[bytes, Sequence[int]], bytes]  # of a request, and descriptors of files that came with it

T = TypeVar("T")
_LENGTH = 8  # bytes before a request or an answer: how long it is
_MOST_FILES = 8  # that come with a request
_SOONER = 500  # thousandths of all memory that it counts for besides its own
_PATIENCE_S = 1.0  # without a byte, until it is looked whether somebody stopped it
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_HANDLED = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
_libc = ctypes.CDLL(None)


def possible() -> bool:
    """Whether this process may have helpers: it has no other threads, whose locks a fork would leave locked for good.

    Nor does it ignore what becomes of its children: then the number of one that is gone may be another's.
    """
    alone = threading.active_count() == 1 and threading.current_thread() is threading.main_thread()
    return alone and signal.getsignal(signal.SIGCHLD) != signal.SIG_IGN


class Helper:
    """One helper. Used by one thread at a time; closed by any."""

    def __init__(self, serve: Serve) -> None:
        """Fork it; `serve` answers a request there.

        Raises:
            OSError: no process or no socket is to be had.
        """
        import _socket  # `socket` takes as long to load as a small seal's files take to be read

        self._here, there = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        parent = os.getpid()
        # whatever came between the fork and `_live` would have the child leave by way of its asker's cleaning up
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of other threads; see `possible`
                self._child = os.fork()
            if not self._child:
                _live(serve, there, self._here, parent, before)
        except OSError:
            self._here.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            there.close()
        self._here.settimeout(_PATIENCE_S)

    def ask(self, request: bytes, files: Sequence[int] = ()) -> bytes | None:
        """Its answer; None where there is none: it failed, or is gone or stopped, now or before.

        `files`: descriptors that it gets with the request, at most 8; it has closed them when it answers.
        """
        try:
            self._patiently(lambda: _send_head(self._here, len(request), files))
            view = memoryview(request)
            while view:
                view = view[self._patiently(lambda view=view: self._here.send(view)) :]  # type: ignore[misc]
            return _read(lambda size: self._patiently(lambda: self._here.recv(size)))
        except OSError:
            return None

    def _patiently(self, do: Callable[[], T]) -> T:
        """Do something until it is done, or until the helper is stopped: then it is ended, since nobody knows for how long."""
        seen = False
        while True:
            try:
                return do()
            except TimeoutError:
                stopped = os.waitid(os.P_PID, self._child, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
                if stopped and seen:  # not the first time: both may have been stopped (Ctrl-Z), and this one goes on before the other
                    self.kill()
                    os.waitid(os.P_PID, self._child, os.WEXITED | os.WNOWAIT)  # from here on it changes nothing any more
                    raise
                seen = stopped

    def kill(self) -> None:
        """End it, whatever it is at; who waits for its answer gets none."""
        os.kill(self._child, signal.SIGKILL)  # not waited for yet, so it is still ours

    def close(self) -> None:
        """End it, once nobody asks any more, and give up the socket."""
        self.kill()
        os.waitpid(self._child, 0)
        self._here.close()


def _live(serve: Serve, there: _socket.socket, other: _socket.socket, parent: int, mask: Iterable[int]) -> NoReturn:
    """The whole life of a helper. `mask`: the signals that its asker has blocked."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's goes to all; who forked this one decides
        for number in _HANDLED:
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)  # what its asker does on them is not for this one to do
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        gc.disable()
        other.close()
        _go_first()
        while os.getppid() == parent:
            head, files = _receive_head(there)
            request = _read(there.recv, head)
            if request is None:
                break
            answer = serve(request, files)
            for fd in files:
                os.close(fd)
            there.sendall(len(answer).to_bytes(_LENGTH, "little") + answer)
    finally:
        os._exit(0)


def _go_first() -> None:
    """Have the kernel end this one before its asker, where memory is short: what it was at is done all the same."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:
        before = int(file.read())
        file.seek(0)
        file.write(str(min(1000, before + _SOONER)))


def _send_head(to: _socket.socket, length: int, files: Sequence[int]) -> None:
    import _socket

    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", files))] if files else []
    to.sendmsg([length.to_bytes(_LENGTH, "little")], rights)  # so few bytes go whole or not at all


def _receive_head(there: _socket.socket) -> tuple[bytes, Sequence[int]]:
    import _socket

    files = array("i")
    head, rights, _, _ = there.recvmsg(_LENGTH, _socket.CMSG_SPACE(_MOST_FILES * files.itemsize), _socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in rights:
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
            files.frombytes(data)
    return head, files


def _read(receive: Callable[[int], bytes], head: bytes = b"") -> bytes | None:
    """What is sent, `head` being the first of it; None where it ends too early."""
    whole = _exactly(receive, _LENGTH, head)
    return None if whole is None else _exactly(receive, int.from_bytes(whole, "little"))


def _exactly(receive: Callable[[int], bytes], size: int, begun: bytes = b"") -> bytes | None:
    data = bytearray(begun)
    while len(data) < size:
        piece = receive(min(size - len(data), 1 << 20))
        if not piece:
            return None
        data += piece
    return bytes(data)
