"""Work that a child does under strace."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def run(work: Callable[[], None], log: Path, *strace: str, limit_s: float = 30) -> int:
    """Have a child do the work, all of it under strace, which writes to `log`; the child's wait status.

    `limit_s`: in which strace ends after its child.
    """
    go, ready = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            os.close(ready)
            ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(2**64 - 1), 0, 0, 0)  # PR_SET_PTRACER_ANY
            os.read(go, 1)
            work()
            status = 0
        os._exit(status)
    os.close(go)
    tracer = subprocess.Popen(["strace", "-qq", "-o", str(log), *strace, "-p", str(child)])
    while f"TracerPid:\t{tracer.pid}" not in Path(f"/proc/{child}/status").read_text():
        assert tracer.poll() is None, "strace could not attach"
        time.sleep(0.001)
    os.write(ready, b"x")
    os.close(ready)
    status = os.waitpid(child, 0)[1]
    tracer.wait(limit_s)
    return status
