"""Whether the program that a spec names is in the tree (docs/spec/sources.md, Settings)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.model.tree import parent
from stele.seal.normalise import MOUNT_POINTS

if TYPE_CHECKING:
    from stele.model.spec import Spec
    from stele.model.tree import Tree

_MAX_HOPS = 40  # symlinks on the way to one path, as in Linux


def warnings(tree: Tree, spec: Spec) -> list[str]:
    """What should be told of the program of `spec`: nothing where it is in the tree, or where an instance mounts something."""
    if not spec.command or _is_there(tree, spec):
        return []
    return [f"the program {spec.command[0]} of `command` is not in the release"]


def _is_there(tree: Tree, spec: Spec) -> bool:
    """Also where it cannot be known: a symlink may lead to where an instance mounts something."""
    paths = [*(item.path for item in spec.writable), *(item.path for item in spec.data)]
    mounted = {*MOUNT_POINTS, *(path[1:].encode("utf-8", "surrogateescape") for path in paths)}
    at, hops = b"", _MAX_HOPS
    todo = spec.command[0].encode("utf-8", "surrogateescape").split(b"/")[::-1]
    while todo:
        part = todo.pop()
        if part in {b"", b"."}:
            continue
        if part == b"..":
            at = parent(at)
            continue
        path = at + b"/" + part if at else part
        if path in mounted:
            return True
        node = tree.get(path)
        if node is None or (node.kind == "symlink" and not hops):
            return False
        if node.kind != "symlink":
            at = path
            continue
        hops -= 1
        at = b"" if node.target.startswith(b"/") else at
        todo += node.target.split(b"/")[::-1]
    return True
