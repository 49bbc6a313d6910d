"""openat2(2): opening a path with the kernel seeing to it that it leads nowhere else."""

from __future__ import annotations

import ctypes
import errno
import os

NO_MAGICLINKS, NO_SYMLINKS, BENEATH, IN_ROOT = 0x02, 0x04, 0x08, 0x10  # RESOLVE_*

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_NUMBER = ctypes.c_long(437)  # on every architecture


class _How(ctypes.Structure):
    """struct open_how (include/uapi/linux/openat2.h)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_SIZE = ctypes.c_size_t(ctypes.sizeof(_How))
_hows: dict[tuple[int, int], object] = {}  # made once: this is called for every file of a seal, and for every path that the gate looks at


def open_at(folder: int, path: str | bytes, flags: int, resolve: int) -> int:
    """Open `path` from the folder descriptor `folder`; `resolve`: the constants above.

    Raises:
        OSError: as open(2) does; ELOOP or EXDEV for a path that would lead elsewhere; ENOSYS or EPERM where the call is not to be had.
    """
    how = _hows.get((flags, resolve))
    if how is None:
        how = _hows[flags, resolve] = ctypes.byref(_How(flags, 0, resolve))
    name = os.fsencode(path)
    while True:
        fd = int(_libc.syscall(_NUMBER, folder, name, how, _SIZE))
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number), path)
