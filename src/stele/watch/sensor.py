"""The sensor: a thread of the agent that hears what changes: writable places, the mount table, refused writes."""

from __future__ import annotations

import dataclasses
import logging
import os
import queue
import select
import threading
import time
from typing import TYPE_CHECKING, Any

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
MEASURE_NS = 1_000_000_000


@dataclasses.dataclass
class _Watched:
    """`table`: descriptor of its mountinfo; `known`: the mount table as it was last seen."""

    instance: Instance
    table: int
    known: frozenset[tuple[str, ...]]
    changes: Changes | None


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
        self._tables: dict[int, _Watched] = {}
        self._groups: dict[int, _Watched] = {}  # by descriptor of their changes
        self._cgroups: dict[int, str] = {}
        self._namespaces: dict[int, str] = {}
        self._measured = 0
        self._pace = Pace()
        self._queue: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._wake, select.EPOLLIN)
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
            watched = self._watched[instance.id] = _Watched(instance, table, _essence(rows), None)
            self._tables[table] = watched
            self._poll.register(table, select.EPOLLPRI | select.EPOLLERR)
            self._namespaces[procfs.mount_namespace(instance.pid)] = instance.id
            if self._writes is not None and instance.cgroup_id:
                self._writes.watch(instance)
                self._cgroups[instance.cgroup_id] = instance.id
            if spec.watch.changes != "ignore" and spec.writable:
                self._watch_changes(watched, {item.path: item.kind == "tmpfs" for item in spec.writable})

    def _watch_changes(self, watched: _Watched, paths: dict[str, bool]) -> None:
        instance_id = watched.instance.id
        try:
            changes = Changes(
                instance_id, watched.instance.pid, paths, lambda namespace: self._namespaces.get(namespace, instance_id) != instance_id
            )
        except OSError as error:
            self._unwatched(instance_id, "", str(error.strerror))
            return
        watched.changes = changes
        self._groups[changes.fd] = watched
        self._poll.register(changes.fd, select.EPOLLIN)
        for bad in changes.unwatched:
            self._unwatched(instance_id, bad.path, bad.why)

    def _unwatched(self, instance_id: str, path: str, why: str) -> None:
        """A place that cannot be watched is told, once; it is no violation of the instance's."""
        now = time.monotonic_ns()
        self._offer(Report(instance=instance_id, kind="change", path=path, seen=now, decided=now, detail={"what": f"not watched: {why}"}))

    def forget(self, instance_id: str) -> None:
        """Stop watching, before its mounts are taken apart; unknown ones are fine."""
        with self._lock:
            watched = self._watched.pop(instance_id, None)
            if watched is None:
                return
            if self._tables.pop(watched.table, None):
                self._poll.unregister(watched.table)
            os.close(watched.table)
            self._close_changes(watched)
            self._namespaces = {key: value for key, value in self._namespaces.items() if value != instance_id}
            if self._writes is not None:
                self._writes.forget(watched.instance)
                self._cgroups.pop(watched.instance.cgroup_id, None)
            self._pace.forget(instance_id)

    def _close_changes(self, watched: _Watched) -> None:
        if watched.changes is not None:
            self._poll.unregister(watched.changes.fd)
            del self._groups[watched.changes.fd]
            watched.changes.close()
            watched.changes = None

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
                if time.monotonic_ns() - self._measured > MEASURE_NS:
                    self._measure(time.monotonic_ns())
                for report in self._pace.settle(time.monotonic_ns(), at_once=self._ended.is_set()):
                    self._queue.put(report)

    def _handle(self, fd: int) -> None:
        if fd in self._groups:
            self._hear_changes(self._groups[fd])
        elif self._writes is not None and fd == self._writes.fd:
            self._hear_writes(self._writes)
        elif fd in self._tables:
            self._look_at_mounts(self._tables[fd])

    def _hear_changes(self, watched: _Watched) -> None:
        assert watched.changes is not None
        instance_id = watched.instance.id
        for report in watched.changes.read(is_full=self._pace.is_full(instance_id, "change")):
            if report is None:
                self._lost(watched, "the queue of changes overflowed")
            else:
                self._offer(report)

    def _measure(self, now: int) -> None:
        """Give up on an instance that changes more than can be read, before its events fill the memory."""
        self._measured = now
        for watched in list(self._groups.values()):
            if watched.changes is not None and watched.changes.is_behind():
                self._close_changes(watched)
                self._lost(watched, "more changes than can be read: they are no longer watched")

    def _offer(self, report: Report) -> None:
        told = self._pace.take(report, time.monotonic_ns())
        if told is not None:
            self._queue.put(told)

    def _lost(self, watched: _Watched, what: str) -> None:
        now = time.monotonic_ns()
        self._offer(Report(instance=watched.instance.id, kind="watcher-lost", seen=now, decided=now, detail={"lost": what}))

    def _hear_writes(self, writes: RefusedWrites) -> None:
        for refused in writes.read():
            instance_id = self._cgroups.get(refused.cgroup_id)
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
        before, watched.known = watched.known, now_there
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
