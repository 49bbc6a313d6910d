"""Raw system calls that Python does not wrap; each raises OSError with the kernel's errno.

Numbers above 424 are the same on every architecture (include/uapi/asm-generic/unistd.h).
"""

from __future__ import annotations

import ctypes
import os

OPEN_TREE = 428
MOVE_MOUNT = 429
FSOPEN = 430
FSCONFIG = 431
FSMOUNT = 432
MOUNT_SETATTR = 442

_BPF = {"x86_64": 321, "aarch64": 280}

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWNET = 0x4000_0000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
Argument = int | bytes | ctypes.Array[ctypes.c_char] | None


def _raise(what: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")


def call(what: str, number: int, *arguments: Argument) -> int:
    """Make system call `number`; `what` names it in the OSError."""
    converted = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *converted))
    if result < 0:
        _raise(what)
    return result


def bpf(what: str, command: int, attributes: bytes) -> int:
    """Give the BPF subsystem a command; returns what it returns, mostly a descriptor."""
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return call(what, _BPF[os.uname().machine], command, buffer, len(attributes))


def mount(source: str, target: str, fstype: str, flags: int, data: str) -> None:
    """Mount a file system; empty strings for absent source, type or data."""
    result = _libc.mount(
        os.fsencode(source) or None,
        os.fsencode(target),
        os.fsencode(fstype) or None,
        ctypes.c_ulong(flags),
        os.fsencode(data) or None,
    )
    if result < 0:
        _raise(f"mount {fstype or 'bind'} on {target}")


def umount2(target: str, flags: int) -> None:
    """Take a mount off its mount point."""
    if _libc.umount2(os.fsencode(target), ctypes.c_int(flags)) < 0:
        _raise(f"umount {target}")


def unshare(flags: int) -> None:
    """Part the calling thread from the namespaces named in `flags`."""
    if _libc.unshare(ctypes.c_int(flags)) < 0:
        _raise("unshare")


def setns(fd: int, kind: int) -> None:
    """Put the calling thread into the namespace behind `fd`."""
    if _libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)) < 0:
        _raise("setns")


def clone_sleeper(flags: int, seconds: int) -> int:
    """Make a child by clone(2) that runs libc's sleep(seconds) and ends: no Python code and no lock runs in it.

    This is safe in a process with threads, unlike os.fork followed by Python. The sleep bounds how long the child
    lives if its parent dies before killing it. Returns its pid; the caller kills and waits for it.
    """
    stack = ctypes.create_string_buffer(65536)
    top = (ctypes.addressof(stack) + len(stack)) & ~15
    sleep = ctypes.cast(_libc.sleep, ctypes.c_void_p)
    pid = int(_libc.clone(sleep, ctypes.c_void_p(top), ctypes.c_int(flags), ctypes.c_void_p(seconds)))
    if pid < 0:
        _raise("clone")
    return pid
