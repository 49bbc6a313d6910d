"""What is kept of a source folder for its next seal (docs/spec/stat-cache.md): files that may be lost, and say so when damaged."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from typing import TYPE_CHECKING

from stele.host import durable

if TYPE_CHECKING:
    from pathlib import Path

    from stele.flow.places import Places

STATES = ""
LAST = ".last"


def _path(places: Places, source: Path, kind: str) -> Path:
    return places.stat_caches / (hashlib.sha256(os.fsencode(os.path.realpath(source))).hexdigest() + kind)


def read(places: Places, source: Path, kind: str) -> bytes | None:
    """What was kept; only what this user wrote, and nobody else could, is believed.

    Args:
        places: the data folder.
        source: a source folder.
        kind: STATES or LAST.
    """
    try:
        fd = os.open(_path(places, source, kind), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
            return None
        return file.read()


def keep(places: Places, source: Path, kind: str, data: bytes | bytearray) -> None:
    """Keep it for the next seal; that it cannot be kept is no harm."""
    with contextlib.suppress(OSError):
        durable.make_dirs(places.stat_caches, 0o700)
        durable.replace(_path(places, source, kind), data, mode=0o600)
