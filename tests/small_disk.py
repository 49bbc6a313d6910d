"""A disk that is soon full."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from stele.host import immutable


@contextlib.contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A tmpfs of this size (as mount spells it) at a new folder; afterwards nothing of it is left."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
    try:
        yield folder
    finally:
        for path in folder.rglob("*.erofs"):
            immutable.make_mutable(path)
        subprocess.run(["umount", folder], check=True)
