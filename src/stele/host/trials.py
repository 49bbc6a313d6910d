"""Trials of what a kernel can do, each harmless: in a private namespace, on a file without a name, or never attached.

Each raises OSError or SteleError where the kernel cannot. Used by `probe` alone.
"""

from __future__ import annotations

import ctypes
import os
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stele.host import fanotify, immutable, loop, mounts, netlink, netns, nft, slots, syscalls, userns, ways

if TYPE_CHECKING:
    from collections.abc import Callable

_MS_REC_PRIVATE = 0x4000 | 0x40000
_PROG_LOAD, _RAW_TRACEPOINT_OPEN, _RAW_TRACEPOINT = 5, 17, 17
_RETURN_ZERO = struct.pack("=BBhi", 0xB7, 0, 0, 0) + struct.pack("=BBhi", 0x95, 0, 0, 0)  # r0 = 0; exit
_ATTR_SIZE = 128
PLACE = "/tmp"  # noqa: S108  covered by a private tmpfs, seen by this thread alone
NAT_TABLE = """
table inet stele_trial {
  map ports { type inet_service : ipv4_addr . inet_service; }
  set places { type ifname . ipv4_addr; }
  chain to { type nat hook prerouting priority dstnat; policy accept; fib daddr type local dnat ip to tcp dport map @ports; }
  chain from { type nat hook postrouting priority srcnat; policy accept; ct status dnat masquerade; }
  chain through { type filter hook forward priority filter; policy accept; ct state new reject with icmpx admin-prohibited; }
}
"""


def in_private_mounts(work: Callable[[Path], None]) -> None:
    """Run `work` with a folder on a private tmpfs that vanishes afterwards."""

    def inside() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("", "/", "", _MS_REC_PRIVATE, "")
        syscalls.mount("stele-trial", PLACE, "tmpfs", 0, "")
        work(Path(PLACE))

    netns.in_thread(inside)


def id_mapped_stack(folder: Path) -> None:
    """Mount a stratum, clone and id-map it, stack it with xino, and see the mapped owner."""
    held_folder = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    reached = Path(f"/proc/self/fd/{held_folder}")  # also if the private tmpfs covers it

    def work(place: Path) -> None:
        for name in ("stratum", "mapped", "root", "bottom"):
            (place / name).mkdir()
        if ways.erofs_by_file(reached):
            with tempfile.TemporaryFile(dir=reached) as file:
                file.write(ways.tiny_image())
                file.flush()
                mounts.attach(mounts.mount_erofs(f"/proc/self/fd/{file.fileno()}"), place / "stratum")
        else:
            (place / "image").write_bytes(ways.tiny_image())
            held, device = loop.attach(place / "image")
            mounts.attach(mounts.mount_erofs(device), place / "stratum")
            os.close(held)
        with userns.mapped(slots.UID_FLOOR) as mapping:
            mounts.attach_mapped(place / "stratum", place / "mapped", mapping, mounts.RDONLY | mounts.NOSUID | mounts.NODEV)
        mounts.overlay([place / "mapped", place / "bottom"], place / "root", way=ways.overlay_way(), name="stele-trial")
        if (place / "root").stat().st_uid != slots.UID_FLOOR:
            raise OSError("the mapped owner does not show through the overlay")

    try:
        in_private_mounts(work)
    finally:
        os.close(held_folder)


def immutable_file(folder: Path) -> tuple[Literal["ok", "degraded"], str]:
    """Set and clear the immutable flag on a file."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".stele-probe-") as file:
        try:
            worked = immutable.change(file.fileno(), immutable=True)
        finally:
            immutable.change(file.fileno(), immutable=False)
    return ("ok", "chattr +i, set on every image") if worked else ("degraded", "the data folder's file system has no immutable flag")


def veth(_: Path) -> None:
    """Make a network namespace with a veth pair."""

    def inside() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            netlink.add_veth("one", "two", here)
        finally:
            os.close(here)

    netns.in_thread(inside)


def nat_table(_: Path) -> None:
    """Load a table with every feature that the network needs, in a network namespace of its own."""

    def inside() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        nft.run(NAT_TABLE)

    netns.in_thread(inside)


def seccomp_notifications(_: Path) -> tuple[Literal["ok", "missing"], str]:
    """Read what the kernel's seccomp can do."""
    known = Path("/proc/sys/kernel/seccomp/actions_avail").read_text(encoding="ascii").split()
    return ("ok", "every exec and forbidden call is seen") if "user_notif" in known else ("missing", "no user_notif")


def permission_marks(_: Path) -> None:
    """Ask to be asked about every execution on a file system (a private one)."""

    def work(place: Path) -> None:
        group = fanotify.init(fanotify.CLOEXEC | fanotify.CLASS_CONTENT | fanotify.UNLIMITED_QUEUE | fanotify.REPORT_PIDFD)
        try:
            fanotify.mark(
                group, fanotify.MARK_ADD | fanotify.MARK_FILESYSTEM, fanotify.OPEN_PERM | fanotify.OPEN_EXEC_PERM, path=str(place)
            )
        finally:
            os.close(group)

    in_private_mounts(work)


def change_marks(_: Path) -> None:
    """Ask to be told of every change on a file system (a private one), with names."""

    def work(place: Path) -> None:
        flags = fanotify.CLASS_NOTIF | fanotify.REPORT_FID | fanotify.REPORT_DIR_FID | fanotify.REPORT_NAME | fanotify.REPORT_PIDFD
        group = fanotify.init(fanotify.CLOEXEC | fanotify.UNLIMITED_QUEUE | flags)
        try:
            fanotify.mark(
                group, fanotify.MARK_ADD | fanotify.MARK_FILESYSTEM, fanotify.CREATE | fanotify.DELETE | fanotify.MODIFY, path=str(place)
            )
        finally:
            os.close(group)

    in_private_mounts(work)


def raw_tracepoint(_: Path) -> None:
    """Load a program that does nothing on the exit of system calls, and unload it."""
    code, licence, name = (ctypes.create_string_buffer(part) for part in (_RETURN_ZERO, b"GPL", b"sys_exit"))
    head = struct.pack("=IIQQ", _RAW_TRACEPOINT, len(_RETURN_ZERO) // 8, ctypes.addressof(code), ctypes.addressof(licence))
    program = syscalls.bpf("bpf load", _PROG_LOAD, head.ljust(_ATTR_SIZE, b"\0"))
    try:
        attached = struct.pack("=QI", ctypes.addressof(name), program).ljust(_ATTR_SIZE, b"\0")
        os.close(syscalls.bpf("bpf attach", _RAW_TRACEPOINT_OPEN, attached))
    finally:
        os.close(program)
