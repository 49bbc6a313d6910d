"""Old releases at rest: kept as deltas, from which they come out whole again (docs/spec/store.md, Packed releases; ADR 52)."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from stele.flow import deltas, reading, unpacking, updates, upkeep
from stele.host import durable
from stele.model.history import advance, start
from stele.seal import packages, restore, strata
from stele.seal.delta import cutting
from stele.seal.rebuild import LayerRebuilder
from stele.seal.sources.spool import anonymous_file
from stele.seal.strata import Slice
from stele.store import census, removal
from stele.store.index import damaged
from stele.trust.digest import parse_digest, sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from typing import Self

    from stele.flow.places import Places
    from stele.flow.upkeep import Record
    from stele.model.history import WorkloadState
    from stele.model.ports import ContentReader
    from stele.model.release import Publication, Release, Stratum
    from stele.model.tree import Tree
    from stele.store.layout import Layout

DEPTH = 6  # deltas between a packed release and a whole one; less than the longest chain that is followed


class Packed(NamedTuple):
    """What packing did. `packed`: digests of the releases that are kept as deltas now; `kept`: of those that stay whole.

    `freed`, `added`: bytes. `left`: digests of those that could not be packed, or whose layers stay, and why.
    """

    packed: tuple[str, ...]
    kept: tuple[str, ...]
    freed: int
    added: int
    left: dict[str, str]


def in_use(places: Places) -> dict[str, str]:
    """Releases that the ledger says must stay whole, by digest, each with the reason."""
    states: dict[str, WorkloadState] = {}
    for _, entry in reading.entries(places):
        name = entry.event.workload
        states[name] = advance(states.get(name) or start(name), entry.event)
    found: dict[str, str] = {}
    for state in states.values():
        for digest in state.good[-2:]:
            found[digest] = "known good"
        for live in state.frozen.values():
            found[live.release] = "frozen as evidence"
        for live in state.running.values():
            found[live.release] = "running"
        if state.active_release:
            found[state.active_release] = "running"
    return found


def bases(places: Places, store: Layout, release: Release) -> list[Release]:
    """What an update to `release` is likely to start from: the workload's release before it, those known good, those pinned; not itself.

    Raises:
        SteleError: `store.damaged`.
    """
    items = [item for item in store.releases() if item.workload == release.workload]
    place = next((at for at, item in enumerate(items) if item.digest == release.digest), len(items))
    good = [digest for digest, reason in in_use(places).items() if reason in {"known good", "running"}]
    wanted = {item.digest for item in items[max(0, place - 1) : place]} | set(good) | pins(store)
    return [item for item in items if item.digest in wanted and item.digest != release.digest]


def attach(places: Places, store: Layout, release: Release) -> list[deltas.Offer]:
    """Make the deltas that an update to `release` may use, and let them refer to it (docs/spec/delta.md, As an artifact).

    Raises:
        SteleError: `store.*`.
    """
    with store.adding():
        return [deltas.attach_delta(store, base, release) for base in bases(places, store, release)]


def pins(store: Layout) -> set[str]:
    """Digests of the releases that somebody pinned.

    Raises:
        SteleError: `store.damaged`.
    """
    try:
        data = (store.root / "pins").read_bytes()
        return {parse_digest(line) for line in data.decode("ascii").splitlines()}
    except FileNotFoundError:
        return set()
    except (OSError, UnicodeDecodeError, SteleError) as error:
        raise damaged("the list of pinned releases cannot be read") from error


def set_pin(store: Layout, digest: str, *, pinned: bool) -> None:
    """Pin a release, or no longer. Raises like `pins`."""
    with store.adding(), store.changing():
        found = pins(store) | {digest} if pinned else pins(store) - {digest}
        write_pins(store, found)


def write_pins(store: Layout, pinned: Iterable[str]) -> None:
    """Let these releases be the pinned ones."""
    durable.write(store.root / "pins", "".join(f"{item}\n" for item in sorted(pinned)).encode("ascii"))


def plan(order: Sequence[str], keep: Collection[str], known: Mapping[str, str]) -> dict[str, str]:
    """Which release each one is to be a delta of: a newer one, never more than `DEPTH` deltas from one that is kept whole. Pure.

    Args:
        order: releases of one workload, the oldest first; the last is kept.
        keep: those that stay whole.
        known: what those that are packed already are deltas of.
    """
    depth = {order[-1]: 0} if order else {}
    found: dict[str, str] = {}
    nearest = order[-1] if order else ""
    newer = nearest
    for digest in reversed(order[:-1]):
        if digest in keep:
            depth[digest], nearest = 0, digest
        else:
            base = known.get(digest, "")
            if depth.get(base, DEPTH) >= DEPTH:
                base = newer if depth[newer] < DEPTH else nearest
            found[digest], depth[digest] = base, depth[base] + 1
        newer = digest
    return found


def pack(
    store: Layout,
    keep: Collection[str],
    *,
    keep_layers: bool,
    record: Record,
    say: Callable[[str], None],
    wait: float = 0.0,
    meanwhile: Callable[[], Collection[str]] = tuple,
) -> Packed:
    """Keep releases as deltas, and of those that stay whole the images; only what was proven to come out again is removed.

    Args:
        store: the store.
        keep: digests of releases that stay whole, besides the newest of each workload.
        keep_layers: those have their layers, too, for other tools; which are made again where they went before.
        record: commits an event, before something is removed.
        say: told of each step.
        wait: seconds for which those who add may take to end, before something is removed; nobody new begins meanwhile. And for which
            another packing may.
        meanwhile: tells what has to stay whole besides, when something is to be removed: that may be much later.

    Raises:
        SteleError: `store.busy`, `store.damaged`, `store.full`, `store.not-writable`, `ledger.*`. Nothing was removed then.
    """
    with removal.packing(store.root, wait):
        made = _pack_all(store, keep, keep_layers=keep_layers, say=say)
        with store.removing(wait):
            now = store.releases()
            stay = _newest(now) | pins(store) | set(meanwhile())
            freed = _remove(store, now, made, stay, record=record)
        freed += _remove_stale(store, made, record, wait)
    here = {release.digest for release in made.here}
    kept = made.kept | stay & here
    return Packed(tuple(d for d in made.packed if d not in kept), tuple(sorted(kept & here)), freed, made.added, made.left)


class _Made(NamedTuple):
    """What is to be removed for. `packed`: releases whose packed form is there and proven. `bases`: of these; "" where layers are kept."""

    here: Sequence[Release]
    kept: set[str]
    packed: dict[str, Release]
    bases: dict[str, str]
    left: dict[str, str]
    added: int


def _newest(releases: Iterable[Release]) -> set[str]:
    """Of each workload, by digest. `releases`: the newest last."""
    return {release.digest for release in {item.workload: item for item in releases}.values()}


def _pack_all(store: Layout, keep: Collection[str], *, keep_layers: bool, say: Callable[[str], None]) -> _Made:
    """Make and prove the packed forms; see `pack`."""
    here = store.releases()
    by_name: dict[str, list[Release]] = {}
    for release in here:
        by_name.setdefault(release.workload, []).append(release)
    kept = set(keep) | _newest(here)
    packed: dict[str, Release] = {}
    bases: dict[str, str] = {}
    left: dict[str, str] = {}
    added = 0
    for items in by_name.values():
        names = {release.digest: release for release in items}
        wanted: dict[str, Release | None] = {digest: names[to] for digest, to in plan([*names], kept, _known(store, items)).items()}
        wanted |= {digest: items[-1] for digest in names if digest in kept}
        wanted[items[-1].digest] = None
        for digest, release in names.items():  # the oldest first: what they are deltas of is whole then, mostly
            base = wanted[digest]
            try:
                if keep_layers and digest in kept:
                    _with_layers(store, release, say)
                    bases[digest] = ""
                    continue
                added += _pack_one(store, base, release, say, stays=digest in kept)
                packed[digest], bases[digest] = release, base.digest if base else deltas.EMPTY
            except SteleError as error:
                if error.code in {"store.full", "store.not-writable"}:
                    raise
                left[digest] = error.reason
                say(f"{release.workload} {digest[:19]} stays {'with its layers' if digest in kept else 'whole'}: {error.reason}")
    return _Made(here, kept, packed, bases, left, added)


def _known(store: Layout, items: Sequence[Release]) -> dict[str, str]:
    """What packed releases are deltas of, where that is a newer one of the same workload."""
    place = {release.digest: at for at, release in enumerate(items)}
    found = {}
    for release in items:
        for offer in deltas.offers(release.digest, store.referrers(release.digest)):
            if place.get(offer.base, -1) > place[release.digest] and is_pack(store, offer):
                found[release.digest] = offer.base
    return found


def is_pack(store: Layout, offer: deltas.Offer) -> bool:
    """Whether an artifact was made to keep a release by, not to hand it on."""
    return store.has_blob(offer.manifest.digest) and deltas.artifact(store, offer).cut is not None


def _with_layers(store: Layout, release: Release, say: Callable[[str], None]) -> None:
    """Make the layers that a release lacks, and check all of it: a packed form of it may go then."""
    absent = [stratum for stratum in release.strata if not store.has_blob(stratum.layer.digest)]
    if absent:
        say(f"making {len(absent)} layers of {release.workload} {release.digest[:19]} again")
        with store.adding():
            unpacking.layers(store, release, absent)
        store.verify(release, signed=False)


def _is_packed(store: Layout, release: Release, *, stays: bool) -> bool:
    """Whether nothing of a release is left that packing removes. `stays`: its images do."""
    return not any(store.has_blob(stratum.layer.digest) for stratum in release.strata) if stays else not deltas.is_whole(store, release)


def _pack_one(store: Layout, base: Release | None, release: Release, say: Callable[[str], None], *, stays: bool) -> int:
    """Make and prove the delta of a release, unless it is there; returns its bytes. `stays`: its images do, its layers go."""
    named = base.digest if base else deltas.EMPTY
    for offer in deltas.offers(release.digest, store.referrers(release.digest)):
        if offer.base == named and is_pack(store, offer) and _is_packed(store, release, stays=stays):
            return 0  # packed before, and proven then
    say(f"packing {release.workload} {release.digest[:19]}")
    with store.adding():
        with deltas.opened(store, release) as side:
            slices = _slices(store, release, side.tree, side.contents)
            if stays:  # its layers are asked for again: when it is pushed, and by other tools
                there = [item for item in updates.paired(release, slices) if store.has_blob(item[0].layer.digest)]
                restore.layers(there, side.contents, Nowhere())
            cut = cutting.encode(side.tree, slices)
        offer = deltas.attach_delta(store, base, release, cut=cut, thorough=base is not None)
        prove(store, base, release, offer)
    return offer.size


def _slices(store: Layout, release: Release, tree: Tree, contents: ContentReader) -> tuple[Slice, ...]:
    """How a release is cut: as this version would, if that fits; else as its layers say."""
    found = strata.cut(tree, release.spec, packages.find(tree, contents))
    if [piece.name for piece in found] == [stratum.name for stratum in release.strata]:
        return found
    rebuild, pieces = LayerRebuilder(), []
    for stratum in release.strata:
        with store.layer(stratum) as layer:
            pieces.append(Slice(stratum.name, rebuild.nodes(layer, stratum)))
    return tuple(pieces)


def prove(store: Layout, base: Release | None, release: Release, offer: deltas.Offer) -> None:
    """Unpack a release from one delta and compare every image with its signed digest; nothing of it is kept.

    Raises:
        SteleError: `delta.*`, `release.rebuild-differs`, `store.damaged`.
    """
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(deltas.opened(store, base) if base else deltas.whole(store, deltas.EMPTY))
        its = deltas.artifact(store, offer)
        file = stack.enter_context(store.open_blob(its.delta))
        built = updates.head(old, release.digest, [file])
        tree, contents = deltas.applied(old, built.release, [file], stack)
        slices = updates.slices_of(release, tree, contents, updates.record_of(store, its))
        restore.images(updates.paired(release, slices), contents, Nowhere())


class Nowhere:
    """A `BlobSink` that keeps nothing."""

    def draft(self, kind: str) -> _Forgotten:
        """A file without a name."""
        del kind
        return _Forgotten()

    def put(self, data: bytes) -> str:
        """Its digest is all that is left."""
        return sha256(data)

    def publish(self, publication: Publication) -> None:
        """Nobody hears of it."""
        del publication


class _Forgotten:
    def __init__(self) -> None:
        self.fd = anonymous_file()

    def commit(self, digest: str) -> None:
        del digest

    def discard(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def _remove(store: Layout, now: Sequence[Release], made: _Made, stay: Collection[str], *, record: Record) -> int:
    """Remove what only packed releases need; returns the bytes. What came since (`now`) stays as it is, and what has to (`stay`).

    So does what has no packed form any more: a repair that finds a release whole lets go of one that is damaged.
    """
    if not {release.digest for release in made.here} <= {release.digest for release in now}:
        raise SteleError(
            "releases went while others were packed",
            remedy="pack again; what was done so far is kept",
            code="store.busy",
            retryable=True,
        )
    for digest in [*made.packed]:
        if not _has_form(store, digest, made.bases[digest]):
            del made.packed[digest], made.bases[digest]
            made.left[digest] = "its packed form went meanwhile"
    kept = made.kept | set(stay)
    packed = {digest: release for digest, release in made.packed.items() if digest in made.kept or digest not in kept}
    whole = [release for release in now if release.digest in kept or release.digest not in packed]
    images = {stratum.image for release in whole for stratum in release.strata}
    blobs = {release.tree_digest for release in whole} | store.foreign_layers()
    gone: list[str] = [release.tree_digest for digest, release in packed.items() if digest not in kept]
    for release in whole:
        for stratum in release.strata:
            if release.digest not in packed or not store.has_image(stratum):
                blobs.add(stratum.layer.digest)
    gone += [stratum.layer.digest for release in packed.values() for stratum in release.strata]
    old = [stratum for digest, release in packed.items() if digest not in kept for stratum in release.strata]
    dropped = [digest for digest in dict.fromkeys(gone) if digest not in blobs]
    return _let_go(store, dropped, [stratum for stratum in old if stratum.image not in images], record)


def _let_go(store: Layout, blobs: Sequence[str], strata: Sequence[Stratum], record: Record) -> int:
    paths = [*map(census.blob_path, blobs), *(census.image_path(stratum.image) for stratum in strata)]
    upkeep.removing(record, "packed", store.root, paths)
    return store.remove(blobs, strata)


def _has_form(store: Layout, digest: str, base: str) -> bool:
    """Whether a release still has the packed form from `base`."""
    its = (offer for offer in deltas.offers(digest, store.referrers(digest)) if offer.base == base and is_pack(store, offer))
    return any(store.has_blob(deltas.artifact(store, offer).delta.digest) for offer in its)


def _remove_stale(store: Layout, made: _Made, record: Record, wait: float) -> int:
    """Remove packed forms that another one took the place of; returns the bytes."""
    gone: list[str] = []
    for release in made.here:
        stale = [
            offer
            for offer in deltas.offers(release.digest, store.referrers(release.digest))
            if offer.base != made.bases.get(release.digest, offer.base) and is_pack(store, offer)
        ]
        for offer in stale:
            its = deltas.artifact(store, offer)
            gone += [offer.manifest.digest, its.delta.digest]
        if stale:
            store.unrefer(release.digest, {offer.manifest.digest for offer in stale})
    if not gone:
        return 0
    with store.removing(wait):
        return _let_go(store, gone, (), record)
