"""What a folder is kept on: whether overwriting in place overwrites, as far as the kernel says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from stele.host import mounts

COPY_ON_WRITE = ("bcachefs", "btrfs", "nilfs2", "zfs", "f2fs")


class Medium(NamedTuple):
    """`filesystem`: its type, "" if unknown. `keeps_old`: it writes elsewhere what is overwritten. `flash`: None if unknown."""

    filesystem: str
    keeps_old: bool
    flash: bool | None


def of(folder: Path) -> Medium:
    """The medium of a folder."""
    number = folder.stat().st_dev
    device = os.major(number), os.minor(number)
    mounted = mounts.parse_mountinfo(Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape"))
    names = [mount.fstype for mount in mounted if mount.device == device]
    filesystem = names[0] if names else ""
    return Medium(filesystem, filesystem in COPY_ON_WRITE, _flash(*device))


def _flash(major: int, minor: int) -> bool | None:
    block = Path(f"/sys/dev/block/{major}:{minor}")
    for place in (block, block.resolve().parent):  # a partition has no queue of its own
        try:
            return (place / "queue" / "rotational").read_text("ascii").strip() == "0"
        except OSError:
            continue
    return None
