"""The ways that are taken on this host, decided once per process by trying; cheap enough for every start (about 5 ms).

`probe` reports the same decisions, with remedies, to people. Nothing else may ask which kernel this is.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import resource
import tempfile
import threading
import zlib
from pathlib import Path
from typing import Literal

import msgspec

from stele.host import cgroup, mounts, verity_device
from stele.host.cgroup import Cgroups
from stele.host.freezer import Kind
from stele.trust.errors import SteleError

MAX_OPEN_FILES = 65536
CAP_SYS_ADMIN = 21
# An EROFS image of one empty folder (4 KiB), made by mkfs.erofs 1.5 with all times and ids zero.
_TINY = b"c-muN7zLwX6pU2x=;7A~Aesq?c^Fg}7_q2fq@n#RK>XH`i9s65{|^Mn@+weT0_Z{*TN23D)6*M`yiqU;M!_f;1*2dTjDk@x3P=P1&kqV8"

_cache: dict[str, Ways] = {}
_lock = threading.Lock()


class Ways(msgspec.Struct, frozen=True, kw_only=True):
    """What is used on this host.

    `erofs`: images are mounted from their file or by a loop device. `verity`: by dm-verity, so that the kernel checks
    every block. `overlay`: how layers are given. `freezer`: which freezer is used; `cgroups`: where cgroups are.
    `machine`: as uname -m says. `open_files`: the largest limit that an instance may get.
    """

    erofs: Literal["file", "loop"]
    verity: bool
    overlay: mounts.OverlayWay
    freezer: Kind
    cgroups: Cgroups
    machine: str
    open_files: int


def tiny_image() -> bytes:
    """A valid EROFS image of 4 KiB with one empty folder, to try mounts with."""
    return zlib.decompress(base64.b85decode(_TINY))


def is_privileged() -> bool:
    """Whether this process is root over the whole machine: all ids mapped, CAP_SYS_ADMIN effective."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        effective = int(status.split("CapEff:\t")[1].split("\n")[0], 16)
        uid_map = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
        return bool(effective >> CAP_SYS_ADMIN & 1) and uid_map[:3] == ["0", "0", "4294967295"]
    return False


def erofs_by_file(folder: Path) -> bool:
    """Try whether EROFS mounts a file that lies in `folder` without a loop device.

    Raises:
        OSError: EPERM without privileges, ENODEV where the kernel has no EROFS.
    """
    with tempfile.TemporaryFile(dir=folder) as file:  # it has no name: a kill leaves nothing
        file.write(tiny_image())
        file.flush()
        try:
            os.close(mounts.mount_erofs(f"/proc/self/fd/{file.fileno()}"))
        except OSError as error:
            if error.errno == errno.ENOTBLK:
                return False
            raise
    return True


def overlay_way() -> mounts.OverlayWay:
    """Try whether overlay layers can be given one by one, or only as one option string.

    Older kernels take the option and refuse the whole, so a whole overlay is made (and never attached).
    """
    try:
        with mounts.Context("overlay") as context:
            for lower in ("/usr", "/etc"):
                context.string("lowerdir+", lower)
            context.flag("ro")
            context.create()
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
        return "options"
    return "lowerdir+"


def find(images: Path, *, freezer: Kind | None = None) -> Ways:
    """The ways for images that lie in `images` (an existing folder); decided at the first call.

    Args:
        images: decides between file and loop: not every file system can back a mount.
        freezer: use this one instead of the preferred one, where it exists.

    Raises:
        SteleError: `run.unprivileged`, `run.no-cgroups`, `run.kernel-lacks`.
    """
    key = f"{images}\0{freezer}"
    with _lock:
        if key not in _cache:
            _cache[key] = _decide(images, freezer)
        return _cache[key]


def _decide(images: Path, freezer: Kind | None) -> Ways:
    if not is_privileged():
        raise SteleError(
            "instances cannot run here: this process is not root over the machine (an unprivileged container, or no root at all)",
            remedy="run the agent as root on the host or in a virtual machine; sealing, verifying and proving work here",
            code="run.unprivileged",
        )
    cgroups = cgroup.find()
    kinds = cgroups.kinds()
    if not kinds or (freezer is not None and freezer not in kinds):
        raise SteleError(
            f"no cgroup freezer {freezer or ''} is mounted: a violation could not be frozen",
            remedy="mount cgroup v2 at /sys/fs/cgroup, or the v1 freezer controller",
            code="run.no-cgroups",
        )
    try:
        by_file, overlay = erofs_by_file(images), overlay_way()
    except OSError as error:
        raise SteleError(
            f"this kernel cannot mount what instances need: {error.strerror}",
            remedy="load the modules erofs and overlay; `stele doctor` shows each need",
            code="run.kernel-lacks",
        ) from error
    return Ways(
        erofs="file" if by_file else "loop",
        verity=verity_device.available(),
        overlay=overlay,
        freezer=freezer or kinds[0],
        cgroups=cgroups,
        machine=os.uname().machine,
        open_files=min(MAX_OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
    )
