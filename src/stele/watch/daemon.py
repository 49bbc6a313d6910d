"""How parker and gate become processes of their own: ready first, then detached; never lost to memory pressure."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from pathlib import Path

_OOM_SCORE = b"-900"


def detach(log: Path) -> None:
    """Go on in a child in a session of its own and end the caller with status 0: whoever waits for it knows we are ready.

    Sockets that are bound and descriptors that are open stay so. Call it before any thread exists.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork() > 0:
        os._exit(0)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((null, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(out)
    os.chdir("/")
    os.umask(0o077)


def prefer_us(nice: int) -> None:
    """Early in the schedule, late in the kernel's choice for memory, many descriptors. Where it is refused, go on without."""
    with contextlib.suppress(OSError):
        os.nice(nice)
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.suppress(OSError):
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, _OOM_SCORE)
        finally:
            os.close(fd)
