"""Updates by delta: the cheapest way to a release, and the release built from it; every result at the signed digests or refused."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from stele.flow import deltas
from stele.flow.in_place import InPlace
from stele.model import release as releases
from stele.seal import packages, restore, strata
from stele.seal.delta import codec, cutting, quick
from stele.seal.sources.spool import anonymous_file
from stele.store.layout import TREE_LIMIT
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stele.flow.deltas import Artifact, Offer, Origin
    from stele.model.ports import ContentReader
    from stele.model.release import Release, Stratum
    from stele.model.tree import Node, Tree
    from stele.seal.delta.codec import Side
    from stele.seal.strata import Slice
    from stele.store.layout import Layout


class Built(NamedTuple):
    """A release that a delta carries, with the bytes that name it."""

    release: Release
    manifest: bytes
    config: bytes


class Received(NamedTuple):
    """A release that came by deltas; its images, tree, manifest and config are in the store, which lacks `publish`.

    `moved`: bytes of the deltas and of their manifests. `chain`: the deltas. `made`: how many images.
    """

    release: Release
    chain: tuple[Offer, ...]
    moved: int
    made: int


def receive(
    store: Layout, target: str, origin: Origin, *, limit: int, say: Callable[[str], None], damaged: dict[str, str]
) -> Received | None:
    """Bring a release into the store by the cheapest deltas; None where whole strata are to be taken instead, and why is said.

    Args:
        store: where to.
        target: digest of the release; whoever calls has checked the signature over it, or does before publishing.
        origin: where the deltas come from.
        limit: bytes that the missing strata would cost.
        say: told what is done, and which delta was refused.
        damaged: releases that are no base, by digest: they are damaged. Takes those that turn out to be, with what is wrong.

    Raises:
        SteleError: `store.full`, `store.not-writable`.
    """
    here = {release.digest: release for release in store.releases()}

    def have(digest: str) -> bool:
        return digest == deltas.EMPTY or (digest in here and digest not in damaged and deltas.is_whole(store, here[digest]))

    tried: set[str] = set()
    while True:

        def offered(digest: str) -> list[Offer]:
            return [offer for offer in deltas.offers(digest, origin.referrers(digest)) if offer.manifest.digest not in tried]

        chain = deltas.cheapest(target, offered, have, limit)
        if not chain:
            return None
        say(f"taking {len(chain)} delta{'s' * (len(chain) > 1)} from {chain[0].base[:19]}: {sum(offer.size for offer in chain)} bytes")
        try:
            return _receive(store, target, origin, chain)
        except SteleError as error:
            if error.code == deltas.DAMAGED and chain[0].base != deltas.EMPTY:
                damaged[chain[0].base] = error.reason
                say(f"{chain[0].base[:19]} cannot be built on: {error.reason}")
                continue
            if not error.code.startswith(("delta.", "release.")):
                raise
            say(f"a delta was refused: {error.reason}")
            tried.update(offer.manifest.digest for offer in chain)


def _receive(store: Layout, target: str, origin: Origin, chain: tuple[Offer, ...]) -> Received:
    with contextlib.ExitStack() as stack:
        found = [deltas.artifact(origin, offer) for offer in chain]
        for offer, its in zip(chain, found, strict=True):
            if its.size != offer.size:
                raise codec.damaged("it has another size than was offered")
        files = [stack.enter_context(deltas.open_delta(origin, its)) for its in found]
        if len(files) == 1 and chain[0].base != deltas.EMPTY:
            old = store.find(chain[0].base)
            built = _carried(old.tree_digest, deltas.carried(store, old), target, files)
            made = build_of_one(store, old, built.release, files[0], record=record_of(origin, found[-1]))
        else:
            base = stack.enter_context(deltas.whole(store, chain[0].base))
            built = head(base, target, files)
            made = build(store, base, built.release, files, record=record_of(origin, found[-1]))
        store.put(built.config)
        store.put(built.manifest)
    return Received(built.release, chain, sum(offer.size + offer.manifest.size for offer in chain), made)


def record_of(origin: Origin, artifact: Artifact) -> Callable[[], bytes]:
    """How to read what a delta's maker wrote down of the cut; b"" if that is nothing."""

    def read() -> bytes:
        if artifact.cut is None or artifact.cut.size > cutting.LIMIT:
            return b""
        with origin.open_blob(artifact.cut) as file:
            return file.read()

    return read


def head(base: Side, target: str, chain: Sequence[BinaryIO]) -> Built:
    """The release `target` as a chain of deltas from `base` carries it.

    Raises:
        SteleError: `delta.*`, `release.*`: it is not the release of that digest.
    """
    return _carried(base.tree.digest(), base.carried, target, chain)


def _carried(tree_digest: str, known: bytes, target: str, chain: Sequence[BinaryIO]) -> Built:
    if chain and (needed := codec.read_ends(deltas.rewound(chain[0])).base) != tree_digest:
        raise codec.wrong_base(needed)
    for file in chain:
        known = codec.read_carried(deltas.rewound(file), known)
    manifest, _, config = known.partition(b"\n")
    return Built(releases.parse(target, manifest, config), manifest, config)


def build(store: Layout, base: Side, release: Release, chain: Sequence[BinaryIO], *, record: Callable[[], bytes] = bytes) -> int:
    """Make the images of `release` that the store lacks, from `base` and a chain of deltas; and its tree.

    Args:
        store: where to.
        base: what the first delta starts from.
        release: signed, checked.
        chain: the deltas, open for reading; hostile perhaps.
        record: how the release is cut, where its maker wrote that down.

    Returns:
        How many images were made.

    Raises:
        SteleError: `delta.*`, `release.rebuild-differs`, `store.*`. The store is then as it was, but for unnamed files.
    """
    with contextlib.ExitStack() as stack:
        tree, contents = deltas.applied(base, release, chain, stack)
        return restore_missing(store, release, tree, contents, slices_of(release, tree, contents, record))


def build_of_one(store: Layout, base: Release, release: Release, delta: BinaryIO, *, record: Callable[[], bytes] = bytes) -> int:
    """Like `build`, from one delta of a release that is here, in the quicker way where that is one."""
    made = build_quickly(store, base, release, delta)
    if made is not None:
        return made
    with deltas.whole(store, base.digest) as old:
        return build(store, old, release, [delta], record=record)


def build_quickly(store: Layout, base: Release, release: Release, delta: BinaryIO) -> int | None:
    """Like `build`, where the update only changes what is at paths that the base has: neither tree is decoded as a whole.

    Returns:
        How many images were made; None where `build` has to do it. Raises as that does.
    """
    if not store.has_blob(base.tree_digest):
        return None
    place = InPlace(store, base, quick.Lines(store.blob(base.tree_digest, TREE_LIMIT)))
    made = place.build(release, lambda old: quick.apply(place.lines, deltas.rewound(delta), release.tree_digest, old, anonymous_file))
    if made is None:
        return None
    store.put(made.tree.data)
    return made.images


def restore_missing(store: Layout, release: Release, tree: Tree, contents: ContentReader, slices: Sequence[Slice]) -> int:
    """Make the images of the strata that the store has in neither form, and the tree; returns how many. Raises like `build`."""
    missing = [item for item in paired(release, slices) if not store.has_stratum(item[0])]
    restore.images(missing, contents, store)
    store.put(tree.encode())
    return len(missing)


def slices_of(release: Release, tree: Tree, contents: ContentReader, record: Callable[[], bytes] = bytes) -> tuple[Slice, ...]:
    """How a release is cut: as is written down, else by the rules of this version.

    Raises:
        SteleError: `delta.damaged`, and those of `contents`.
    """
    written = record()
    return cutting.decode(tree, written) if written else strata.cut(tree, release.spec, packages.find(tree, contents))


def paired(release: Release, slices: Sequence[Slice]) -> list[tuple[Stratum, Sequence[Node]]]:
    """The strata of a release with their nodes.

    Raises:
        SteleError: `release.rebuild-differs`.
    """
    if [piece.name for piece in slices] != [stratum.name for stratum in release.strata]:
        raise restore.differs(release.strata[0], "table of strata")
    return [(stratum, piece.nodes) for stratum, piece in zip(release.strata, slices, strict=True)]
