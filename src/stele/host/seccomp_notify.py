"""seccomp user notifications: receive, answer, check (seccomp_unotify(2), linux/seccomp.h). The one doorway to them.

Structures are read in place from memory that the caller owns, so that a notification received into shared memory is
known to whoever maps it next, even if the receiver was killed before it ran another instruction.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from typing import NamedTuple

NOTIFICATION_SIZE = 80  # struct seccomp_notif; the same on every kernel from 5.0 on
_NOTIFICATION = struct.Struct("<QIIiIQ6Q")
_RESPONSE = struct.Struct("<QqiI")
_RECV, _SEND, _ID_VALID, _SET_FLAGS = 0xC050_2100, 0xC018_2101, 0x4008_2102, 0x4008_2104
_CONTINUE = 1
_SYNC_WAKE_UP = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
_response = ctypes.create_string_buffer(_RESPONSE.size)
_response_at = ctypes.addressof(_response)
_id = ctypes.c_uint64(0)
_id_at = ctypes.addressof(_id)


class Notification(NamedTuple):
    """One system call that waits. `tid` as seen from the reader; `arch` an AUDIT_ARCH number; `args` the six registers."""

    id: int
    tid: int
    arch: int
    nr: int
    args: tuple[int, ...]


def address_of(memory: mmap.mmap) -> int:
    """Where shared memory is mapped; it stays there, and cannot be unmapped, as long as the process lives."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def unpack(data: bytes | memoryview) -> Notification:
    """Decode a struct seccomp_notif of exactly `NOTIFICATION_SIZE` bytes."""
    identity, tid, _, nr, arch, _, *args = _NOTIFICATION.unpack(data)
    return Notification(identity, tid, arch, nr, tuple(args))


def _ioctl(fd: int, operation: int, address: int, what: str) -> None:
    if _libc.ioctl(fd, operation, address) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def receive_at(listener: int, address: int) -> None:
    """Receive into `NOTIFICATION_SIZE` zeroed bytes at `address`.

    Call it only after poll said POLLIN: it would block. ENOENT: the caller went away meanwhile, which is normal.
    """
    _ioctl(listener, _RECV, address, "seccomp receive")


def is_waiting(listener: int, identity: int) -> bool:
    """Whether this notification still waits for its answer, so that what was read of its task is about this call."""
    _id.value = identity
    return bool(_libc.ioctl(listener, _ID_VALID, _id_at) == 0)


def let_continue(listener: int, identity: int) -> None:
    """Let the kernel go on with the call as if nobody had asked. ENOENT: the caller went away."""
    _RESPONSE.pack_into(_response, 0, identity, 0, 0, _CONTINUE)
    _ioctl(listener, _SEND, _response_at, "seccomp send")


def refuse(listener: int, identity: int, error: int) -> None:
    """Make the call return -`error` without running. ENOENT: the caller went away."""
    _RESPONSE.pack_into(_response, 0, identity, 0, -error, 0)
    _ioctl(listener, _SEND, _response_at, "seccomp send")


def wake_in_place(listener: int) -> bool:
    """Ask for hand-over on the same CPU (Linux 6.6): a round trip of 10 instead of 60 microseconds. False where absent."""
    return bool(_libc.ioctl(listener, _SET_FLAGS, ctypes.c_void_p(_SYNC_WAKE_UP)) == 0)
