"""What changes from one release of the store to another: files, settings, spec, packages, and what the update moves."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from stele.flow import deltas
from stele.model import difference
from stele.seal import packages

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stele.model.difference import Difference
    from stele.model.release import Release
    from stele.seal.packages import Package
    from stele.store.layout import Layout


class PackageChange(NamedTuple):
    """A package whose versions differ; "" where it is not installed, several joined by commas."""

    ecosystem: str
    name: str
    before: str
    after: str


class Comparison(NamedTuple):
    """`delta_bytes`: of the deltas in the store that lead from one to the other; None where there are none."""

    difference: Difference
    packages: tuple[PackageChange, ...]
    delta_bytes: int | None


def compare(store: Layout, before: Release, after: Release) -> Comparison:
    """Compare two releases, whole or packed.

    Raises:
        SteleError: `store.damaged`, `delta.*`.
    """
    with deltas.opened(store, before) as old, deltas.opened(store, after) as new:
        found = difference.compare(before, old.tree, after, new.tree)
        changed = package_changes(packages.find(old.tree, old.contents), packages.find(new.tree, new.contents))
    chain = deltas.cheapest(after.digest, lambda digest: deltas.offers(digest, store.referrers(digest)), before.digest.__eq__)
    return Comparison(found, changed, sum(offer.size for offer in chain) if chain else None)


def package_changes(before: Iterable[Package], after: Iterable[Package]) -> tuple[PackageChange, ...]:
    """Packages that were added, removed, or have other versions, sorted. Pure."""
    versions: dict[tuple[str, str, str], tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for side, found in enumerate((before, after)):
        for package in found:
            versions[package.ecosystem, package.name, package.architecture][side].add(package.version)
    changes = []
    for (ecosystem, name, _), (old, new) in sorted(versions.items()):
        if old != new:
            changes.append(PackageChange(ecosystem, name, ", ".join(sorted(old)), ", ".join(sorted(new))))
    return tuple(changes)
