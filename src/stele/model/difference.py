"""What differs between two releases: paths, settings, spec fields, and the bytes behind them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from stele.model import spec as specs

if TYPE_CHECKING:
    from stele.model.release import Release
    from stele.model.tree import Node, Tree

Change = Literal["added", "removed", "changed"]


class PathChange(msgspec.Struct, frozen=True, kw_only=True):
    """One path. `what`: for a changed one, which of its properties differ. Sizes in bytes, of regular files."""

    path: bytes
    change: Change
    what: tuple[str, ...] = ()
    size_before: int = 0
    size: int = 0
    setting: bool = False


class FieldChange(msgspec.Struct, frozen=True, kw_only=True):
    """One top-level field of the sealed spec; None where a release does not have it."""

    field: str
    before: Any
    after: Any


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """From release `before` to release `after`.

    `new_bytes`: of the contents that `before` does not have, each once. `layer_bytes`, `layers`: of the layers that `before`
    does not have: what an update moves without a delta.
    """

    before: str
    after: str
    paths: tuple[PathChange, ...]
    spec: tuple[FieldChange, ...]
    new_bytes: int
    layer_bytes: int
    layers: int


def compare(before: Release, before_tree: Tree, after: Release, after_tree: Tree) -> Difference:
    """Compare two releases and their trees."""
    settings = {setting.path.encode("utf-8", "surrogateescape")[1:] for release in (before, after) for setting in release.spec.settings}
    old, new = ({node.path: node for node in tree} for tree in (before_tree, after_tree))
    paths = []
    for path in sorted(old.keys() | new.keys()):
        change = _path(old.get(path), new.get(path), path in settings)
        if change is not None:
            paths.append(change)
    had = {node.sha256 for node in before_tree.files()}
    contents = {node.sha256: node.size for node in after_tree.files() if node.sha256 not in had}
    layers = {s.layer.digest: s.layer.size for s in after.strata}
    for stratum in before.strata:
        layers.pop(stratum.layer.digest, None)
    return Difference(
        before=before.digest,
        after=after.digest,
        paths=tuple(paths),
        spec=_fields(before, after),
        new_bytes=sum(contents.values()),
        layer_bytes=sum(layers.values()),
        layers=len(layers),
    )


def _path(old: Node | None, new: Node | None, setting: bool) -> PathChange | None:
    if old is None and new is not None:
        return PathChange(path=new.path, change="added", size=new.size, setting=setting)
    if old is not None and new is None:
        return PathChange(path=old.path, change="removed", size_before=old.size, setting=setting)
    if old is None or new is None or old == new:
        return None
    what = [word for word, differs in (
        ("kind", old.kind != new.kind),
        ("content", old.sha256 != new.sha256),
        ("target", old.target != new.target),
        ("mode", old.mode != new.mode),
        ("owner", (old.uid, old.gid) != (new.uid, new.gid)),
        ("xattrs", old.xattrs != new.xattrs),
        ("device", old.rdev != new.rdev),
        ("link", old.link != new.link),
        ("time", old.mtime != new.mtime),
    ) if differs]  # fmt: skip
    return PathChange(path=new.path, change="changed", what=tuple(what), size_before=old.size, size=new.size, setting=setting)


def _fields(before: Release, after: Release) -> tuple[FieldChange, ...]:
    old, new = specs.sealed(before.spec), specs.sealed(after.spec)
    names = sorted(old.keys() | new.keys())
    return tuple(FieldChange(field=n, before=old.get(n), after=new.get(n)) for n in names if old.get(n) != new.get(n))
