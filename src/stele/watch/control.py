"""The gate's door for the agent: `gate.sock` (docs/spec/gate.md). Nothing here waits for a peer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from stele.host import peers
from stele.trust.errors import SteleError
from stele.watch import guarded, wire

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from stele.model.instance import Instance
    from stele.model.spec import Watch
    from stele.watch.ward import Ward

LISTENER_LIMIT_NS = 3_000_000_000


class Serves(Protocol):
    """What the door needs of the gate."""

    def watch(self, fd: int, handler: Callable[[int], None]) -> None:
        """Call back when `fd` can be read."""

    def unwatch(self, fd: int) -> None:
        """Stop that."""

    def register(self, instance: Instance, policy: Watch) -> None:
        """Guard an instance."""

    def unregister(self, instance_id: str) -> None:
        """Let it go."""

    def has_listener(self, instance: str) -> bool:
        """Whether its calls come here."""

    def has_begun(self, instance: Instance) -> bool:
        """Whether it was started."""

    def status(self) -> dict[str, Any]:
        """Facts for a ping."""

    def end(self) -> bool:
        """End, unless something is guarded."""


class _Waiting(NamedTuple):
    """A registration whose listener is on its way from runc."""

    sock: socket.socket
    instance: Instance
    policy: Watch
    deadline: int


class Control:
    """Accepts the agent's connections, answers requests, and streams reports to the latest subscriber."""

    def __init__(self, gate: Serves, path: Path, ward: Ward) -> None:
        self._gate = gate
        self._ward = ward
        self._door = wire.listen(path)
        self._subscriber: socket.socket | None = None
        self._sent = 0
        self._is_stuck = False
        self._waiting: list[_Waiting] = []
        gate.watch(self._door.fileno(), lambda _: self._accept())

    @property
    def is_waiting(self) -> bool:
        """Whether time alone may bring work."""
        return bool(self._waiting) or self._is_stuck

    def announce(self) -> None:
        """After a fork: let connections name this process as their peer."""
        self._door.listen(64)

    def _accept(self) -> None:
        sock, _ = self._door.accept()
        if peers.peer(sock)[1] != 0:
            sock.close()
            return
        sock.setblocking(False)
        self._gate.watch(sock.fileno(), lambda _: self._hear(sock))

    def _close(self, sock: socket.socket) -> None:
        if sock.fileno() < 0:
            return
        self._gate.unwatch(sock.fileno())
        if sock is self._subscriber:
            self._subscriber, self._is_stuck = None, False
        self._waiting = [item for item in self._waiting if item.sock is not sock]
        sock.close()

    def _hear(self, sock: socket.socket) -> None:
        try:
            message, fds = wire.receive(sock)
        except BlockingIOError:
            return
        except (EOFError, OSError):
            self._close(sock)
            return
        if fds:
            self._close(sock)  # nobody sends descriptors here
            return
        try:
            reply = self._do(sock, message)
        except SteleError as error:
            reply = _no(error.code, error.reason, error.remedy)
        except (KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
            reply = _no("gate.bad-request", f"the gate did not understand: {error}", "agent and gate differ in version: restart both")
        if reply is not None:
            self._reply(sock, reply)

    def _reply(self, sock: socket.socket, reply: dict[str, Any]) -> None:
        try:
            wire.send(sock, reply)
        except OSError:
            self._close(sock)

    def _do(self, sock: socket.socket, message: dict[str, Any]) -> dict[str, Any] | None:
        what = message["op"]
        if what == "ping":
            return self._gate.status()
        if what == "ack":
            self._ward.acknowledge(int(message["n"]))
            return None
        if what == "subscribe":
            if self._subscriber is not None and self._subscriber is not sock:
                self._close(self._subscriber)
            self._subscriber, self._sent, self._is_stuck = sock, 0, False
            self.flush()
            return None
        if what == "register":
            instance, policy = guarded.decode(message)
            self._gate.register(instance, policy)
            if self._gate.has_listener(instance.id):
                return {"ok": True}
            self._waiting.append(_Waiting(sock, instance, policy, time.monotonic_ns() + LISTENER_LIMIT_NS))
            return None
        if what == "unregister":
            self._gate.unregister(str(message["id"]))
            return {"ok": True}
        if what == "end":
            return {"ok": True} if self._gate.end() else _no("gate.in-use", "the gate still guards instances", "remove them first")
        raise KeyError(what)

    def flush(self) -> None:
        """Send the subscriber what it has not got; what does not fit stays for the next tick."""
        self._ward.has_news = False
        sock = self._subscriber
        if sock is None:
            return
        self._is_stuck = False
        for entry in self._ward.outbox.after(self._sent):
            try:
                wire.send(sock, {"n": entry.number, "report": msgspec.to_builtins(entry.report)})
            except BlockingIOError:
                self._is_stuck = True
                return
            except OSError:
                self._close(sock)
                return
            self._sent = entry.number

    def tick(self, now: int) -> None:
        """What waited for time: listeners on their way, a subscriber that was slow."""
        for item in list(self._waiting):
            if self._gate.has_listener(item.instance.id):
                self._waiting.remove(item)
                self._reply(item.sock, {"ok": True})
            elif now > item.deadline:
                self._waiting.remove(item)
                self._give_up(item)
        if self._is_stuck:
            self.flush()

    def _give_up(self, item: _Waiting) -> None:
        entry = self._ward.guarded.get(item.instance.id)
        if entry is not None and self._gate.has_begun(item.instance):
            # it runs, and what it did since its listener was lost is unknown: that is an incident, not a bad request
            self._ward.lost(entry, "no listener: gate and parker were both gone")
            self._reply(item.sock, {"ok": True})
            return
        self._gate.unregister(item.instance.id)
        self._reply(
            item.sock,
            _no(
                "gate.no-listener",
                f"runc handed over no seccomp listener for {item.instance.id}",
                "its calls would be refused one and all: remove it, and create it again",
            ),
        )


def _no(code: str, reason: str, remedy: str) -> dict[str, Any]:
    return {"ok": False, "code": code, "reason": reason, "remedy": remedy}
