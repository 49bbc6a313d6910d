"""What strata hold that a release shares with others which are here: read in their trees, no layer is unfolded for it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from stele.flow.in_place import InPlace
from stele.model import tree as trees
from stele.seal.delta import quick
from stele.store.layout import TREE_LIMIT
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.model.release import Release
    from stele.model.tree import Node
    from stele.store.layout import Layout


def nodes(store: Layout, release: Release) -> dict[str, tuple[Node, ...]]:
    """The nodes of those strata that another release here has too, by name: only what its image and its tree say together, at the digest
    that the table of strata has for them.
    """
    found: dict[str, tuple[Node, ...]] = {}
    for base in reversed(list(store.releases())):
        shared = [s for s in release.strata if s.name not in found and s.nodes and s in base.strata and store.has_image(s)]
        if not shared or not store.has_blob(base.tree_digest):
            continue
        with contextlib.suppress(SteleError):  # its tree is damaged: that is said where it is asked for
            place = InPlace(store, base, quick.Lines(store.blob(base.tree_digest, TREE_LIMIT)))
            for stratum in shared:
                encoded = place.nodes(stratum, place.lines)
                if sha256(encoded) == stratum.nodes:
                    found[stratum.name] = trees.decode(encoded).nodes
    return found
