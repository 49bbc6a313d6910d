"""An instance under guard: its record, its policy, its marks."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from stele.host import fanotify, mounts, pidfd, procfs
from stele.host.freezer import Freezer
from stele.model.instance import Instance
from stele.model.spec import Watch
from stele.trust.errors import SteleError
from stele.watch import detect

# nothing on these can execute, and they are shared with the host
_PSEUDO = {"proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "securityfs", "tracefs", "debugfs", "bpf", "efivarfs", "nsfs"}


class Groups(NamedTuple):
    """The two permission groups. A file that arrives in `sealed` lies on a sealed root, one in `other` does not.

    Two, so that a successor can answer what its predecessor held although it no longer knows which file it was about.
    """

    sealed: int
    other: int


class Program(NamedTuple):
    """A program on the sealed root; it never changes, so it is looked at once."""

    path: str
    is_loader: bool
    is_interpreter: bool


class Guarded:
    """One instance. `root` is an O_PATH descriptor of its root, `slot` its place in the journal.

    Raises:
        SteleError: `gate.no-such-process`, `gate.wrong-root`.
    """

    def __init__(self, instance: Instance, policy: Watch, slot: int) -> None:
        self.instance = instance
        self.policy = policy
        self.slot = slot
        self.is_quarantined = False
        self.freezer = Freezer(instance.freezer, Path(instance.freezer_dir))
        self.programs: dict[int, Program] = {}
        self.devices: set[int] = set()
        self._marked: list[tuple[int, int, int]] = []  # group, flags, O_PATH descriptor
        if not pidfd.is_alive(instance.pid, instance.start_ticks):
            raise _gone(instance)
        try:
            self.root = os.open(f"/proc/{instance.pid}/root", procfs.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            raise _gone(instance) from error
        self.mount_namespace = procfs.mount_namespace(instance.pid)
        if os.fstat(self.root).st_dev != instance.root_dev:
            self.close()
            raise SteleError(
                f"the root of instance {instance.id} is not the sealed one it was created with",
                remedy="remove the instance and start a new one; if it happens again, `stele doctor`",
                code="gate.wrong-root",
            )

    def place_marks(self, groups: Groups) -> None:
        """Mark the sealed root and everything else in the instance's mount table on which a file could execute.

        File systems of its own are marked whole; what it shares with the host (a volume's) only where it is mounted.

        Raises:
            SteleError: `gate.mark-refused`.
        """
        pid, own = self.instance.pid, os.path.dirname(self.instance.rootfs) + "/"
        try:
            table = mounts.parse_mountinfo(procfs.mountinfo(pid))
            hosts = mounts.parse_mountinfo(procfs.mountinfo())
        except OSError as error:
            raise _gone(self.instance) from error
        shared = {item.device for item in hosts if not item.target.startswith(own)}
        self._mark(groups.sealed, fanotify.MARK_FILESYSTEM, "/")
        for item in table:
            device = os.makedev(*item.device)
            if item.fstype in _PSEUDO or device == self.instance.root_dev or item.target == "/":
                continue
            is_shared = item.device in shared
            self._mark(groups.other, fanotify.MARK_MOUNT if is_shared else fanotify.MARK_FILESYSTEM, item.target)
            if not is_shared:
                self.devices.add(device)

    def _mark(self, group: int, flags: int, target: str) -> None:
        try:
            fd = procfs.open_in_root(self.root, os.fsencode(target))
            self._marked.append((group, flags, fd))
            fanotify.mark(group, fanotify.MARK_ADD | flags, fanotify.OPEN_EXEC_PERM, path=f"/proc/self/fd/{fd}")
        except OSError as error:
            if error.errno == errno.ENOENT:
                return  # a mount that another one covers: no path leads to it
            self.close()
            raise SteleError(
                f"the kernel refused to watch {target} of instance {self.instance.id}: {error.strerror}",
                remedy="`stele doctor` shows whether this host has fanotify permission events",
                code="gate.mark-refused",
            ) from error

    def forget_marks(self) -> None:
        """Take the marks back; what is gone already is fine."""
        for group, flags, fd in self._marked:
            with contextlib.suppress(OSError):
                fanotify.mark(group, fanotify.MARK_REMOVE | flags, fanotify.OPEN_EXEC_PERM, path=f"/proc/self/fd/{fd}")
            os.close(fd)
        self._marked.clear()

    def close(self) -> None:
        """Let go of the root, so that it can be unmounted."""
        self.forget_marks()
        if self.root >= 0:
            os.close(self.root)
            self.root = -1

    def program(self, fd: int, inode: int) -> Program:
        """What is known of a sealed program, by inode number; `fd` is an open descriptor of it."""
        known = self.programs.get(inode)
        if known is None:
            path = os.readlink(f"/proc/self/fd/{fd}")
            known = self.programs[inode] = Program(path, detect.is_loader(path), detect.is_interpreter(path))
        return known

    def owns(self, pid: int) -> bool:
        """Whether a process is in the instance's cgroup."""
        with contextlib.suppress(OSError):
            return pid in self.freezer.pids()
        return False


def _gone(instance: Instance) -> SteleError:
    return SteleError(
        f"instance {instance.id} has no process {instance.pid} any more",
        remedy="it ended before it could be guarded; see its log",
        code="gate.no-such-process",
    )


# ---- registrations on disk, for a successor ---------------------------------------------------


def save(folder: Path, instance: Instance, policy: Watch) -> None:
    """Write the registration where a successor finds it; after a reboot it is worthless, so it is not synced."""
    path = folder / f"{instance.id}.json"
    temp = folder / f".{instance.id}.tmp"
    temp.write_text(json.dumps({"instance": msgspec.to_builtins(instance), "watch": msgspec.to_builtins(policy)}))
    temp.rename(path)


def erase(folder: Path, instance_id: str) -> None:
    """Remove a registration."""
    (folder / f"{instance_id}.json").unlink(missing_ok=True)


def load(folder: Path) -> list[tuple[Instance, Watch]]:
    """Every registration in the folder; unreadable ones are left out (their instances are then refused every exec)."""
    found = []
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, msgspec.ValidationError):
            found.append(decode(json.loads(path.read_text())))
    return found


def decode(raw: dict[str, Any]) -> tuple[Instance, Watch]:
    """An instance and its policy from plain data; raises KeyError, msgspec.ValidationError."""
    instance = msgspec.convert(raw["instance"], Instance)
    if not instance.id or "/" in instance.id or instance.id.startswith(".") or len(instance.id) > 64:
        raise KeyError("id")
    return instance, msgspec.convert(raw["watch"], Watch)
