"""Bringing packed releases back: from the deltas that the store keeps, without network, at the signed digests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.flow import deltas, updates

if TYPE_CHECKING:
    from stele.model.release import Release
    from stele.model.tree import Tree
    from stele.store.layout import Layout


class Unpacking:
    """Adapter of the port `Unpacker` for one store."""

    def __init__(self, store: Layout) -> None:
        self._store = store

    def tree(self, release: Release) -> Tree:
        """See the port."""
        return deltas.tree_here(self._store, release)

    def strata(self, release: Release) -> None:
        """See the port."""
        store = self._store
        with store.adding():
            if deltas.is_whole(store, release):
                return
            chain = deltas.way_here(store, release)
            with deltas.unpacked(store, release, chain) as side:
                record = updates.record_of(store, deltas.artifact(store, chain[-1]))
                slices = updates.slices_of(release, side.tree, side.contents, record)
                updates.restore_missing(store, release, side.tree, side.contents, slices)
