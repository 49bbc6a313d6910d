"""Strata on this host: each image is mounted once, by the way that `probe` decided, and cloned for every instance.

State is what the kernel says is mounted below `strata/`, under the image's own digest; nothing else is remembered,
so a killed process leaves nothing that the next one does not find.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stele.host import loop, mounts, verity_device
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_NAME = 20  # hex digits of the digest in a device's name
_one_at_a_time = threading.Lock()


class Image(NamedTuple):
    """An EROFS image to mount. `digest`: 64 hex digits of the file. `data_size`: bytes before its hash tree. `verity_root`: hex."""

    path: Path
    digest: str
    data_size: int
    verity_root: str


class Attached(NamedTuple):
    """A mounted stratum. `kernel_verified`: dm-verity checks every block that is read."""

    folder: Path
    kernel_verified: bool


def device_name(tag: str, digest: str) -> str:
    """Name of the verity device of an image."""
    return f"stele-{tag}-{digest[:_NAME]}"


def attach(strata: Path, tag: str, images: Iterable[Image], *, verity: bool, file_backed: bool) -> list[Attached]:
    """Mount each image below `strata`, unless it is already; in order.

    Args:
        strata: the folder of the run folder that holds them.
        tag: part of every name made on the host.
        images: verified images.
        verity: use dm-verity.
        file_backed: EROFS can mount a file; otherwise, and where it cannot after all, a loop device is used.

    Raises:
        SteleError: `run.verity-refused`, `run.no-loop-device`, `run.mount-refused`.
    """
    with _one_at_a_time:
        mounted = {item.target: item for item in mounts.mounted_below(strata)}
        return [_attach_one(strata, tag, image, mounted, verity=verity, file_backed=file_backed) for image in images]


def _attach_one(strata: Path, tag: str, image: Image, mounted: dict[str, mounts.Mount], *, verity: bool, file_backed: bool) -> Attached:
    folder = strata / image.digest
    here = mounted.get(str(folder))
    if here is not None:
        return Attached(folder, "/dm-" in here.source or "/dev/mapper/" in here.source)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        if verity:
            name = device_name(tag, image.digest)
            verity_device.close_device(name)  # a killed predecessor may have opened it and not mounted it
            device = verity_device.open_device(image.path, name, data_size=image.data_size, root_hash=image.verity_root)
            mounts.attach(mounts.mount_erofs(device), folder)
        else:
            mounts.attach(_plain(image.path, file_backed=file_backed), folder)
    except OSError as error:
        raise SteleError(
            f"the stratum {image.path} could not be mounted: {error.strerror}",
            remedy="`stele verify` checks the release; `stele doctor` says what this host can mount",
            code="run.mount-refused",
        ) from error
    return Attached(folder, verity)


def _plain(path: Path, *, file_backed: bool) -> int:
    if file_backed:
        try:
            return mounts.mount_erofs(str(path))
        except OSError as error:
            if error.errno != errno.ENOTBLK:
                raise
            # this file lies on a file system that cannot back a mount (tmpfs, overlay)
    held, device = loop.attach(path)
    try:
        return mounts.mount_erofs(device)
    finally:
        os.close(held)


def detach_unused(strata: Path, tag: str, wanted: Callable[[], set[str]]) -> int:
    """Unmount every stratum whose digest is not `wanted` (asked while nothing can be mounted), and close its devices.

    Returns how many went.
    """
    with _one_at_a_time:
        in_use = wanted()
        count = 0
        if not strata.is_dir():
            return 0
        for folder in list(strata.iterdir()):
            if folder.name in in_use:
                continue
            mounts.unmount_below(folder)
            with contextlib.suppress(OSError):
                folder.rmdir()
            count += 1
        keep = {device_name(tag, digest) for digest in in_use}
        for name in verity_device.opened(f"stele-{tag}-"):
            if name not in keep:
                verity_device.close_device(name)
        return count
