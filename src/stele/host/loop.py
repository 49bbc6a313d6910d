"""Loop devices: attach an image read-only, so that it vanishes with its last user (LO_FLAGS_AUTOCLEAR)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from pathlib import Path

from stele.host import proc
from stele.trust.errors import SteleError

_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_READ_ONLY, _AUTOCLEAR, _DIRECT_IO = 1, 4, 16
_ATTEMPTS = 64
BLOCK = 4096
CONTROL = Path("/dev/loop-control")


def _config(image_fd: int, name: str, flags: int) -> bytes:
    """A loop_config record (include/uapi/linux/loop.h): fd, block size, loop_info64, reserved."""
    info = struct.pack("=QQQQQIIII64s64s32s16s", 0, 0, 0, 0, 0, 0, 0, 0, flags, os.fsencode(name)[:63], b"", b"", bytes(16))
    return struct.pack("=II", image_fd, BLOCK) + info + bytes(64)


def load_module() -> None:
    """Make sure that the loop driver is there; a kernel without modules is fine if it is built in."""
    if not CONTROL.exists() or not Path("/sys/module/loop").exists():
        with contextlib.suppress(SteleError):
            proc.run(["modprobe", "-q", "loop"], timeout=20, check=False)


def attach(image: Path) -> tuple[int, str]:
    """Attach `image` read-only to a free loop device.

    Returns its open descriptor and path. It is cleared by the kernel when the descriptor and every mount or
    device-mapper target on it are gone; close the descriptor once something else holds it.

    Raises:
        SteleError: `run.no-loop-device`.
    """
    load_module()
    image_fd = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    try:
        control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
        try:
            return _attach(control, image_fd, image)
        finally:
            os.close(control)
    except (FileNotFoundError, PermissionError) as error:
        raise SteleError(
            f"no loop device can be used: {error}",
            remedy="load the loop module (modprobe loop), or use Linux 6.12 or later with the data folder on ext4, xfs or btrfs",
            code="run.no-loop-device",
        ) from error
    finally:
        os.close(image_fd)


def _attach(control: int, image_fd: int, image: Path) -> tuple[int, str]:
    for attempt in range(_ATTEMPTS):
        device = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        # direct I/O spares a second copy in the page cache; not every file system has it
        flags = _READ_ONLY | _AUTOCLEAR | (_DIRECT_IO if attempt == 0 else 0)
        try:
            fcntl.ioctl(fd, _LOOP_CONFIGURE, _config(image_fd, str(image), flags))
        except OSError as error:
            os.close(fd)
            if error.errno in {errno.EBUSY, errno.EINVAL}:
                continue  # taken by another meanwhile, or no direct I/O
            raise
        return fd, device
    raise SteleError("no free loop device was found", remedy="`losetup -a` lists who uses them", code="run.no-loop-device", retryable=True)


def backing_file(device: str) -> str:
    """The path of the file behind a loop device, "" if it is not attached."""
    try:
        return Path(f"/sys/block/{Path(device).name}/loop/backing_file").read_text("utf-8", "surrogateescape").rstrip("\n")
    except OSError:
        return ""
