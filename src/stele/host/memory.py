"""A process's own memory, made ready before it is needed: what a page costs when it is first written to is more than what is done with it.

All of it is advice: where the kernel or the C library does not take it, everything works as ever.
"""

from __future__ import annotations

import ctypes
from typing import Any

_libc: Any = ctypes.CDLL(None)
_POPULATE_WRITE = 23  # madvise, Linux 5.14: what is shared with a parent is copied, what is not there yet is made
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # mallopt, of the GNU C library
_LARGEST = 32 << 20  # bytes: the most that _MMAP_THRESHOLD can be
_KEPT = 1 << 30  # bytes


def keep() -> None:
    """Have the C library keep what is freed, and take all from one place, also in children: it is used again as it is."""
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        for what, value in ((_MMAP_THRESHOLD, _LARGEST), (_TRIM_THRESHOLD, _KEPT), (_ARENA_MAX, 1)):
            mallopt(what, value)


def settle(room: int) -> None:
    """Have all of this process's memory that it may write to, and `room` bytes more, be there and nobody else's.

    Raises:
        OSError: it cannot be known what memory it has.
    """
    spare = bytearray(min(room, _LARGEST - 4096))
    del spare
    with open("/proc/self/maps", encoding="ascii", errors="replace") as file:
        lines = file.read().splitlines()
    for line in lines:
        where, rights, *rest = line.split()
        if rights == "rw-p" and rest[-1] != "[stack]":
            begins, _, ends = where.partition("-")
            begin, end = int(begins, 16), int(ends, 16)
            _libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _POPULATE_WRITE)
