"""Stores on disk for tests of their upkeep."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

from stele.flow.unpacking import Unpacking
from stele.host import immutable
from stele.seal.rebuild import LayerRebuilder
from stele.store.layout import Layout
from tests.unit.test_updates import KEY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def opened(root: Path) -> Layout:
    found = Layout(root, trusted=[KEY.public], rebuild=LayerRebuilder())
    found.unpack = Unpacking(found)
    return found


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file() and path.parent.name != "damaged"}


@contextlib.contextmanager
def copy_of(made: Path, folder: Path) -> Iterator[Path]:
    """A store that may be spoilt: a copy of `made` in an empty folder. Afterwards nothing in it is immutable."""
    subprocess.run(["cp", "-a", "--reflink=auto", made, folder / "store"], check=True)
    yield folder / "store"
    for path in folder.rglob("*"):
        if path.is_file():
            immutable.make_mutable(path)
