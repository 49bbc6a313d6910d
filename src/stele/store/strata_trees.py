"""A release's tree, put together of what its strata hold (docs/spec/strata.md, Rebuilding)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.model.tree import Tree
from stele.store.index import damaged

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stele.model.release import Release
    from stele.model.tree import Node


def joined(release: Release, strata: Iterable[Iterable[Node]]) -> Tree:
    """The tree of a release, of the nodes of all its strata.

    Raises:
        SteleError: `store.damaged`: another tree comes out than was signed.
    """
    nodes = {node.path: node for stratum in strata for node in stratum}
    tree = Tree.build(nodes.values())
    if tree.digest() != release.tree_digest:
        raise damaged(f"the layers of {release.digest} do not make its tree")
    return tree
