"""One tar archive of a whole root file system as source: what mmdebstrap, debootstrap, or `docker export` write."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stele.seal.contents import Contents
from stele.seal.inode import Inode, Notes
from stele.seal.normalise import tree_of
from stele.seal.sources.layers import apply_layer, read_layer
from stele.seal.sources.source import Source
from stele.seal.sources.spool import Spool
from stele.seal.sources.stream import Ahead, Budget, Hashed, Reader, unfold
from stele.seal.sources.tar import TarReader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stele.seal.sources.source import Kind, Limits


class _File:
    """A file, read from its beginning to its end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int, /) -> bytes:
        return os.read(self._fd, size)


def load(path: Path, *, kind: Kind = "root-tar", time: int, limits: Limits, platform: str = "", data: bool = False) -> Source:
    """Read a root file system from a tar archive, plain or compressed. Its digest is that of the file as it is. `data`: as in `tree_of`.

    Raises:
        SteleError: those of the tar reader and of the rules (docs/spec/sources.md).
    """
    notes, root, spool = Notes(), Inode(kind="dir"), Spool()
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        budget = Budget(limits)
        folded = Hashed(_File(fd))

        def pieces() -> Iterator[bytes]:
            count = 0
            for piece in unfold(folded, path.name):
                count += len(piece)
                budget.unfolded(len(piece), folded.count, count)
                yield piece

        with Ahead(pieces()) as ahead:
            entries, inodes = read_layer(TarReader(Reader(ahead, path.name), budget, sparse=True), spool, notes)
        while folded.read(1 << 20):
            pass  # what lies behind the archive's end counts for its digest
        apply_layer(root, 1, entries, inodes)
        tree = tree_of(root, time=time, notes=notes, data=data)
    except BaseException:
        spool.close()
        raise
    finally:
        os.close(fd)
    return Source(
        tree=tree,
        contents=Contents(spool.places, spool=spool.fd),
        kind=kind,
        input_digest=folded.digest(),
        platform=platform,
        notes=notes.lines(),
    )
