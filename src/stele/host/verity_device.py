"""dm-verity over a loop device: the kernel checks every block it reads against the signed root hash."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from stele.host import loop, proc
from stele.trust.errors import SteleError

CONTROL = Path("/dev/mapper/control")
ENV = {**proc.CLEAN_ENV, "DM_DISABLE_UDEV": "1"}  # nodes are made by the library itself: no udev to wait for
BLOCK = 4096


def available() -> bool:
    """Whether this kernel has device-mapper with the verity target, and veritysetup is installed."""
    if not any(os.access(Path(folder) / "veritysetup", os.X_OK) for folder in proc.CLEAN_ENV["PATH"].split(":")):
        return False
    if not CONTROL.exists() or not Path("/sys/module/dm_verity").exists():
        with contextlib.suppress(SteleError):
            proc.run(["modprobe", "-q", "dm_verity"], timeout=20, check=False)
    return CONTROL.exists() and Path("/sys/module/dm_verity").exists()


def open_device(image: Path, name: str, *, data_size: int, root_hash: str) -> str:
    """Open `image` (`data_size` bytes of data, then its hash tree) as /dev/mapper/`name`; returns that path.

    Raises:
        SteleError: `run.verity-refused`.
    """
    fd, device = loop.attach(image)
    try:
        proc.run(
            [
                "veritysetup",
                "open",
                device,
                name,
                device,
                root_hash,
                f"--hash-offset={data_size}",
            ],
            timeout=60,
            env=ENV,
        )
    except SteleError as error:
        raise SteleError(
            f"dm-verity refused {image.name}: {error.reason}",
            remedy="the image or its hash tree was altered; get the release again (`stele pull`) or seal it again",
            code="run.verity-refused",
        ) from error
    finally:
        os.close(fd)  # the verity target holds the loop device now
    return f"/dev/mapper/{name}"


def close_device(name: str) -> None:
    """Close /dev/mapper/`name`; one that is not open is fine."""
    if Path(f"/dev/mapper/{name}").exists():
        proc.run(["veritysetup", "close", name], timeout=60, env=ENV, check=False)


def opened(prefix: str) -> list[str]:
    """Names of the opened devices that begin with `prefix`."""
    folder = Path("/dev/mapper")
    return sorted(entry.name for entry in folder.iterdir() if entry.name.startswith(prefix)) if folder.is_dir() else []
