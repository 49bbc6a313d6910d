"""The first ear: seccomp notifications. It sees every exec and every forbidden call, also what noexec would hide."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from typing import TYPE_CHECKING, NamedTuple

from stele.host import procfs, seccomp_notify
from stele.watch import detect
from stele.watch.detect import Observation, Place
from stele.watch.ward import SHOWN_ARGUMENTS, SHOWN_SIZE, What, describe

if TYPE_CHECKING:
    from stele.host.seccomp_notify import Notification
    from stele.watch.guarded import Guarded
    from stele.watch.ward import Ward

AT_EMPTY_PATH = 0x1000
# An interpreter's are read as far as the kernel lets them go: else the script would hide behind long options.
MOST_ARGUMENTS, ARGUMENTS_SIZE = 8192, 8 << 20
HOLD_NS = 5_000_000_000


class Listener(NamedTuple):
    """A listener and whose it is. `key`: its number at the parker."""

    key: int
    fd: int
    instance: str


class _Held(NamedTuple):
    listener: Listener
    identity: int
    deadline: int


class _Seen(NamedTuple):
    """An exec as it was resolved, with its arguments where they had to be read."""

    observation: Observation
    argv: tuple[str, ...]


class Calls:
    """Answers notifications. An answer that comes too late (ENOENT) is nobody's error: the caller was interrupted."""

    def __init__(self, ward: Ward) -> None:
        self._ward = ward
        self._held: dict[tuple[int, int], _Held] = {}

    @property
    def count(self) -> int:
        """How many execs of unregistered instances wait."""
        return len(self._held)

    def receive(self, listener: Listener) -> None:
        """Take one notification from a listener that poll says has one, and answer it."""
        journal = self._ward.journal
        journal.open_for(listener.key)
        try:
            seccomp_notify.receive_at(listener.fd, journal.receive_address)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return
            raise
        self._decide(listener, journal.current(), time.monotonic_ns())

    def resume(self, listener: Listener, notification: Notification) -> None:
        """Answer what a predecessor received, if it still waits."""
        if seccomp_notify.is_waiting(listener.fd, notification.id):
            self._ward.journal.load(listener.key, notification)
            self._decide(listener, notification, time.monotonic_ns())

    def registered(self, instance: str) -> None:
        """An instance came under guard: answer what was held for it."""
        for key, held in list(self._held.items()):
            if held.listener.instance != instance:
                continue
            del self._held[key]
            for number, notification in self._ward.journal.unanswered():
                if (number, notification.id) == (held.listener.key, held.identity):
                    self._ward.journal.let_go(number, notification.id)
                    if seccomp_notify.is_waiting(held.listener.fd, notification.id):
                        self._decide(held.listener, notification, time.monotonic_ns())
                    break

    def expire(self, now_ns: int) -> None:
        """Refuse what was held too long."""
        for key, held in list(self._held.items()):
            if now_ns > held.deadline:
                del self._held[key]
                self._ward.journal.let_go(held.listener.key, held.identity)
                _refuse(held.listener.fd, held.identity)
                what = What(syscall="execve", detail={"why": "the instance was never registered"})
                self._ward.tell(describe(held.listener.instance, key[1], now_ns, now_ns, "exec-unsealed", what, refused=True))

    def forget(self, listener: Listener) -> None:
        """A listener is gone."""
        for key in [key for key in self._held if key[0] == listener.key]:
            held = self._held.pop(key)
            self._ward.journal.let_go(listener.key, held.identity)

    # ---- one notification --------------------------------------------------------------------

    def _decide(self, listener: Listener, call: Notification, seen: int) -> None:
        """Answer one call; a failure of ours refuses this one, and must not take down the gate, or every successor would fail again."""
        try:
            self._decide_or_fail(listener, call, seen)
        except Exception as error:  # noqa: BLE001  whatever it is
            _refuse(listener.fd, call.id)
            guarded = self._ward.guarded.get(listener.instance)
            if guarded is not None:
                self._ward.lost(guarded, f"the gate could not judge a call: {error!r}")

    def _decide_or_fail(self, listener: Listener, call: Notification, seen: int) -> None:
        name = detect.call_name(call.arch, call.nr)
        guarded = self._ward.guarded.get(listener.instance)
        if guarded is None:
            self._not_registered(listener, call, name, seen)
            return
        if guarded.is_quarantined:
            self._ward.keep_frozen(guarded)  # and no answer, ever
            return
        observation, argv = _observe(guarded, call, name) if detect.executes(name) else _Seen(Observation(name, call.args), ())
        verdict = detect.judge(observation, guarded.policy)
        if not verdict.kind:
            _continue(listener.fd, call.id)
            return
        if not seccomp_notify.is_waiting(listener.fd, call.id):
            return  # gone or interrupted while it was looked at: what was read may be another's; if it means it, it asks again
        what = What(verdict.path, name, argv, {"args": " ".join(f"{value:#x}" for value in call.args)})
        if verdict.action == "freeze":
            self._ward.freeze(guarded, call.tid, seen, verdict.kind, what)
            return
        decided = time.monotonic_ns()
        report = describe(listener.instance, call.tid, seen, decided, verdict.kind, what, refused=verdict.action == "refuse")
        (_refuse if verdict.action == "refuse" else _continue)(listener.fd, call.id)
        self._ward.tell(report)

    def _not_registered(self, listener: Listener, call: Notification, name: str, seen: int) -> None:
        """An instance that runc is still setting up: its own calls go on; what it is to execute waits until somebody guards it."""
        if not detect.executes(name):
            is_runc = procfs.argv(call.tid)[:2] == ("runc", "init")
            (_continue if is_runc else _refuse)(listener.fd, call.id)
            return
        key = (listener.key, call.tid)
        if key in self._held:  # interrupted and asked again: the same call under a new number
            self._ward.journal.let_go(listener.key, self._held.pop(key).identity)
        if self._ward.journal.hold():
            self._held[key] = _Held(listener, call.id, seen + HOLD_NS)
        else:
            _refuse(listener.fd, call.id)


def _observe(guarded: Guarded, call: Notification, name: str) -> _Seen:
    if name == "execve":
        dirfd, flags, path_at, argv_at = procfs.AT_FDCWD, 0, call.args[0], call.args[1]
    else:
        dirfd, flags, path_at, argv_at = _signed(call.args[0]), call.args[4], call.args[1], call.args[2]
    try:
        memory = os.open(f"/proc/{call.tid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return _Seen(Observation(name), ())
    try:
        return _observe_program(guarded, call.tid, memory, name, dirfd, path_at, argv_at, empty_path=bool(flags & AT_EMPTY_PATH))
    except OSError:
        return _Seen(Observation(name, program="absent"), ())
    finally:
        os.close(memory)


def _observe_program(
    guarded: Guarded, tid: int, memory: int, name: str, dirfd: int, path_at: int, argv_at: int, *, empty_path: bool
) -> _Seen:
    root_dev = guarded.instance.root_dev
    path = procfs.read_text(memory, path_at, procfs.PATH_MAX)
    fd = procfs.resolve(guarded.root, root_dev, tid, dirfd, path, empty_path=empty_path)
    try:
        status = os.fstat(fd)
        if status.st_dev != root_dev:
            place: Place = "absent"
            if stat.S_ISREG(status.st_mode):
                place = "unsealed" if status.st_mode & 0o111 else "inert"
            shown = os.readlink(f"/proc/self/fd/{fd}")
            argv = procfs.read_argv(memory, argv_at, most=SHOWN_ARGUMENTS, size=SHOWN_SIZE)
            return _Seen(Observation(name, program=place, program_path=shown), argv)
        program = guarded.program(fd, status.st_ino)
    finally:
        os.close(fd)
    if not (program.is_interpreter or program.is_loader):
        return _Seen(Observation(name, program="sealed", program_path=program.path), ())
    argv = procfs.read_argv(memory, argv_at, most=MOST_ARGUMENTS, size=ARGUMENTS_SIZE)
    files = (detect.loaded_by_loader(argv),) if program.is_loader else detect.scripts_of(program.path, argv)
    if not any(files) and len(argv) == MOST_ARGUMENTS:
        return _Seen(Observation(name, (), "sealed", program.path, "unsealed", "", program.is_loader), argv)  # whatever comes after
    for given in files:
        where, shown = _place_of_script(guarded, tid, given)
        if where == "unsealed":
            return _Seen(Observation(name, (), "sealed", program.path, where, shown, program.is_loader), argv)
    return _Seen(Observation(name, program="sealed", program_path=program.path), argv)


def _place_of_script(guarded: Guarded, tid: int, given: str) -> tuple[Place, str]:
    """Where a file lies that an interpreter was given; what is no file (a pipe, a terminal) is absent."""
    if not given:
        return "absent", ""
    try:
        fd = procfs.resolve(guarded.root, guarded.instance.root_dev, tid, procfs.AT_FDCWD, os.fsencode(given))
    except (OSError, ValueError):
        return "absent", given
    try:
        status = os.fstat(fd)
        if status.st_dev == guarded.instance.root_dev:
            return "sealed", given
        if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            return "unsealed", os.readlink(f"/proc/self/fd/{fd}")
        return "absent", given
    finally:
        os.close(fd)


def _signed(value: int) -> int:
    value &= 0xFFFF_FFFF
    return value - (1 << 32) if value & 0x8000_0000 else value


def _continue(listener: int, identity: int) -> None:
    with contextlib.suppress(OSError):
        seccomp_notify.let_continue(listener, identity)


def _refuse(listener: int, identity: int) -> None:
    with contextlib.suppress(OSError):
        seccomp_notify.refuse(listener, identity, errno.EPERM)
