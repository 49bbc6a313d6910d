"""The partial tiles of a ledger that is written: which of them somebody needs (docs/spec/ledger.md, Publishing)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.ledger import tiles

if TYPE_CHECKING:
    from pathlib import Path


class Partials:
    """`synced`: those that recovery begins with. `shown`: those of the newest checkpoint."""

    def __init__(self, folder: Path, synced: frozenset[str], shown: frozenset[str]) -> None:
        self._folder, self._synced, self.shown = folder, synced, shown
        self._before = frozenset[str]()

    def show(self, names: frozenset[str]) -> None:
        """There is a newer checkpoint; who reads the one before may still want its tiles."""
        old, self._before, self.shown = self._before, self.shown, names
        self._drop(old)

    def sync(self, names: frozenset[str]) -> None:
        """Recovery begins with others."""
        old, self._synced = self._synced, names
        self._drop(old)

    def _drop(self, names: frozenset[str]) -> None:
        for name in names - self._synced - self._before - self.shown:
            tiles.remove_tile(self._folder, name)
