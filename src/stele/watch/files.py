"""The second ear: fanotify permission events. It decides by the file itself, which no race of names can change."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import TYPE_CHECKING

from stele.host import fanotify
from stele.watch import detect
from stele.watch.ward import What, describe

if TYPE_CHECKING:
    from stele.watch.guarded import Groups
    from stele.watch.ward import Ward

_IGNORE = fanotify.MARK_ADD | fanotify.MARK_IGNORE | fanotify.MARK_IGNORED_SURV_MODIFY | fanotify.MARK_EVICTABLE
_SWEEP_BEYOND = 1024


def make_groups() -> tuple[int, int]:
    """The two permission groups. Without a limit on the queue: at a limit the kernel lets everything through."""
    flags = fanotify.CLOEXEC | fanotify.NONBLOCK | fanotify.CLASS_CONTENT | fanotify.UNLIMITED_QUEUE | fanotify.UNLIMITED_MARKS
    return fanotify.init(flags), fanotify.init(flags)


class Files:
    """Answers permission events, one at a time: what is read and not answered is at most one a group."""

    def __init__(self, ward: Ward, groups: Groups) -> None:
        self._ward = ward
        self._groups = groups

    def sweep(self) -> None:
        """Answer what a dead predecessor had read: its events are known by its descriptor numbers alone.

        Whatever came from the group of sealed roots is sealed; the rest is not.
        """
        for number in range(self._ward.journal.highest_descriptor() + _SWEEP_BEYOND):
            for group, verdict in ((self._groups.sealed, fanotify.ALLOW), (self._groups.other, fanotify.DENY)):
                with contextlib.suppress(OSError):
                    while True:  # several predecessors may have used the same number
                        fanotify.answer(group, number, verdict)

    def ask_again(self) -> None:
        """Forget which files are ignored: whoever executes in an instance that is frozen now is a stranger."""
        with contextlib.suppress(OSError):
            fanotify.mark(self._groups.sealed, fanotify.MARK_FLUSH, 0)

    def receive(self, group: int) -> None:
        """Take one event from a group that poll says has one, and answer it."""
        try:
            data = os.read(group, fanotify.EVENT_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE, errno.ENXIO):
                return  # the kernel could not open the file for us and has refused it itself
            raise
        seen = time.monotonic_ns()
        for event in fanotify.parse(data):
            if event.mask & fanotify.Q_OVERFLOW:
                for guarded in list(self._ward.guarded.values()):
                    self._ward.lost(guarded, "the queue of permission events overflowed")
            elif event.fd >= 0:
                self._ward.journal.note_descriptor(event.fd)
                try:
                    self._decide(group, event, seen)
                except Exception as error:  # noqa: BLE001  it must not take down the gate, or every successor would fail again
                    self._answer(group, event.fd, fanotify.DENY)
                    for guarded in list(self._ward.guarded.values()):
                        self._ward.lost(guarded, f"the gate could not judge a file: {error!r}")
                finally:
                    os.close(event.fd)

    def _decide(self, group: int, event: fanotify.Event, seen: int) -> None:
        device = os.fstat(event.fd).st_dev
        guarded = self._ward.roots.get(device)
        is_sealed = guarded is not None and group == self._groups.sealed
        if guarded is None:
            guarded = self._ward.others.get(device) or self._ward.by_process(event.pid)
        if guarded is None:
            # let go of a moment ago: its sealed root may finish what it began, nothing else may
            self._answer(group, event.fd, fanotify.ALLOW if group == self._groups.sealed else fanotify.DENY)
            return
        if guarded.is_quarantined and guarded.owns(event.pid):
            self._answer(group, event.fd, fanotify.DENY)  # its own task on the way into the freezer, which it does not reach waiting
            self._ward.keep_frozen(guarded)
            return
        path = os.readlink(f"/proc/self/fd/{event.fd}")
        verdict = detect.judge_file(is_sealed=is_sealed, is_quarantined=guarded.is_quarantined, policy=guarded.policy, path=path)
        if verdict.action == "continue":
            self._answer(group, event.fd, fanotify.ALLOW)
            if not detect.is_loader(path):
                with contextlib.suppress(OSError):
                    fanotify.mark(group, _IGNORE, fanotify.OPEN_EXEC_PERM, dirfd=event.fd)
            return
        what = What(path=verdict.path, syscall="execve", detail={"by": "file identity"})
        if verdict.action == "freeze" and verdict.kind:
            self._ward.freeze(guarded, event.pid, seen, verdict.kind, what)
            self._answer(group, event.fd, fanotify.DENY)  # after the order, so that it freezes on its way back
            return
        report = verdict.kind and describe(guarded.instance.id, event.pid, seen, time.monotonic_ns(), verdict.kind, what, refused=True)
        self._answer(group, event.fd, fanotify.DENY)
        if report:
            self._ward.tell(report)

    @staticmethod
    def _answer(group: int, number: int, verdict: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            fanotify.answer(group, number, verdict)
