"""Where cgroups are on this host, and making them go away. v1, hybrid and v2 are told apart here and nowhere else."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from pathlib import Path
from typing import Literal, NamedTuple

from stele.host import mounts
from stele.host.freezer import Freezer, Kind

Layout = Literal["v1", "hybrid", "v2", "none"]
_POLL_S = 0.001


class Cgroups(NamedTuple):
    """The hierarchies of this host.

    `layout`: "v2" (one unified hierarchy), "hybrid" (v1 controllers, and an empty v2 hierarchy beside them), "v1",
    or "none". `unified`: mount point of v2, or None. `v1`: controller name to mount point (named ones without their "name=").
    """

    layout: Layout
    unified: Path | None
    v1: dict[str, Path]

    def roots(self) -> list[Path]:
        """Every hierarchy's mount point, v2 first."""
        return list(dict.fromkeys([*([self.unified] if self.unified else []), *self.v1.values()]))

    def kinds(self) -> list[Kind]:
        """The freezers that exist, the preferred one first: v1 keeps a killed task until the thaw, v2 reaps it."""
        found: list[Kind] = ["v1"] if "freezer" in self.v1 else []
        return [*found, "v2"] if self.unified else found

    def freezer(self, path: str, kind: Kind) -> Freezer:
        """The freezer of the cgroup `path` (relative, such as "stele-TAG/id")."""
        root = self.v1["freezer"] if kind == "v1" else self.unified
        assert root is not None
        return Freezer(kind, root / path)

    def id_of(self, path: str) -> int:
        """The kernel's id of the cgroup in the v2 hierarchy (its folder's inode number); 0 without one."""
        return (self.unified / path).stat().st_ino if self.unified else 0

    def controllers(self) -> set[str]:
        """Names of the controllers that can be used."""
        found = set(self.v1)
        if self.unified:
            found |= set((self.unified / "cgroup.controllers").read_text().split())
        return found


def find() -> Cgroups:
    """Read the mounted hierarchies."""
    unified: Path | None = None
    v1: dict[str, Path] = {}
    for mount in mounts.parse_mountinfo(Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")):
        target = Path(mount.target)
        if mount.fstype == "cgroup2" and (unified is None or target.is_relative_to("/sys/fs/cgroup")):
            unified = target
        elif mount.fstype == "cgroup":
            for name in _controllers_of(target):
                v1.setdefault(name, target)
    if v1:
        return Cgroups("hybrid" if unified else "v1", unified, v1)
    return Cgroups("v2" if unified else "none", unified, {})


def _controllers_of(target: Path) -> list[str]:
    """A v1 mount's controllers: the last part of its mount point names them on every distribution; check by /proc/cgroups."""
    names = target.name.split(",")
    with contextlib.suppress(OSError):
        known = {line.split("\t")[0] for line in Path("/proc/cgroups").read_text().splitlines()}
        return [name for name in names if name in known] or [f"name={target.name}"]
    return names


def members(cgroups: Cgroups, path: str) -> set[int]:
    """Every process in the cgroup `path`, in any hierarchy, nested cgroups included."""
    found: set[int] = set()
    for root in cgroups.roots():
        for folder, _, files in os.walk(root / path):
            if "cgroup.procs" in files:
                with contextlib.suppress(OSError):
                    found |= {int(line) for line in (Path(folder) / "cgroup.procs").read_bytes().split()}
    return found


def kill_members(cgroups: Cgroups, path: str, timeout_s: float) -> bool:
    """SIGKILL every process in the cgroup until it is empty; False if some are left after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while pids := members(cgroups, path):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def remove(cgroups: Cgroups, path: str, timeout_s: float = 2.0) -> list[str]:
    """Remove the (empty) cgroup `path` from every hierarchy, nested ones first; returns what could not be removed."""
    left = []
    for root in cgroups.roots():
        for folder, _, _ in os.walk(root / path, topdown=False):
            if not _rmdir(folder, timeout_s):
                left.append(folder)
    return left


def _rmdir(folder: str, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            return True
        except OSError as error:
            # the last task's exit is seen before the cgroup counts as empty
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        else:
            return True
