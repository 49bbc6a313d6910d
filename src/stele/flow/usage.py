"""What a store's room is used for: by workload, release and stratum, shared and own (docs/spec/store.md, Usage)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from stele.store import census, checking

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.store.census import Holding
    from stele.store.checking import Files
    from stele.store.layout import Layout


class StratumUse(NamedTuple):
    """A stratum on the disk. `form`: in which of its two forms it is there. `shared_with`: how many other releases have it."""

    name: str
    form: Literal["image and layer", "image", "layer", "as delta"]
    held: int
    shared_with: int


class ReleaseUse(NamedTuple):
    """A release. `own`: bytes on the disk that would be free without it; `shared`: those that another release needs, too.

    `deltas`: bytes of `own` and `shared` that are deltas to it.
    """

    digest: str
    workload: str
    form: Literal["whole", "as delta", "another tool's"]
    own: int
    shared: int
    deltas: int
    strata: tuple[StratumUse, ...]


class Usage(NamedTuple):
    """All of a store, in bytes on the disk. `unnamed`: nothing names it; `aside`: set aside by repairs. `size`: of the files as read.

    `workloads`: by name, `own`: what no other workload needs, `shared`: what others need, too.
    """

    releases: tuple[ReleaseUse, ...]
    total: int
    size: int
    unnamed: int
    aside: int
    workloads: dict[str, dict[str, int]]


def usage(store: Layout) -> Usage:
    """Count a store. Nothing is hashed.

    Raises:
        SteleError: `store.not-writable`: the folder cannot be locked.
    """
    with store.looking():
        files = checking.look(store, lambda _: None, hashing=False)
        taken = census.take(store)
    users: dict[str, set[str]] = {}
    for digest, part in taken.parts():
        if part.path in files.states:
            users.setdefault(part.path, set()).add(digest)
    held = {path: state.held for path, state in files.states.items()}
    return Usage(
        releases=tuple(_of(holding, files, users) for holding in taken.holdings),
        total=sum(held.values()) + files.aside_held + files.partial_held,
        size=sum(state.size for state in files.states.values()),
        unnamed=sum(count for path, count in held.items() if path not in users) + files.partial_held,
        aside=files.aside_held,
        workloads=_workloads(taken.holdings, held, users),
    )


def _workloads(holdings: Sequence[Holding], held: dict[str, int], users: dict[str, set[str]]) -> dict[str, dict[str, int]]:
    names = {holding.digest: holding.release.workload if holding.release else "" for holding in holdings}
    found: dict[str, dict[str, int]] = {}
    for path, digests in users.items():
        whose = {names[digest] for digest in digests if digest in names}
        for name in whose:
            counts = found.setdefault(name, {"own": 0, "shared": 0})
            counts["shared" if len(whose) > 1 else "own"] += held[path]
    return dict(sorted(found.items()))


def _of(holding: Holding, files: Files, users: dict[str, set[str]]) -> ReleaseUse:
    paths = {part.path: part.role for part in holding.parts if part.path in files.states}
    own = sum(files.states[path].held for path in paths if users[path] == {holding.digest})
    shared = sum(files.states[path].held for path in paths if users[path] != {holding.digest})
    release = holding.release
    if release is None:
        return ReleaseUse(holding.digest, "", "another tool's", own, shared, 0, ())
    strata = []
    for stratum in release.strata:
        image, layer = census.image_path(stratum.image), census.blob_path(stratum.layer.digest)
        there = [path for path in (image, layer) if path in paths]
        form: Literal["image and layer", "image", "layer", "as delta"] = "as delta"
        if there:
            form = "image and layer" if len(there) == 2 else "image" if there == [image] else "layer"
        others = {digest for path in there for digest in users[path]} - {holding.digest}
        strata.append(StratumUse(stratum.name, form, sum(files.states[path].held for path in there), len(others)))
    by_delta = any(item.form == "as delta" for item in strata)
    deltas = sum(files.states[path].held for path, role in paths.items() if role == "delta")
    return ReleaseUse(release.digest, release.workload, "as delta" if by_delta else "whole", own, shared, deltas, tuple(strata))
