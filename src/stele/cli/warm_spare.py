"""A child of the warm process that waits for the next call, with all made that would be made first (docs/spec/warm.md, The spare).

Making a process of this size, and copying the memory that it writes to, would otherwise take a third of what a short command takes.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
from typing import TYPE_CHECKING

from stele.host import circumstances, lookers, memory, peers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LOOKERS = max(2, min(lookers.MOST, os.cpu_count() or 1))
ROOM = 16 << 20  # bytes: more than what sealing a tree of 10,000 paths again takes and gives back
_TAKEN_S = 5.0  # in which a process that waits takes a request
_ENDED_S = 5.0  # in which one that is killed ends, unless it is frozen
_PIDS = struct.Struct(f"={LOOKERS}i")


class Spare:
    """One that waits. `pid`, `pidfd`: its process. `pids`: of it and its lookers; none as long as it is not ready."""

    def __init__(self, run: Callable[[bytes, list[int], Sequence[int]], int]) -> None:
        """Make it.

        Args:
            run: what it does with a request, its descriptors, and those that are to stay open; returns its exit code.

        Raises:
            OSError: there is no room for another process.
        """
        self._sock, its = socket.socketpair()
        try:
            self.pid = os.fork()
        except OSError:
            self._sock.close()
            its.close()
            raise
        if not self.pid:
            code = 70
            try:
                self._sock.close()
                code = _wait(its, run)
            finally:
                os._exit(code)
        its.close()
        self.pids: list[int] = []
        self.pidfd = opened(self.pid)

    def look(self) -> bool:
        """See whether it became ready."""
        if not self.pids:
            self._sock.setblocking(False)
            with contextlib.suppress(OSError):
                said = self._sock.recv(_PIDS.size)
                if len(said) == _PIDS.size:
                    self.pids = [self.pid, *_PIDS.unpack(said)]
        return bool(self.pids)

    def is_as(self, own: Mapping[str, object]) -> bool:
        """Whether it and its lookers still have the circumstances that they were made with, and would go on now."""
        try:
            return all(circumstances.of(pid) == own and not circumstances.is_stopped(pid) for pid in self.pids)
        except OSError:
            return False  # one has ended

    def give(self, body: bytes, fds: Sequence[int]) -> None:
        """Have it run a request.

        Raises:
            OSError: it did not get it whole, and does not run it.
        """
        self._sock.settimeout(_TAKEN_S)
        data = struct.pack(">I", len(body)) + body
        sent = socket.send_fds(self._sock, [data], list(fds))
        if sent < len(data):  # it runs as soon as it has all of it, and its end is closed
            self._sock.sendall(data[sent:])
        self._sock.close()

    def end(self) -> None:
        """End it and its lookers, whatever they are at, stopped ones too; for one that cannot end now, nobody waits."""
        self._sock.close()
        kill(self.pid)
        ended = select.poll()
        ended.register(self.pidfd, select.POLLIN)
        if ended.poll(int(_ENDED_S * 1000)):
            os.waitpid(self.pid, 0)
        os.close(self.pidfd)


def kill(pid: int) -> None:
    """Kill a child that was not waited for yet, and all that is of its session, if it has one already."""
    for send in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            send(pid, signal.SIGKILL)


def opened(pid: int) -> int:
    """A descriptor of a child.

    Raises:
        OSError: there is no room for one; the child was ended then.
    """
    try:
        return os.pidfd_open(pid)
    except OSError:
        kill(pid)
        os.waitpid(pid, 0)
        raise


def _wait(sock: socket.socket, run: Callable[[bytes, list[int], Sequence[int]], int]) -> int:
    """In the child: get ready, say so, and do what comes."""
    os.closerange(3, sock.fileno())
    os.closerange(sock.fileno() + 1, 1 << 16)
    os.setsid()
    pids = lookers.stand_by(LOOKERS)
    memory.settle(ROOM)
    sock.sendall(_PIDS.pack(*pids))
    data, ancillary, _flags, _ = sock.recvmsg(1 << 16, socket.CMSG_SPACE(16 * 4))
    fds = peers.rights_in(ancillary)
    if not data:
        return 0  # the warm process ended
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        piece = sock.recv(1 << 16)
        if not piece:
            return 0
        data += piece
    sock.close()
    return run(data[4:], fds, lookers.descriptors())
