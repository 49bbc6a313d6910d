"""Bringing packed releases back: from the deltas that the store keeps, without network, at the signed digests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.flow import deltas, updates
from stele.seal import restore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.model.release import Release, Stratum
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


def layers(store: Layout, release: Release, wanted: Sequence[Stratum]) -> None:
    """Make layers of a whole release again, from its images; each comes out at its signed digest or not at all.

    Raises:
        SteleError: `release.other-codec`, `release.rebuild-differs`, `store.*`.
    """
    with deltas.opened(store, release) as side:
        slices = dict(updates.paired(release, updates.slices_of(release, side.tree, side.contents)))
        restore.layers([(stratum, slices[stratum]) for stratum in wanted], side.contents, store)
