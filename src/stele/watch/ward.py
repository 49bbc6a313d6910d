"""The instances under guard, and what is done to one that violates: mark, freeze, tell."""

from __future__ import annotations

import contextlib
import json
import time
from typing import NamedTuple

import msgspec

from stele.host import procfs
from stele.model.report import Report, ReportKind, clean
from stele.watch import detect
from stele.watch.guarded import Guarded
from stele.watch.journal import MAX_REPORT, Journal
from stele.watch.outbox import Outbox
from stele.watch.pace import Pace

FREEZE_LIMIT_NS = 5_000_000_000
ROOM = 10_000
SHOWN_ARGUMENTS, SHOWN_SIZE = 64, 4096


class Pending(NamedTuple):
    """A freeze that was ordered and is not yet confirmed; its report waits for the time."""

    guarded: Guarded
    report: Report
    deadline: int


class What(NamedTuple):
    """What a report is about, as far as it is not read from /proc. `argv`: of the exec, if it is one."""

    path: str = ""
    syscall: str = ""
    argv: tuple[str, ...] = ()
    detail: dict[str, str] = {}  # noqa: RUF012  never changed


class Ward:
    """State of the gate beside its sockets."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.guarded: dict[str, Guarded] = {}
        self.roots: dict[int, Guarded] = {}
        self.others: dict[int, Guarded] = {}
        self.pending: list[Pending] = []
        self.outbox = Outbox(time.monotonic_ns(), ROOM)
        self.pace = Pace()
        self.has_news = False
        self.forget_allowed = False  # an instance was frozen: what was allowed in it must be asked about again

    def add(self, guarded: Guarded) -> None:
        """Take an instance under guard."""
        self.guarded[guarded.instance.id] = guarded
        self.roots[guarded.instance.root_dev] = guarded
        self.others.update(dict.fromkeys(guarded.devices, guarded))

    def remove(self, instance_id: str) -> None:
        """Let an instance go; unknown ones are fine."""
        guarded = self.guarded.pop(instance_id, None)
        if guarded is None:
            return
        self.roots.pop(guarded.instance.root_dev, None)
        for device in guarded.devices:
            self.others.pop(device, None)
        self.pending = [item for item in self.pending if item.guarded is not guarded]
        self.pace.forget(instance_id)
        guarded.close()
        self.journal.leave(guarded.slot)

    def by_process(self, pid: int) -> Guarded | None:
        """The instance in whose mount namespace a process is."""
        namespace = procfs.mount_namespace(pid)
        return next((item for item in self.guarded.values() if namespace and item.mount_namespace == namespace), None)

    # ---- violations --------------------------------------------------------------------------

    def tell(self, report: Report) -> None:
        """Put a report into the outbox, or count it to one of the last second."""
        told = self.pace.take(report, time.monotonic_ns())
        if told is not None:
            self._post(told)

    def _post(self, report: Report) -> None:
        self.outbox.put(report)
        self.has_news = True

    def freeze(self, guarded: Guarded, tid: int, seen: int, kind: ReportKind, what: What) -> None:
        """Mark as quarantined, order the freeze, then gather what the report says. Confirmed by `poll`."""
        decided = time.monotonic_ns()
        if not guarded.is_quarantined:
            self.journal.quarantine(guarded.slot)
            guarded.is_quarantined = True
        with contextlib.suppress(OSError):
            guarded.freezer.request()
        report = describe(guarded.instance.id, tid, seen, decided, kind, what, refused=True)
        self.journal.owe(guarded.slot, encode_short(report))
        self.await_frozen(guarded, report, decided)

    def await_frozen(self, guarded: Guarded, report: Report, now_ns: int) -> None:
        """Tell the report as soon as the freeze that was ordered is confirmed."""
        guarded.is_quarantined = True
        self.pending.append(Pending(guarded, report, now_ns + FREEZE_LIMIT_NS))

    def keep_frozen(self, guarded: Guarded) -> None:
        """A quarantined instance moved: somebody thawed it. Freeze it again."""
        with contextlib.suppress(OSError):
            if not guarded.freezer.is_requested():
                guarded.freezer.request()

    def poll(self) -> None:
        """Look whether ordered freezes are done; tell about those that are, or that take too long."""
        for item in list(self.pending):
            try:
                is_frozen = item.guarded.freezer.is_frozen()
                is_over = False
            except OSError:
                is_frozen, is_over = False, True  # its cgroup is gone: everything in it has died
            now = time.monotonic_ns()
            if is_frozen:
                report = msgspec.structs.replace(item.report, is_frozen=True, frozen=now)
            elif is_over or now > item.deadline:
                report = msgspec.structs.replace(item.report, detail={**item.report.detail, "freeze": "not confirmed"})
            else:
                continue
            self.pending.remove(item)
            self.forget_allowed = True
            self._post(report)
            self.journal.owe(item.guarded.slot, encode_short(report))

    def lost(self, guarded: Guarded, what: str) -> None:
        """Something of an instance may have gone unseen: an incident, never a log line."""
        now = time.monotonic_ns()
        if guarded.is_quarantined:
            return
        about = What(detail={"lost": what})
        if detect.freezes_on_loss(guarded.policy):
            self.freeze(guarded, 0, now, "watcher-lost", about)
        else:
            self.tell(describe(guarded.instance.id, 0, now, now, "watcher-lost", about, refused=False))

    def settle(self) -> None:
        """What time alone brings: counts become reports, and lost reports an incident."""
        for report in self.pace.settle(time.monotonic_ns()):
            self._post(report)
        count = self.outbox.take_lost()
        if count:
            for guarded in list(self.guarded.values()):
                self.lost(guarded, f"{count} reports found no room")

    def acknowledge(self, number: int) -> None:
        """Reports up to `number` are committed."""
        for report in self.outbox.acknowledge(number):
            guarded = self.guarded.get(report.instance)
            if guarded is not None and guarded.is_quarantined:
                self.journal.acknowledge(guarded.slot)


def describe(instance: str, tid: int, seen: int, decided: int, kind: ReportKind, what: What, *, refused: bool) -> Report:
    """A report with what /proc says of the task now; `tid` 0: nobody in particular."""
    return Report(
        instance=instance,
        kind=kind,
        path=clean(what.path),
        syscall=what.syscall,
        pid=procfs.process_of(tid) if tid else 0,
        tid=tid,
        comm=clean(procfs.comm(tid)) if tid else "",
        exe=clean(procfs.exe(tid)) if tid else "",
        argv=_shown(what.argv or (procfs.argv(tid) if tid else ())),
        refused=refused,
        seen=seen,
        decided=decided,
        detail={key: clean(value, 512) for key, value in what.detail.items()},
    )


def _shown(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The beginning of an argument vector: at most 64, and 4 KiB of them."""
    out: list[str] = []
    room = SHOWN_SIZE
    for part in argv[:SHOWN_ARGUMENTS]:
        if room <= 0:
            break
        out.append(clean(part, min(room, 1024)))
        room -= len(part) + 1
    return tuple(out)


def encode(report: Report) -> bytes:
    """A report as JSON."""
    return json.dumps(msgspec.to_builtins(report), separators=(",", ":")).encode("ascii")


def encode_short(report: Report) -> bytes:
    """A report as JSON that fits the journal; one that is too long loses its arguments and the end of its path."""
    data = encode(report)
    if len(data) > MAX_REPORT:
        data = encode(msgspec.structs.replace(report, argv=(), path=report.path[:256], exe=report.exe[:256], detail={}))
    return data


def decode(data: bytes) -> Report | None:
    """A report from JSON; None if it is not one."""
    try:
        return msgspec.convert(json.loads(data), Report)
    except (ValueError, msgspec.ValidationError):
        return None
