"""Cutting a tree into strata (docs/spec/strata.md, version 0): `base`, and the settings last. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stele.model.tree import parent

if TYPE_CHECKING:
    from stele.model.spec import Spec
    from stele.model.tree import Node, Tree

BASE = "base"
SETTINGS = "settings"


class Slice(NamedTuple):
    """One stratum's nodes, in the tree's order, with every directory above them, so that it is a tree by itself."""

    name: str
    nodes: tuple[Node, ...]


def cut(tree: Tree, spec: Spec) -> tuple[Slice, ...]:
    """The strata of a tree, lowest first: a function of the tree and the paths of the spec's settings alone.

    The names of one inode stay together, in the stratum of the first.
    """
    paths = {setting.path.encode("utf-8", "surrogateescape")[1:] for setting in spec.settings}
    last = tuple(node for node in tree.nodes if (node.path if node.link is None else node.link) in paths)
    if not last:
        return (Slice(BASE, tree.nodes),)
    own = {node.path for node in last}
    above = {b""}
    for path in own:
        while path:
            path = parent(path)  # noqa: PLW2901  walking up
            above.add(path)
    return (
        Slice(BASE, tuple(node for node in tree.nodes if node.path not in own)),
        Slice(SETTINGS, tuple(node for node in tree.nodes if node.path in own or node.path in above)),
    )
