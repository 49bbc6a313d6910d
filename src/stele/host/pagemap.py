"""Which pages of another process exist: PAGEMAP_SCAN where the kernel has it (6.7), else the entries of /proc/PID/pagemap.

An address range may be reserved by the terabyte; only what exists is worth reading, and reading the rest would make it exist.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from typing import Self

PAGE = os.sysconf("SC_PAGE_SIZE")
SCAN_LIMIT = 256 << 20  # bytes of pagemap entries read per process without PAGEMAP_SCAN: 128 GiB of addresses with 4 KiB pages
_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)
_PRESENT, _SWAPPED, _ZERO = 1 << 3, 1 << 4, 1 << 5
_REGIONS = 1024
_CHUNK = 1 << 20
# the uppermost byte of an entry: bit 63 present, bit 62 swapped
_EXISTS = bytes(1 if byte & 0xC0 else 0 for byte in range(256))


class _Region(ctypes.Structure):
    _fields_ = (("start", ctypes.c_uint64), ("end", ctypes.c_uint64), ("categories", ctypes.c_uint64))


class _Scan(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "size",
            "flags",
            "start",
            "end",
            "walk_end",
            "vec",
            "vec_len",
            "max_pages",
            "category_inverted",
            "category_mask",
            "category_anyof_mask",
            "return_mask",
        )
    )


class Pagemap:
    """The page map of one process; a context manager.

    Raises:
        OSError: when opened, if the process is gone.
    """

    def __init__(self, proc: str, *, can_scan: bool = True) -> None:
        self._fd = os.open(f"{proc}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self._can_scan = can_scan
        self._left = SCAN_LIMIT

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def existing(self, begin: int, end: int) -> tuple[list[tuple[int, int]], bool]:
        """Address ranges within [begin, end) that exist in memory or swap, and whether those are all (limits)."""
        if self._can_scan:
            try:
                return self._scan(begin, end), True
            except OSError as error:
                if error.errno not in {errno.ENOTTY, errno.EINVAL}:
                    return [], False
                self._can_scan = False
        return self._read(begin, end)

    def _scan(self, begin: int, end: int) -> list[tuple[int, int]]:
        regions = (_Region * _REGIONS)()
        found: list[tuple[int, int]] = []
        while begin < end:
            # not the zero page (inverted), and present or swapped
            asked = _Scan(
                ctypes.sizeof(_Scan), 0, begin, end, 0, ctypes.addressof(regions), _REGIONS, 0, _ZERO, _ZERO, _PRESENT | _SWAPPED, _PRESENT
            )
            count = fcntl.ioctl(self._fd, _SCAN, asked, True)
            for region in regions[:count]:
                _extend(found, region.start, region.end)
            begin = asked.walk_end
        return found

    def _read(self, begin: int, end: int) -> tuple[list[tuple[int, int]], bool]:
        found: list[tuple[int, int]] = []
        while begin < end:
            want = min(_CHUNK, (end - begin) // PAGE * 8)
            if self._left < want:
                return found, False
            self._left -= want
            try:
                data = os.pread(self._fd, want, begin // PAGE * 8)
            except OSError:
                return found, False
            if not data:
                return found, False
            flags = data[7::8].translate(_EXISTS)
            position = flags.find(1)
            while position >= 0:
                after = flags.find(0, position)
                after = len(flags) if after < 0 else after
                _extend(found, begin + position * PAGE, begin + after * PAGE)
                position = flags.find(1, after)
            begin += len(flags) * PAGE
        return found, True


def _extend(found: list[tuple[int, int]], begin: int, end: int) -> None:
    if found and found[-1][1] == begin:
        found[-1] = (found[-1][0], end)
    else:
        found.append((begin, end))
