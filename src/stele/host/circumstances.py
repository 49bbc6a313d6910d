"""What a process got from whoever started it, as the kernel tells it: what it may do, where it is, what it may take."""

from __future__ import annotations

import errno
import os

_STATUS = frozenset(
    (
        "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
        "Seccomp_filters", "Speculation_Store_Bypass", "SpeculationIndirectBranch", "Cpus_allowed", "Mems_allowed", "THP_enabled",
    )
)  # fmt: skip
_FILES = ("cgroup", "limits", "loginuid", "sessionid", "oom_score_adj", "personality", "attr/current")
_SPACES = ("cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts")
_ABSENT = {errno.ENOENT, errno.EINVAL}  # this kernel has no such thing


def of(pid: int) -> dict[str, object]:
    """The circumstances of a process.

    Raises:
        OSError: they may not be looked at, or it is gone.
    """
    top = f"/proc/{pid}"
    found: dict[str, object] = {name: _read(f"{top}/{name}") for name in _FILES}
    for line in _read(f"{top}/status").decode("ascii", "replace").splitlines():
        name, _, value = line.partition(":")
        if name in _STATUS:
            found[name] = value.strip()
    for space in _SPACES:
        found["ns/" + space] = os.readlink(f"{top}/ns/{space}") if os.path.lexists(f"{top}/ns/{space}") else ""
    root = os.stat(f"{top}/root")
    found["root"] = (root.st_dev, root.st_ino)
    found["priority"] = (os.getpriority(os.PRIO_PROCESS, pid), os.sched_getscheduler(pid), os.sched_getparam(pid).sched_priority)
    return found


def is_stopped(pid: int) -> bool:
    """Whether a process does nothing until somebody lets it go on: stopped, or held by a debugger; or it has ended. Raises like `of`."""
    stat = _read(f"/proc/{pid}/stat")
    return stat[stat.rfind(b")") + 2 :][:1] not in {b"R", b"S", b"D"}


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 1 << 16)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return b""
