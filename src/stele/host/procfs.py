"""Tasks as /proc shows them: memory, names, identities, and path names resolved as a task would resolve them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct

from stele.host import openat2

_PROC_MAGIC = 0x9FA0
_PROC_ROOT_INODE = 1
_PAGE = 4096
_MAX_LINKS = 40
_FAST_MISS = (errno.ENOENT, errno.EXDEV, errno.ELOOP)
O_PATH = os.O_PATH | os.O_CLOEXEC
AT_FDCWD = -100
PATH_MAX = 4096

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fstatfs.argtypes = [ctypes.c_int, ctypes.c_void_p]


def open_in_root(root: int, path: bytes) -> int:
    """An O_PATH descriptor of `path`, resolved as if `root` were /; no link leads out of it (openat2(2))."""
    return openat2.open_at(root, path, O_PATH, openat2.IN_ROOT)


def is_procfs(fd: int) -> bool:
    """Whether the descriptor is of something on a proc file system."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.fstatfs(fd, ctypes.addressof(buffer)) < 0:
        return False
    return bool(struct.unpack_from("<q", buffer.raw)[0] == _PROC_MAGIC)


def resolve(root: int, root_dev: int, tid: int, dirfd: int, path: bytes, *, empty_path: bool = False) -> int:
    """What a task means by a path: an O_PATH descriptor; the caller closes it.

    The kernel resolves it where it can (openat2 inside `root`). What it cannot do from outside is walked step by step:
    /proc/self, magic links, a deleted working folder.

    Args:
        root: descriptor of the task's root.
        root_dev: st_dev of the sealed root, on which a missing name is simply missing.
        tid: the task, as seen from here.
        dirfd: the descriptor number in the task that a relative path starts at, or AT_FDCWD.
        path: as the task gave it.
        empty_path: AT_EMPTY_PATH was given.

    Raises:
        OSError: as the task would get it, most often ENOENT.
    """
    if not path:
        if not empty_path:
            raise FileNotFoundError(errno.ENOENT, "empty path")
        return os.open(f"/proc/{tid}/cwd" if dirfd == AT_FDCWD else f"/proc/{tid}/fd/{dirfd}", O_PATH)
    absolute = path
    start = ""
    if not path.startswith(b"/"):
        start = f"/proc/{tid}/cwd" if dirfd == AT_FDCWD else f"/proc/{tid}/fd/{dirfd}"
        absolute = os.fsencode(os.readlink(start)) + b"/" + path
    try:
        return open_in_root(root, absolute)
    except OSError as error:
        if error.errno not in _FAST_MISS or _is_missing_in_sealed(root, root_dev, absolute, error.errno):
            raise
    origin = os.open(start, O_PATH) if start else os.dup(root)
    return _walk(root, tid, origin, path)


def _is_missing_in_sealed(root: int, root_dev: int, path: bytes, why: int) -> bool:
    """A PATH search: the folder is sealed, the name is not in it. Nothing to walk for."""
    if why != errno.ENOENT:
        return False
    try:
        folder = open_in_root(root, os.path.dirname(path.rstrip(b"/")) or b"/")
    except OSError:
        return False
    try:
        return os.fstat(folder).st_dev == root_dev
    finally:
        os.close(folder)


def _walk(root: int, tid: int, here: int, path: bytes) -> int:
    """Resolve component by component, taking ownership of `here`; /proc/self means `tid`."""
    rest = [part for part in path.split(b"/") if part and part != b"."][::-1]
    if path.startswith(b"/"):
        here = _instead(here, os.dup(root))
    links = 0
    try:
        while rest:
            name = rest.pop()
            if name == b".." and os.path.sameopenfile(here, root):
                continue
            step = os.open(name, O_PATH | os.O_NOFOLLOW, dir_fd=here)
            if not stat.S_ISLNK(os.fstat(step).st_mode):
                here = _instead(here, step)
                continue
            links += 1
            if links > _MAX_LINKS:
                os.close(step)
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            here, target = _follow(root, tid, here, step, name)
            rest += [part for part in target.split(b"/") if part and part != b"."][::-1]
    except BaseException:
        os.close(here)
        raise
    return here


def _follow(root: int, tid: int, here: int, link: int, name: bytes) -> tuple[int, bytes]:
    """Follow one link: where it leads off from, and what remains to be walked from there. Closes `link`."""
    try:
        if is_procfs(link):
            if os.fstat(here).st_ino != _PROC_ROOT_INODE:
                return _instead(here, os.open(name, O_PATH, dir_fd=here)), b""  # a magic link: it is a jump, not a path
            if name == b"self":
                return _instead(here, os.open(f"/proc/{tid}", O_PATH)), b""
            if name == b"thread-self":
                return _instead(here, os.open(f"/proc/{tid}/task/{tid}", O_PATH)), b""
        target = os.readlink(b"", dir_fd=link)
    finally:
        os.close(link)
    return (_instead(here, os.dup(root)) if target.startswith(b"/") else here), target


def _instead(old: int, new: int) -> int:
    os.close(old)
    return new


# ---- memory ----------------------------------------------------------------------------------


def read_text(memory: int, address: int, limit: int, *, cut: bool = False) -> bytes:
    """A NUL-terminated text from an open /proc/PID/mem, of fewer than `limit` bytes; with `cut`, a longer one's beginning.

    Raises:
        OSError: not mapped (EIO), or too long (ENAMETOOLONG).
    """
    out = b""
    while len(out) < limit:
        chunk = os.pread(memory, _PAGE - address % _PAGE, address)
        if not chunk:
            raise OSError(errno.EIO, "the task is gone")
        head, end, _ = chunk.partition(b"\0")
        out += head
        if end:
            break
        address += len(chunk)
    if len(out) >= limit and not cut:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return out[:limit]


def read_argv(memory: int, address: int, *, most: int, size: int) -> tuple[str, ...]:
    """The argument vector at `address`: at most `most` arguments and `size` bytes in all; what cannot be read ends it."""
    out: list[str] = []
    with contextlib.suppress(OSError, struct.error):
        while address and len(out) < most and size > 0:
            (at,) = struct.unpack("<Q", os.pread(memory, 8, address))
            if not at:
                break
            address += 8
            text = read_text(memory, at, size, cut=True)
            size -= len(text) + 1
            out.append(os.fsdecode(text))
    return tuple(out)


# ---- facts -----------------------------------------------------------------------------------


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 65536)
    except OSError:
        return b""
    finally:
        os.close(fd)


def comm(tid: int) -> str:
    """The task's name; empty when it is gone."""
    return _read(f"/proc/{tid}/comm").decode("utf-8", "replace").rstrip("\n")


def exe(tid: int) -> str:
    """Path of what the task executes, in its own mount namespace; empty when it is gone."""
    try:
        return os.readlink(f"/proc/{tid}/exe")
    except OSError:
        return ""


def argv(pid: int) -> tuple[str, ...]:
    """The process's command line; at most 64 arguments and 4 KiB. Empty when it is gone."""
    return tuple(part.decode("utf-8", "replace") for part in _read(f"/proc/{pid}/cmdline")[:4096].split(b"\0")[:-1][:64])


def process_of(tid: int) -> int:
    """Thread-group id of a task; the task itself when it is gone."""
    for line in _read(f"/proc/{tid}/status").split(b"\n"):
        if line.startswith(b"Tgid:"):
            return int(line[5:])
    return tid


def mount_namespace(pid: int) -> int:
    """Inode number that names the mount namespace; 0 when it is gone."""
    try:
        return os.stat(f"/proc/{pid}/ns/mnt").st_ino
    except OSError:
        return 0


def mountinfo(pid: int | str = "self") -> str:
    """Text of /proc/PID/mountinfo; raises OSError."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
