"""Damaged files are set aside, never thrown away: `damaged/<name>.<n>` keeps their bytes (docs/spec/store.md, Repairing)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stele.host import durable, immutable
from stele.store import drafts

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "damaged"


def put(root: Path, path: str) -> Path:
    """Move a file, immutable or not, below `damaged/`; returns where it is now. A kill leaves it in one place or the other.

    Raises:
        SteleError: `store.full`, `store.not-writable`.
    """
    source = root / path
    with drafts.writing(root):
        durable.make_dirs(root / FOLDER)
        immutable.make_mutable(source)
        target = _free(root / FOLDER, source.name)
        os.rename(source, target)
        for folder in (root / FOLDER, source.parent):
            durable.sync_dir(folder)
    return target


def keep(root: Path, path: str) -> Path:
    """Keep another name below `damaged/` of a file that is about to be replaced. Raises like `put`."""
    with drafts.writing(root):
        durable.make_dirs(root / FOLDER)
        target = _free(root / FOLDER, (root / path).name)
        os.link(root / path, target)
        durable.sync_dir(root / FOLDER)
    return target


def back(root: Path, aside: Path, path: str) -> None:
    """Put a file back where it was, unless there is another one by now. Raises like `put`."""
    with drafts.writing(root):
        if not (root / path).exists():
            os.rename(aside, root / path)
            for folder in (root / FOLDER, (root / path).parent):
                durable.sync_dir(folder)


def _free(folder: Path, name: str) -> Path:
    number = 0
    while (target := folder / f"{name}.{number}").exists():
        number += 1
    return target
