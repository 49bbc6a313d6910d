"""The gate: one thread that answers before anything executes (docs/spec/gate.md).

It is its own process and session, outlives the agent, and after its death nothing goes through until a successor answers.
It writes no log while it serves, imports nothing late, and opens nothing on a guarded file system but with O_PATH.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stele.host import locks, peers, procfs, seccomp_notify
from stele.host.freezer import Freezer
from stele.trust.errors import SteleError
from stele.watch import daemon, guarded, wire
from stele.watch.calls import Calls, Listener
from stele.watch.control import Control
from stele.watch.files import Files, make_groups
from stele.watch.guarded import Groups, Guarded
from stele.watch.journal import Journal
from stele.watch.ward import Ward, What, decode, describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from stele.model.instance import Instance
    from stele.model.spec import Watch

TICK_S = 0.05
PAUSE_S = 30e-6
PARKER_LIMIT_S = 10.0
_COLLECT_NS = 10_000_000_000


class Gate:
    """Everything a gate holds, and its loop.

    Raises:
        SteleError: `gate.no-parker`.
        OSError: fanotify or sockets were refused.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._folder = run_dir / "gate"
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._listeners: dict[int, Listener] = {}
        self._keys: set[int] = set()
        self._parked: dict[str, tuple[dict[str, Any], int]] = {}  # fanotify groups and journal, by key
        self._parker: socket.socket | None = None
        self._collected = 0
        self.is_over = False
        notices = self._meet_parker()
        journal, self._groups = self._take_shared()
        self.ward = Ward(journal)
        self.calls = Calls(self.ward)
        self._files = Files(self.ward, self._groups)
        self._control = Control(self, run_dir / "gate.sock", self.ward)
        for group in self._groups:
            self.watch(group, lambda _, group=group: self._files.receive(group))  # type: ignore[misc]
        self._take_over(notices)

    def announce(self) -> None:
        """After detaching: this process is the gate now."""
        self._control.announce()

    # ---- the loop ----------------------------------------------------------------------------

    def watch(self, fd: int, handler: Callable[[int], None]) -> None:
        """Call `handler(events)` whenever `fd` can be read."""
        self._handlers[fd] = handler
        self._poll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """The opposite of `watch`; do it before closing, since the parker's duplicate keeps the file open."""
        if self._handlers.pop(fd, None) is not None:
            with contextlib.suppress(OSError):
                self._poll.unregister(fd)

    def run(self) -> None:
        """Serve until `is_over`."""
        ticked = 0
        while not self.is_over:
            events = self._poll.poll(self._patience())
            for fd, mask in events:
                handler = self._handlers.get(fd)
                if handler is not None:
                    handler(mask)
            if self.ward.pending:
                self.ward.poll()
                if self.ward.pending and not events:
                    time.sleep(PAUSE_S)
            if self.ward.forget_allowed:
                self.ward.forget_allowed = False
                self._files.ask_again()
            if self.ward.has_news:
                self._control.flush()
            now = time.monotonic_ns()
            if now - ticked > TICK_S * 1e9:
                ticked = now
                self._tick(now)

    def _patience(self) -> float | None:
        if self.ward.pending:
            return 0
        if self._parker is None or self.calls.count or self._control.is_waiting or self.ward.pace.is_counting:
            return TICK_S
        return 5.0

    def _tick(self, now: int) -> None:
        self.calls.expire(now)
        self.ward.settle()
        self._control.tick(now)
        if self._parker is None:
            self._find_parker_again()
        if now - self._collected > _COLLECT_NS:
            self._collected = now
            gc.collect(0)

    # ---- the parker --------------------------------------------------------------------------

    def _meet_parker(self) -> list[str]:
        """Connect and fetch everything that is parked."""
        try:
            sock = wire.connect(self._run_dir / "parker.sock", PARKER_LIMIT_S)
            if peers.peer(sock)[1] != 0:
                raise ConnectionRefusedError
            message, _ = wire.receive(sock)
            keys = [str(key) for key in message.get("keys", ())]
            self._parker = sock
            for key in keys:
                wire.send(sock, {"op": "get", "key": key})
                while True:
                    message, fds = wire.receive(sock)
                    self._item(message, fds)
                    if message.get("key") == key:
                        break
            sock.setblocking(False)
        except (OSError, EOFError) as error:
            self._parker = None
            raise SteleError(
                "the gate's parker does not answer", remedy="`stele agent start` starts both", code="gate.no-parker"
            ) from error
        self.watch(sock.fileno(), lambda _: self._hear_parker())
        return keys

    def _hear_parker(self) -> None:
        assert self._parker is not None
        try:
            message, fds = wire.receive(self._parker)
        except BlockingIOError:
            return
        except (EOFError, OSError):
            self.unwatch(self._parker.fileno())
            self._parker.close()
            self._parker = None
            return
        self._item(message, fds)

    def _item(self, message: dict[str, Any], fds: list[int]) -> None:
        key, what = str(message.get("key", "")), message.get("what")
        is_new = message.get("op") == "item" and len(fds) == 1
        if is_new and what == "listener" and key.startswith("L") and int(key[1:]) not in self._keys:
            self._add_listener(Listener(int(key[1:]), fds.pop(), str(message.get("instance", ""))))
        elif is_new and what in ("group", "journal") and key not in self._parked:
            self._parked[key] = ({"what": what}, fds.pop())
        for fd in fds:
            os.close(fd)

    def _find_parker_again(self) -> None:
        """A new parker knows nothing: give it everything."""
        try:
            known = self._meet_parker()
        except SteleError:
            return
        mine = [(key, about, fd) for key, (about, fd) in self._parked.items()]
        mine += [(f"L{item.key}", {"what": "listener", "instance": item.instance}, fd) for fd, item in self._listeners.items()]
        for key, about, fd in mine:
            if key not in known:
                self._park(key, about, fd)

    def _park(self, key: str, about: dict[str, Any], fd: int) -> None:
        if self._parker is not None:
            # a small message with room in the socket; if not, the parker has parted from us and we meet again at the next tick
            with contextlib.suppress(OSError):
                wire.send(self._parker, {"op": "park", "key": key, "about": about}, (fd,))

    def _take_shared(self) -> tuple[Journal, Groups]:
        if len(self._parked) < 3:
            sealed, other = make_groups()
            journal = Journal.create()
            for key, what, fd in (("groups.sealed", "group", sealed), ("groups.other", "group", other), ("journal", "journal", journal.fd)):
                self._parked[key] = ({"what": what}, fd)
                self._park(key, {"what": what}, fd)
            return journal, Groups(sealed, other)
        return Journal(self._parked["journal"][1]), Groups(self._parked["groups.sealed"][1], self._parked["groups.other"][1])

    # ---- listeners ---------------------------------------------------------------------------

    def _add_listener(self, listener: Listener) -> None:
        self._listeners[listener.fd] = listener
        self._keys.add(listener.key)
        seccomp_notify.wake_in_place(listener.fd)
        self.watch(listener.fd, lambda mask: self._hear_listener(listener, mask))

    def _hear_listener(self, listener: Listener, mask: int) -> None:
        if mask & (select.EPOLLHUP | select.EPOLLERR):
            self._drop_listener(listener)  # every task under this filter has ended
            return
        try:
            self.calls.receive(listener)
        except OSError as error:
            self._drop_listener(listener)
            found = self.ward.guarded.get(listener.instance)
            if found is not None:
                self.ward.lost(found, f"the listener failed: {error.strerror}")
            return
        found = self.ward.guarded.get(listener.instance)
        if found is not None and found.is_quarantined and listener.fd in self._handlers:
            # its calls are never answered, so they would wake us for ever: only new ones do
            self._poll.modify(listener.fd, select.EPOLLIN | select.EPOLLET)

    def _drop_listener(self, listener: Listener) -> None:
        self.unwatch(listener.fd)
        self._listeners.pop(listener.fd, None)
        self._keys.discard(listener.key)
        self.calls.forget(listener)
        os.close(listener.fd)
        if self._parker is not None:
            with contextlib.suppress(OSError):
                wire.send(self._parker, {"op": "drop", "key": f"L{listener.key}"})

    def has_listener(self, instance: str) -> bool:
        """Whether calls of an instance come here."""
        return any(item.instance == instance for item in self._listeners.values())

    # ---- registrations -----------------------------------------------------------------------

    def register(self, instance: Instance, policy: Watch) -> None:
        """Take an instance under guard, or renew it (idempotent).

        Raises:
            SteleError: `gate.full`, and what `Guarded` raises.
        """
        known = self.ward.guarded.get(instance.id)
        if known is not None:
            known.policy = policy
        else:
            self._guard(instance, policy)
        guarded.save(self._folder, instance, policy)
        self.calls.registered(instance.id)

    def _guard(self, instance: Instance, policy: Watch) -> Guarded:
        slot = self.ward.journal.enter(instance.id)
        if slot is None:
            raise SteleError(
                "the gate guards as many instances as it can", remedy="release frozen instances: `stele incidents`", code="gate.full"
            )
        try:
            entry = Guarded(instance, policy, slot)
            entry.place_marks(self._groups)
        except SteleError:
            self.ward.journal.leave(slot)
            raise
        entry.is_quarantined = self.ward.journal.is_quarantined(slot)
        self.ward.add(entry)
        return entry

    def unregister(self, instance_id: str) -> None:
        """Let an instance go; unknown ones are fine."""
        self.ward.remove(instance_id)
        guarded.erase(self._folder, instance_id)

    @staticmethod
    def has_begun(instance: Instance) -> bool:
        """Whether an instance was started: before that its first process is still runc's."""
        return procfs.argv(instance.pid)[:2] != ("runc", "init")

    def status(self) -> dict[str, Any]:
        """What a ping answers."""
        return {
            "ok": True,
            "pid": os.getpid(),
            "parker": self._parker is not None,
            "instances": sorted(self.ward.guarded),
            "quarantined": sorted(key for key, item in self.ward.guarded.items() if item.is_quarantined),
            "listeners": len(self._listeners),
            "holding": self.calls.count,
        }

    def end(self) -> bool:
        """End gate and parker; refused while anything is guarded."""
        if self.ward.guarded:
            return False
        if self._parker is not None:
            with contextlib.suppress(OSError):
                wire.send(self._parker, {"op": "end"})
        self.is_over = True
        return True

    # ---- succession --------------------------------------------------------------------------

    def _take_over(self, keys: list[str]) -> None:
        """Become the successor of whoever served before: what it knew, what it held, what it owed."""
        is_first = "journal" not in keys
        self._files.sweep()
        slots = {slot.instance: slot for slot in self.ward.journal.slots()}
        for instance, policy in guarded.load(self._folder):
            try:
                entry = self._guard(instance, policy)
            except SteleError as error:
                guarded.erase(self._folder, instance.id)
                if error.code != "gate.no-such-process":
                    self._abandon(instance, error)
                continue
            slot = slots.get(instance.id)
            if slot is not None and slot.is_quarantined:
                self._inherit_quarantine(entry, slot.report, is_acknowledged=slot.is_acknowledged)
            elif (is_first or not self.has_listener(instance.id)) and self.has_begun(instance):
                self.ward.lost(entry, "gate and parker were both gone")
        by_key = {item.key: item for item in self._listeners.values()}
        for key, notification in self.ward.journal.unanswered():
            listener = by_key.get(key)
            if listener is not None:
                self.calls.resume(listener, notification)

    def _abandon(self, instance: Instance, error: SteleError) -> None:
        """It lives and cannot be guarded: freeze it, and say so. Its calls are refused, its execs wait."""
        with contextlib.suppress(OSError):
            Freezer(instance.freezer, Path(instance.freezer_dir)).request()
        now = time.monotonic_ns()
        what = What(detail={"lost": f"it cannot be guarded any more: {error.reason}"})
        self.ward.tell(describe(instance.id, 0, now, now, "watcher-lost", what, refused=False))

    def _inherit_quarantine(self, entry: Guarded, report: bytes, *, is_acknowledged: bool) -> None:
        with contextlib.suppress(OSError):
            entry.freezer.request()  # the predecessor may have been killed between the mark and the order
        if is_acknowledged:
            return
        now = time.monotonic_ns()
        owed = decode(report)
        if owed is None:
            lost = What(detail={"lost": "the gate was killed while it froze the instance"})
            owed = describe(entry.instance.id, 0, now, now, "watcher-lost", lost, refused=True)
        self.ward.await_frozen(entry, owed, now)


def main(argv: list[str]) -> int:
    """`python -m stele.watch.gate RUN`: detach once it is ready to answer; 0 also when one runs already."""
    run_dir = Path(argv[1])
    lock = locks.hold(run_dir / "gate" / "gate.lock")
    if lock is None:
        return 0
    try:
        gate = Gate(run_dir)
    except SteleError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    daemon.detach(run_dir / "gate" / "gate.log")
    gate.announce()
    daemon.prefer_us(-10)
    gc.freeze()
    gc.disable()
    gate.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
