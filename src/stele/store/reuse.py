"""Strata that need not be made again: those of the newest release of a workload whose images are here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.model.release import Stratum
    from stele.store.layout import Layout


def strata(store: Layout, workload: str, codec: str) -> dict[str, Stratum]:
    """Strata by the digest of their nodes. Only of a release whose signature holds: what they say is sealed again.

    Their layers need not be here: this codec makes them again (docs/spec/store.md, Packed releases).

    Args:
        store: where to look.
        workload: whose newest release.
        codec: of the compression; strata of another one are none.
    """
    try:
        found = store.release(workload)
    except SteleError:  # there is none, or nothing about it can be believed: all is made anew
        return {}
    if found.codec != codec:
        return {}
    return {stratum.nodes: stratum for stratum in found.strata if stratum.nodes and store.is_whole(stratum)}
