"""index.json on disk: decoded when it says something else than before, written at once or not at all."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from stele.host import durable
from stele.store.index import Index

if TYPE_CHECKING:
    from pathlib import Path


def of(root: Path) -> IndexFile:
    """The index.json of the store in a folder; one for all of this process who have it open."""
    return _OPEN.setdefault(root, IndexFile(root))


class IndexFile:
    """The index.json of one store, which other processes and other tools change, too. Safe to use from several threads."""

    def __init__(self, root: Path) -> None:
        self.path = root / "index.json"
        self._known: tuple[bytes, Index] | None = None

    def read(self) -> Index:
        """What it lists now; nothing where there is none.

        It is read each time, and compared: that takes less than a tenth of decoding, and no file time need be believed.

        Raises:
            SteleError: `store.damaged`.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return Index()
        known = self._known
        if known is None or known[0] != data:
            known = self._known = data, Index.decode(data)
        return known[1]

    def write(self, index: Index, *, after: tuple[Path, ...] = ()) -> None:
        """Replace it; only under the store's lock. `after`: folders that are to be on disk before (see `durable.write`)."""
        data = index.encode()
        durable.write(self.path, data, after=after)
        self._known = data, index


_OPEN: weakref.WeakValueDictionary[Path, IndexFile] = weakref.WeakValueDictionary()
