"""The parker: holds what must outlive the gate, and decides nothing (docs/spec/gate.md).

It accepts runc's connections on `seccomp.sock`, keeps the listeners, and keeps whatever the gate parks (the fanotify
groups, its journal). Whoever connects to `parker.sock` may have a duplicate of everything, and gets one of all that arrives.
While it holds duplicates a dead gate lets nothing through: callers wait for the successor.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import socket
import sys
import time
from pathlib import Path
from typing import Any

from stele.host import locks, peers
from stele.watch import daemon, wire

MAX_STATE = 64 << 10
STATE_LIMIT_S = 5.0
_RIGHTS = socket.CMSG_SPACE(16)


class _Arrival:
    """A connection of runc's that has not yet said everything."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.data = b""
        self.fds: list[int] = []
        self.deadline = time.monotonic() + STATE_LIMIT_S


class Parker:
    """The keeper. One thread; every socket is non-blocking; a peer that does not read is cut off."""

    def __init__(self, run_dir: Path) -> None:
        self._runc = wire.listen(run_dir / "seccomp.sock", socket.SOCK_STREAM)
        self._door = wire.listen(run_dir / "parker.sock")
        self._poll = selectors.DefaultSelector()
        self._poll.register(self._runc, selectors.EVENT_READ, self._accept_runc)
        self._poll.register(self._door, selectors.EVENT_READ, self._accept_gate)
        self._kept: dict[str, tuple[dict[str, Any], int]] = {}
        self._gates: set[socket.socket] = set()
        self._arrivals: set[_Arrival] = set()

    def run(self) -> None:
        """Serve until told to end."""
        while True:
            for key, _ in self._poll.select(1.0 if self._arrivals else None):
                key.data(key.fileobj)
            now = time.monotonic()
            for arrival in [arrival for arrival in self._arrivals if arrival.deadline < now]:
                self._forget(arrival)

    # ---- runc --------------------------------------------------------------------------------

    def _accept_runc(self, _: Any) -> None:
        sock, _address = self._runc.accept()
        if peers.peer(sock)[1] != 0:
            sock.close()
            return
        sock.setblocking(False)
        arrival = _Arrival(sock)
        self._arrivals.add(arrival)
        self._poll.register(sock, selectors.EVENT_READ, lambda _: self._read_state(arrival))

    def _read_state(self, arrival: _Arrival) -> None:
        """Read on; stop as soon as the JSON is whole: `runc exec` keeps its end open."""
        try:
            data, ancillary, _, _ = arrival.sock.recvmsg(MAX_STATE, _RIGHTS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            self._forget(arrival)
            return
        arrival.fds += peers.rights_in(ancillary)
        arrival.data += data
        state = None
        try:
            state = json.loads(arrival.data)
        except ValueError:
            if not data or len(arrival.data) > MAX_STATE:
                self._forget(arrival)
            return
        if isinstance(state, dict) and "seccompFd" in state.get("fds", ()) and arrival.fds:
            position = min(state["fds"].index("seccompFd"), len(arrival.fds) - 1)
            listener = arrival.fds.pop(position)
            about = {"what": "listener", "instance": str(state.get("metadata", ""))[:64], "pid": int(state.get("pid", 0))}
            self._keep(f"L{time.monotonic_ns()}", about, listener)
        self._forget(arrival)

    def _forget(self, arrival: _Arrival) -> None:
        self._arrivals.discard(arrival)
        self._poll.unregister(arrival.sock)
        arrival.sock.close()
        for fd in arrival.fds:
            os.close(fd)

    # ---- gates -------------------------------------------------------------------------------

    def _accept_gate(self, _: Any) -> None:
        sock, _address = self._door.accept()
        if peers.peer(sock)[1] != 0:
            sock.close()
            return
        sock.setblocking(False)
        self._gates.add(sock)
        self._poll.register(sock, selectors.EVENT_READ, self._hear)
        self._tell(sock, {"op": "keys", "keys": list(self._kept)})

    def _hear(self, sock: Any) -> None:
        try:
            message, fds = wire.receive(sock)
        except BlockingIOError:
            return
        except (EOFError, OSError):
            self._part(sock)
            return
        key = str(message.get("key", ""))
        if message.get("op") == "get":
            about, fd = self._kept.get(key, ({}, -1))
            self._tell(sock, {"op": "gone", "key": key} if fd < 0 else {"op": "item", "key": key, **about}, () if fd < 0 else (fd,))
        elif message.get("op") == "park" and len(fds) == 1 and key not in self._kept:
            self._keep(key, message.get("about", {}), fds.pop(), sender=sock)
        elif message.get("op") == "drop" and key in self._kept:
            os.close(self._kept.pop(key)[1])
        elif message.get("op") == "end":
            raise SystemExit(0)
        for fd in fds:
            os.close(fd)

    def _keep(self, key: str, about: dict[str, Any], fd: int, sender: socket.socket | None = None) -> None:
        self._kept[key] = (about, fd)
        for gate in self._gates - {sender}:
            self._tell(gate, {"op": "item", "key": key, **about}, (fd,))

    def _tell(self, sock: Any, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        try:
            wire.send(sock, message, fds)
        except OSError:
            self._part(sock)

    def _part(self, sock: Any) -> None:
        if sock in self._gates:
            self._gates.discard(sock)
            self._poll.unregister(sock)
            sock.close()


def main(argv: list[str]) -> int:
    """`python -m stele.watch.parker RUN`: detach once the sockets are bound; 0 also when one runs already."""
    run_dir = Path(argv[1])
    lock = locks.hold(run_dir / "gate" / "parker.lock")
    if lock is None:
        return 0
    parker = Parker(run_dir)
    daemon.detach(run_dir / "gate" / "gate.log")
    daemon.prefer_us(-5)
    gc.freeze()
    parker.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
