"""The one doorway for mounts: EROFS, overlay, id-mapped clones, binds, and what is mounted.

Uses only what works on every kernel >= 6.1: a mount is cloned from an *attached* one, id-mapped on the clone's
descriptor, then attached (docs/adr/0020-strata-mounted-once.md).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import struct
from pathlib import Path
from typing import Literal, NamedTuple

from stele.host import syscalls
from stele.trust.errors import SteleError

RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8  # MS_* and MOUNT_ATTR_* agree on these
ATTR_IDMAP = 0x10_0000
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
AT_EMPTY_PATH = 0x1000
AT_FDCWD = -100
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_SET_FLAG, _SET_STRING, _CMD_CREATE = 0, 1, 6
OPTION_PAGE = 4096  # mount(2) cuts its options at one page

OverlayWay = Literal["lowerdir+", "options"]


class Mount(NamedTuple):
    """One line of mountinfo: id, device as (major, minor), mount point, file system type, source, options."""

    id: int
    device: tuple[int, int]
    target: str
    fstype: str
    source: str
    options: str


def _log_of(fd: int) -> str:
    """What the kernel says about a failed file-system context (its message log)."""
    lines = []
    with contextlib.suppress(OSError):
        while message := os.read(fd, 4096):
            lines.append(message.decode("utf-8", "replace").strip())
    return "; ".join(lines)


class Context:
    """A file-system context (fsopen(2)); use as a context manager."""

    def __init__(self, fstype: str) -> None:
        self.fd = syscalls.call(f"fsopen {fstype}", syscalls.FSOPEN, fstype.encode(), 1)

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def _config(self, command: int, key: str | None, value: str | None) -> None:
        try:
            syscalls.call(
                f"fsconfig {key or 'create'}",
                syscalls.FSCONFIG,
                self.fd,
                command,
                key.encode() if key else None,
                os.fsencode(value) if value is not None else None,
                0,
            )
        except OSError as error:
            said = _log_of(self.fd)
            raise OSError(error.errno, f"{error.strerror}{': ' + said if said else ''}") from error

    def flag(self, key: str) -> None:
        """Set a flag such as `ro`."""
        self._config(_SET_FLAG, key, None)

    def string(self, key: str, value: str) -> None:
        """Set a string option (at most 255 bytes)."""
        self._config(_SET_STRING, key, value)

    def create(self) -> None:
        """Create the superblock."""
        self._config(_CMD_CREATE, None, None)

    def mount(self, attributes: int) -> int:
        """The detached mount's descriptor; the caller closes it."""
        return syscalls.call("fsmount", syscalls.FSMOUNT, self.fd, 1, attributes)


def mount_erofs(source: str) -> int:
    """A detached read-only EROFS mount of a block device or a file; the caller attaches and closes it.

    Raises:
        OSError: ENOTBLK where a file cannot be mounted without a loop device.
    """
    with Context("erofs") as context:
        context.string("source", source)
        context.flag("ro")
        context.create()
        return context.mount(RDONLY | NOSUID | NODEV)


def attach(fd: int, target: Path) -> None:
    """Attach a detached mount at `target` and close its descriptor."""
    try:
        syscalls.call(f"move_mount {target}", syscalls.MOVE_MOUNT, fd, b"", AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(fd)


def set_attributes(fd: int, attributes: int, *, userns: int = 0) -> None:
    """mount_setattr(2) on a detached mount; `userns` is a user namespace's descriptor when ATTR_IDMAP is among them."""
    record = struct.pack("=QQQQ", attributes, 0, 0, userns)
    syscalls.call("mount_setattr", syscalls.MOUNT_SETATTR, fd, b"", AT_EMPTY_PATH, ctypes.create_string_buffer(record, 32), 32)


def clone(path: Path) -> int:
    """A detached clone of the attached mount (or of the folder) at `path`; the caller closes it."""
    return syscalls.call(f"open_tree {path}", syscalls.OPEN_TREE, AT_FDCWD, os.fsencode(path), _OPEN_TREE_CLONE | os.O_CLOEXEC)


def attach_mapped(path: Path, target: Path, userns: int, attributes: int) -> None:
    """Clone `path`, id-map the clone by `userns`, and attach it at `target`.

    Args:
        path: an attached mount, or a folder of one.
        target: an existing empty folder.
        userns: descriptor of the user namespace whose maps apply.
        attributes: RDONLY, NOSUID, NODEV, NOEXEC.

    Raises:
        SteleError: `run.idmap-unsupported` if the file system cannot be id-mapped.
    """
    fd = clone(path)
    try:
        set_attributes(fd, attributes | ATTR_IDMAP, userns=userns)
    except OSError as error:
        os.close(fd)
        if error.errno != errno.EINVAL:
            raise
        raise SteleError(
            f"the file system of {path} cannot be id-mapped by this kernel",
            remedy="put the data folder on ext4, xfs or btrfs (tmpfs needs Linux 6.3), not on overlay or a network file system",
            code="run.idmap-unsupported",
        ) from error
    except BaseException:
        os.close(fd)
        raise
    attach(fd, target)


def overlay(lowers: list[Path], target: Path, *, way: OverlayWay, name: str) -> None:
    """Stack `lowers` (the first is on top; at least two) read-only at `target`.

    xino=on: a file has one device and a stable inode number, by which the gate knows it.

    Raises:
        SteleError: `run.too-many-strata` if the paths do not fit the kernel's option page.
    """
    if way == "lowerdir+":
        with Context("overlay") as context:
            context.string("source", name)
            for lower in lowers:
                context.string("lowerdir+", str(lower))
            context.string("xino", "on")
            context.flag("ro")
            context.create()
            attach(context.mount(RDONLY | NOSUID | NODEV), target)
        return
    options = "xino=on,lowerdir=" + ":".join(map(str, lowers))
    if len(os.fsencode(options)) >= OPTION_PAGE:
        raise SteleError(
            f"{len(lowers)} strata do not fit the mount options of this kernel ({len(options)} bytes of {OPTION_PAGE})",
            remedy="seal the release with fewer strata, or use Linux 6.8 or later",
            code="run.too-many-strata",
        )
    syscalls.mount(name, str(target), "overlay", RDONLY | NOSUID | NODEV, options)


def unmount(target: Path | str, *, lazy: bool = False) -> bool:
    """Unmount what is mounted on top at `target`; False if nothing is (or it does not exist)."""
    try:
        syscalls.umount2(str(target), UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0))
    except OSError as error:
        if error.errno in {errno.EINVAL, errno.ENOENT}:
            return False
        raise
    return True


_ESCAPE = re.compile(r"\\([0-7]{3})")


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text) if "\\" in text else text


def parse_mountinfo(text: str) -> list[Mount]:
    """Parse /proc/PID/mountinfo (proc(5)); lines that do not have its form are left out."""
    out = []
    for line in text.split("\n"):
        head, separator, tail = line.partition(" - ")
        left, right = head.split(" "), tail.split(" ")
        device = left[2].split(":") if len(left) > 2 else []
        if not separator or len(left) < 6 or len(right) < 2 or len(device) != 2:
            continue
        if not (left[0].isdecimal() and device[0].isdecimal() and device[1].isdecimal()):
            continue
        out.append(Mount(int(left[0]), (int(device[0]), int(device[1])), _unescape(left[4]), right[0], _unescape(right[1]), left[5]))
    return out


def mounted_below(folder: Path) -> list[Mount]:
    """What is mounted at or below `folder`, in the order in which it was mounted."""
    text = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    prefix = f"{folder}/"
    return [item for item in parse_mountinfo(text) if item.target == str(folder) or item.target.startswith(prefix)]


def unmount_below(folder: Path) -> int:
    """Unmount everything at and below `folder`, the latest first; lazily where it is busy. Returns how many."""
    count = 0
    for item in reversed(mounted_below(folder)):
        try:
            count += unmount(item.target)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            count += unmount(item.target, lazy=True)
    return count
