"""The sensor: a thread of the agent that hears what changes: writable places, the mount table, refused writes."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from stele.host import mounts, pidfd, procfs
from stele.model.report import Report, clean
from stele.trust.errors import SteleError
from stele.watch.changes import Changes
from stele.watch.pace import Pace
from stele.watch.writes import RefusedWrites

if TYPE_CHECKING:
    from collections.abc import Callable

    from stele.model.instance import Instance
    from stele.model.spec import Spec

log = logging.getLogger(__name__)
TICK_S = 0.2
RETRY_S = 0.5


class _Watched(NamedTuple):
    instance: Instance
    table: int  # descriptor of its mountinfo
    known: list[frozenset[tuple[str, ...]]]  # the mount table as it was last seen; one element


class Sensor:
    """Hears, and tells `emit`, which may block and may raise SteleError: then it is asked again.

    Args:
        emit: called in a thread of its own with one report after the other.
        with_writes: load the program that sees refused writes; it costs every system call of the host about 0.1 microseconds.
    """

    def __init__(self, emit: Callable[[Report], None], *, with_writes: bool = True) -> None:
        self._emit = emit
        self._lock = threading.RLock()
        self._watched: dict[str, _Watched] = {}
        self._tables: dict[int, str] = {}
        self._groups: dict[int, str] = {}
        self._pace = Pace()
        self._queue: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._wake, select.EPOLLIN)
        self._changes = Changes()
        self._poll.register(self._changes.fd, select.EPOLLIN)
        self._writes: RefusedWrites | None = None
        self.writes_unavailable = "" if with_writes else "switched off"
        if with_writes:
            try:
                self._writes = RefusedWrites()
                self._poll.register(self._writes.fd, select.EPOLLIN)
            except (OSError, KeyError) as error:
                self.writes_unavailable = f"BPF is refused on this host: {error}"
                log.warning("refused writes are not seen: %s", error)
        self._threads = [
            threading.Thread(target=self._hear, name="sensor", daemon=True),
            threading.Thread(target=self._tell, name="sensor-tell", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    # ---- what the agent asks -----------------------------------------------------------------

    def watch(self, instance: Instance, spec: Spec) -> None:
        """Watch an instance from now on (idempotent); what its policy ignores is not watched.

        Raises:
            SteleError: `watch.no-such-process`.
        """
        with self._lock:
            if instance.id in self._watched:
                return
            try:
                table = os.open(f"/proc/{instance.pid}/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
                if not pidfd.is_alive(instance.pid, instance.start_ticks):
                    os.close(table)
                    raise ProcessLookupError
                rows = mounts.parse_mountinfo(procfs.mountinfo(instance.pid))
            except OSError as error:
                raise SteleError(
                    f"instance {instance.id} has no process {instance.pid} any more",
                    remedy="it ended before it could be watched; see its log",
                    code="watch.no-such-process",
                ) from error
            self._watched[instance.id] = _Watched(instance, table, [_essence(rows)])
            self._tables[table] = instance.id
            self._poll.register(table, select.EPOLLPRI | select.EPOLLERR)
            if self._writes is not None and instance.cgroup_id:
                self._writes.watch(instance)
                self._groups[instance.cgroup_id] = instance.id
            if spec.watch.changes != "ignore":
                paths = {item.path: item.kind == "tmpfs" for item in spec.writable}
                for bad in self._changes.watch(instance.id, instance.pid, paths):
                    now = time.monotonic_ns()
                    detail = {"lost": f"not watched: {bad.why}"}
                    self._offer(Report(instance=instance.id, kind="watcher-lost", path=bad.path, seen=now, decided=now, detail=detail))

    def forget(self, instance_id: str) -> None:
        """Stop watching, before its mounts are taken apart; unknown ones are fine."""
        with self._lock:
            watched = self._watched.pop(instance_id, None)
            if watched is None:
                return
            self._tables.pop(watched.table, None)
            with contextlib.suppress(OSError):
                self._poll.unregister(watched.table)
            os.close(watched.table)
            self._changes.forget(instance_id)
            if self._writes is not None:
                self._writes.forget(watched.instance)
                self._groups.pop(watched.instance.cgroup_id, None)
            self._pace.forget(instance_id)

    def close(self) -> None:
        """Tell what was counted, then end."""
        if self._ended.is_set():
            return
        self._ended.set()
        os.eventfd_write(self._wake, 1)
        self._threads[0].join()
        with self._lock:
            for instance_id in list(self._watched):
                self.forget(instance_id)
            self._changes.close()
            if self._writes is not None:
                self._writes.close()
            self._poll.close()
            os.close(self._wake)
        self._queue.put(None)
        self._threads[1].join()

    # ---- threads -----------------------------------------------------------------------------

    def _hear(self) -> None:
        while not self._ended.is_set():
            for fd, _ in self._poll.poll(TICK_S if self._pace.is_counting else 5.0):
                with self._lock:
                    try:
                        self._handle(fd)
                    except OSError:
                        log.exception("the sensor met what it does not expect")
            with self._lock:
                for report in self._pace.settle(time.monotonic_ns(), at_once=self._ended.is_set()):
                    self._queue.put(report)

    def _handle(self, fd: int) -> None:
        if fd == self._changes.fd:
            for report in self._changes.read(lambda instance: self._pace.is_full(instance, "change")):
                if report is None:
                    self._lost("more changes than could be read")
                else:
                    self._offer(report)
        elif self._writes is not None and fd == self._writes.fd:
            self._hear_writes(self._writes)
        elif fd in self._tables:
            self._look_at_mounts(self._watched[self._tables[fd]])

    def _offer(self, report: Report) -> None:
        told = self._pace.take(report, time.monotonic_ns())
        if told is not None:
            self._queue.put(told)

    def _lost(self, what: str) -> None:
        now = time.monotonic_ns()
        for instance_id in self._watched:
            self._offer(Report(instance=instance_id, kind="watcher-lost", seen=now, decided=now, detail={"lost": what}))

    def _hear_writes(self, writes: RefusedWrites) -> None:
        for refused in writes.read():
            instance_id = self._groups.get(refused.cgroup_id)
            if instance_id is None:
                continue
            self._offer(
                Report(
                    instance=instance_id,
                    kind="write-refused",
                    path=clean(refused.path),
                    syscall=refused.call,
                    pid=refused.pid,
                    tid=refused.tid,
                    comm=clean(refused.comm),
                    exe=clean(procfs.exe(refused.tid)),
                    refused=True,
                    seen=refused.at,
                    decided=refused.at,
                )
            )
        for watched in self._watched.values():
            missed = writes.missed(watched.instance)
            if missed > 0:
                now = time.monotonic_ns()
                detail = {"more": "there were more than could be read; their paths are unknown"}
                report = Report(
                    instance=watched.instance.id, kind="write-refused", refused=True, seen=now, decided=now, count=missed, detail=detail
                )
                self._offer(report)

    def _look_at_mounts(self, watched: _Watched) -> None:
        try:
            now_there = _essence(mounts.parse_mountinfo(procfs.mountinfo(watched.instance.pid)))
        except OSError:
            now_there = frozenset()
        if not now_there:
            self._poll.unregister(watched.table)  # its last process is gone, and its mounts with it
            self._tables.pop(watched.table, None)
            return
        before, watched.known[0] = watched.known[0], now_there
        now = time.monotonic_ns()
        for what, rows in (("removed", before - now_there), ("added", now_there - before)):
            for row in sorted(rows):
                detail: dict[str, Any] = {"what": what, "type": row[1], "source": row[2], "options": row[3]}
                detail = {key: clean(value, 512) for key, value in detail.items()}
                self._offer(
                    Report(instance=watched.instance.id, kind="mount-change", path=clean(row[0]), seen=now, decided=now, detail=detail)
                )

    def _tell(self) -> None:
        while (report := self._queue.get()) is not None:
            while True:
                try:
                    self._emit(report)
                    break
                except SteleError as error:
                    log.warning("a report could not be recorded, it is tried again: %s", error.reason)
                    if self._ended.wait(RETRY_S):
                        break


def _essence(rows: list[mounts.Mount]) -> frozenset[tuple[str, ...]]:
    """What of a mount table matters: where, what, from where, how."""
    return frozenset((row.target, row.fstype, row.source, row.options) for row in rows)
