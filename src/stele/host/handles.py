"""File handles back into names: open_by_handle_at(2), statfs(2) ids."""

from __future__ import annotations

import ctypes
import os
import struct

_libc = ctypes.CDLL(None, use_errno=True)
_libc.open_by_handle_at.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
_libc.name_to_handle_at.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
_libc.fstatfs.argtypes = [ctypes.c_int, ctypes.c_void_p]
_AT_EMPTY_PATH = 0x1000
_MAX_HANDLE = 128


def open_handle(mount: int, kind: int, data: bytes) -> int:
    """An O_PATH descriptor of what a handle names. `mount`: a descriptor, not O_PATH, of anything on its file system.

    Raises:
        OSError: ESTALE when it was deleted.
    """
    buffer = ctypes.create_string_buffer(struct.pack("<Ii", len(data), kind) + data)
    fd = int(_libc.open_by_handle_at(mount, ctypes.addressof(buffer), os.O_PATH | os.O_CLOEXEC))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return fd


def handle_of(fd: int) -> bytes:
    """The handle's bytes of an open file or folder; raises OSError."""
    buffer = ctypes.create_string_buffer(struct.pack("<Ii", _MAX_HANDLE, 0), 8 + _MAX_HANDLE)
    mount_id = ctypes.c_int(0)
    if _libc.name_to_handle_at(fd, b"", ctypes.addressof(buffer), ctypes.addressof(mount_id), _AT_EMPTY_PATH) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    (size,) = struct.unpack_from("<I", buffer.raw)
    return buffer.raw[8 : 8 + size]


def filesystem_id(fd: int) -> bytes:
    """The eight bytes by which fanotify names a file system (f_fsid of statfs); raises OSError."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.fstatfs(fd, ctypes.addressof(buffer)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return buffer.raw[56:64]  # after type, block size, five counts
