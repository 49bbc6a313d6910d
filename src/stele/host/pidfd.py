"""Processes by identity: a pid together with its start time, so that a reused pid is never mistaken."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator

_DEAD = "ZX"


def start_ticks(pid: int) -> int:
    """Field 22 of /proc/PID/stat: when it started, in clock ticks since boot; 0 if it has ended (or is a zombie)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return 0
    fields = text[text.rindex(")") + 2 :].split()
    return 0 if fields[0] in _DEAD else int(fields[19])


def is_alive(pid: int, ticks: int) -> bool:
    """Whether the process that started at `ticks` still lives."""
    return pid > 0 and ticks > 0 and start_ticks(pid) == ticks


@contextlib.contextmanager
def _pinned(pid: int, ticks: int) -> Iterator[int | None]:
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        # looked at only after the descriptor holds the pid: now it cannot be reused
        yield fd if is_alive(pid, ticks) else None
    finally:
        os.close(fd)


def signal_and_wait(pid: int, ticks: int, number: signal.Signals | None, timeout_s: float) -> bool:
    """Send `number` (None: nothing) to a process and wait for its end; True if it has ended."""
    with _pinned(pid, ticks) as fd:
        if fd is None:
            return True
        if number is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, number)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(max(0, int(timeout_s * 1000))))


def mentioning(*needles: bytes) -> list[int]:
    """Processes other than this one whose command line has every needle among its arguments."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                arguments = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
                if all(needle in arguments for needle in needles):
                    found.append(int(entry))
    return found


def read_start_fifo(fifo: Path, pid: int, ticks: int, timeout_s: float) -> None:
    """Let a created container go: read and unlink its exec.fifo, as `runc start` does, in a tenth of its time.

    Raises:
        SteleError: `run.start-failed` if its process ended or does not answer.
    """
    why = "its process has ended"
    with _pinned(pid, ticks) as pidfd:
        try:
            fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            fd, why = -1, "it was started already, or its runtime state is gone"
        if fd >= 0:
            try:
                poll = select.poll()
                poll.register(fd, select.POLLIN)
                if pidfd is not None:
                    poll.register(pidfd, select.POLLIN)
                    ready = {number for number, _ in poll.poll(int(timeout_s * 1000))}
                    if fd in ready and os.read(fd, 1):
                        fifo.unlink()
                        return
                    if pidfd not in ready:
                        why = f"its process did not answer within {timeout_s:g} s"
            finally:
                os.close(fd)
    raise SteleError(
        f"the instance could not be started: {why}",
        remedy="see its output with `stele logs`; a new instance can be created at once",
        code="run.start-failed",
        retryable=True,
    )
