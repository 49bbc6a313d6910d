"""After a kill: find what was half made and undo it; keep instances and evidence. Then nothing of ours is left unexplained."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from typing import TYPE_CHECKING

from stele.host import cgroup, erofs_mount, mounts, netns, slots
from stele.run import record, teardown
from stele.run.record import Folder, folders
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from pathlib import Path

    from stele.host.cgroup import Cgroups
    from stele.run.network import Network

log = logging.getLogger(__name__)


def sweep(run_dir: Path, cgroups: Cgroups, network: Network) -> list[str]:
    """Undo what a killed process left half made; returns the ids of the instances that were taken apart.

    Complete instances, living or ended, and evidence stay as they are. Only one process may do this at a time, and
    none may be creating: the agent calls it once, before anything else. Failures are logged and met again by the next sweep.
    """
    undone = []
    for folder in folders(run_dir):
        if folder.read_instance() is None and _undo(folder, cgroups, network):
            undone.append(folder.id)
    present = {folder.id: folder.read_record() for folder in folders(run_dir)}
    _sweep_orphans(run_dir, set(present), cgroups)
    erofs_mount.detach_unused(run_dir / "strata", run_dir.name, lambda: record.images_in_use(run_dir))
    network.keep_only({known.veth: known.address for known in present.values() if known is not None and known.veth})
    return undone


def _undo(folder: Folder, cgroups: Cgroups, network: Network) -> bool:
    try:
        teardown.refuse_evidence(folder, cgroups)
        teardown.take_apart(folder, cgroups, network)
    except SteleError as error:
        log.warning("%s was left half made and stays so for now: %s", folder.id, error.reason)
        return False
    return True


def _sweep_orphans(run_dir: Path, present: set[str], cgroups: Cgroups) -> None:
    """What carries our tag and belongs to no instance folder: only a wiped run folder leaves such things."""
    prefix = f"stele-{run_dir.name}-"
    for name in netns.existing(prefix):
        if name.removeprefix(prefix) not in present:
            netns.remove(name, "")
    for root in cgroups.roots():
        here = root / f"stele-{run_dir.name}"
        for path in list(here.iterdir()) if here.is_dir() else []:
            if path.is_dir() and path.name not in present:
                ours = f"{here.name}/{path.name}"
                cgroup.kill_members(cgroups, ours, teardown.KILL_LIMIT_S)
                cgroup.remove(cgroups, ours)
    for name in ("runc", "quarantine"):
        for path in list((run_dir / name).iterdir()) if (run_dir / name).is_dir() else []:
            if path.name not in present:
                shutil.rmtree(path, ignore_errors=True)
    _sweep_slots(run_dir)


def _sweep_slots(run_dir: Path) -> None:
    for number, owner in slots.taken(run_dir.parent, run_dir.name).items():
        known = Folder(run_dir, owner).read_record()
        if known is None or known.slot != number:
            mounts.unmount_below(run_dir / "l" / str(number))
            slots.give_back(run_dir.parent, run_dir.name, owner, number)
    lowers = run_dir / "l"
    for path in list(lowers.iterdir()) if lowers.is_dir() else []:
        if not slots.is_taken(run_dir.parent, path.name):
            mounts.unmount_below(path)
            for inner in path.iterdir():
                inner.rmdir()
            path.rmdir()


def clear(run_dir: Path, cgroups: Cgroups, network: Network) -> bool:
    """With no instance and no evidence left: remove what all of them shared. False if there still is one.

    What remains is the run folder with its sockets, and empty folders.
    """
    if folders(run_dir):
        return False
    sweep(run_dir, cgroups, network)
    network.remove()
    for root in cgroups.roots():
        with contextlib.suppress(OSError):
            os.rmdir(root / f"stele-{run_dir.name}")
    for name in ("runc", "quarantine", "strata", "l", "instances"):
        with contextlib.suppress(OSError):
            (run_dir / name).rmdir()
    return True
