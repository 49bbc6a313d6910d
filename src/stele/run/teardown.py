"""Taking an instance apart: every trace of it on the host goes. Idempotent, whatever of it was made."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from typing import TYPE_CHECKING

from stele.host import cgroup, erofs_mount, mounts, netns, pidfd, slots
from stele.run import record
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.host.cgroup import Cgroups
    from stele.run.network import Network
    from stele.run.record import Folder

KILL_LIMIT_S = 10.0
CONMON_LIMIT_S = 3.0


def refuse_evidence(folder: Folder, cgroups: Cgroups) -> None:
    """Refuse if the instance is evidence: marked so, or frozen and not marked yet.

    Raises:
        SteleError: `run.quarantined`.
    """
    why = "is in quarantine" if folder.read_mark() is not None else ""
    for kind in () if why else cgroups.kinds():
        with contextlib.suppress(OSError):
            if cgroups.freezer(folder.cgroup, kind).is_requested():
                why = "is frozen after a violation"
    if why:
        raise SteleError(
            f"the instance {folder.id} {why}: it is evidence and is left as it is",
            remedy="`stele incidents` shows it; `stele evidence release` lets it go",
            code="run.quarantined",
        )


def take_apart(folder: Folder, cgroups: Cgroups, network: Network) -> None:
    """Kill what is left of an instance and undo all that was made for it. The caller made sure that it is no evidence.

    Raises:
        SteleError: `run.not-removed` if something holds on; call it again.
    """
    _end_processes(folder, cgroups)
    known = folder.read_record()
    # from here on it is half made again: whoever finds it after a kill goes on with this
    folder.mark.unlink(missing_ok=True)
    folder.instance.unlink(missing_ok=True)
    if known is not None and known.veth:
        network.withdraw(known.veth, known.address)
        netns.remove(folder.netns, known.veth)
    left = [item.target for item in _unmount(folder, known.slot if known else -1)]
    left += cgroup.remove(cgroups, folder.cgroup)
    if left:
        raise SteleError(
            f"not everything of {folder.id} could be removed: {', '.join(left[:5])}",
            remedy="the next start of the agent tries again; `fuser -vm` shows what holds on",
            code="run.not-removed",
            retryable=True,
        )
    for path in (folder.state, folder.kept_state):
        shutil.rmtree(path, ignore_errors=True)
    if known is not None and known.slot >= 0:
        with contextlib.suppress(FileNotFoundError):
            (folder.run_dir / "l" / str(known.slot)).rmdir()
        slots.give_back(folder.run_dir.parent, folder.tag, folder.id, known.slot)
    # nothing is mounted below any more (checked above): this cannot reach into a volume
    folder.record.unlink(missing_ok=True)
    shutil.rmtree(folder.path, ignore_errors=True)
    erofs_mount.detach_unused(folder.run_dir / "strata", folder.tag, lambda: record.images_in_use(folder.run_dir))


def _end_processes(folder: Folder, cgroups: Cgroups) -> None:
    marker = os.fsencode(folder.id)
    complete = folder.read_instance() is not None
    if not complete:
        # killed half-way: conmon or runc may be about to make more, so they go first
        _kill_all(pidfd.mentioning(b"-c", marker, os.fsencode(folder.bundle)))
        _kill_all(pidfd.mentioning(b"create", marker, os.fsencode(folder.bundle)))
    if not cgroup.kill_members(cgroups, folder.cgroup, KILL_LIMIT_S):
        raise SteleError(
            f"processes of {folder.id} did not end within {KILL_LIMIT_S:g} s of being killed",
            remedy="one is stuck in the kernel; the next start of the agent tries again",
            code="run.not-removed",
            retryable=True,
        )
    for pid in pidfd.mentioning(b"-c", marker, os.fsencode(folder.bundle)):
        ticks = pidfd.start_ticks(pid)  # conmon ends by itself once it has written the exit status
        if not pidfd.signal_and_wait(pid, ticks, None, CONMON_LIMIT_S):
            pidfd.signal_and_wait(pid, ticks, signal.SIGKILL, CONMON_LIMIT_S)


def _kill_all(pids: list[int]) -> None:
    for pid in pids:
        pidfd.signal_and_wait(pid, pidfd.start_ticks(pid), signal.SIGKILL, CONMON_LIMIT_S)


def _unmount(folder: Folder, slot: int) -> list[mounts.Mount]:
    places = [folder.path] + ([folder.run_dir / "l" / str(slot)] if slot >= 0 else [])
    for place in places:
        mounts.unmount_below(place)
    left = [item for place in places for item in mounts.mounted_below(place)]
    for place in places[1:]:
        for path in place.iterdir() if place.is_dir() and not left else ():
            path.rmdir()
    return left
