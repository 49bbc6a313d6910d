"""A release in the store as source: for another release that differs in its settings only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.seal.sources.source import Input, Source
from stele.seal.stored import StoredContents
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.model.ports import StrataFiles
    from stele.model.release import Release
    from stele.model.spec import Spec
    from stele.model.tree import Tree


def load(release: Release, tree: Tree, files: StrataFiles, spec: Spec) -> Source:
    """What `release` was sealed from, as far as it can be told: all but what its settings took the place of.

    Args:
        release: signature checked.
        tree: its checked tree.
        files: where its strata are.
        spec: of the release to be made. It must settle all that the old one's did, or what was under it would be needed.

    Raises:
        SteleError: `seal.not-settings-only`.
    """
    old = release.spec
    if old.kind != spec.kind:
        raise _refused(f"it is a {old.kind}, that of the spec a {spec.kind}, and of a data set more is kept")
    _covers("settings", {item.path for item in old.settings}, {item.path for item in spec.settings})
    _covers("writable", {item.path for item in old.writable}, {item.path for item in spec.writable})
    _covers("data", {item.path for item in old.data}, {item.path for item in spec.data})
    if old.time != spec.time:
        raise _refused(f"its time is {old.time}, that of the spec {spec.time}, and every file carries it")
    return Source(
        tree=tree,
        contents=StoredContents.of(release, tree, files),
        kind="release",
        input_digest=release.digest,
        platform=release.platform,
        inputs=(Input(uri=f"release:{release.workload}", digest=release.digest),),
    )


def _covers(field: str, old: set[str], new: set[str]) -> None:
    if missing := sorted(old - new):
        raise _refused(f"`{field}` of the spec lacks {missing[0]}, and what the source had there is not known any more")


def _refused(reason: str) -> SteleError:
    return SteleError(
        f"the release cannot be sealed anew with this spec alone: {reason}",
        remedy="keep to what the old spec had, or seal from the source",
        code="seal.not-settings-only",
    )
