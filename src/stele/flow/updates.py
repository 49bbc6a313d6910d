"""Updates by delta: making and attaching deltas, choosing the cheapest way to a release, and building the release from deltas.

Nothing that a delta makes is believed before it came out at the digests of the signed release.
"""

from __future__ import annotations

import contextlib
import heapq
import os
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from stele.model import release as releases
from stele.model.release import DELTA_TYPE, Descriptor, Referrer, Release
from stele.seal import packages, restore, strata
from stele.seal.delta import codec
from stele.seal.release import attach
from stele.seal.sources.spool import anonymous_file
from stele.seal.stored import Over, StoredContents
from stele.store.images import hash_fd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from stele.model.ports import ContentReader
    from stele.model.release import Stratum
    from stele.model.tree import Node
    from stele.store.layout import Layout

BASE = "dev.stele.delta.base"  # annotations of the artifact: digest of the base release,
BASE_TREE = "dev.stele.delta.base-tree"  # its tree digest,
SIZE = "dev.stele.delta.size"  # and the bytes of the delta
LONGEST_CHAIN = 8


class Offer(NamedTuple):
    """A delta that somebody offers: from release `base` to `target` (digests), `size` bytes, in the artifact `manifest`."""

    base: str
    target: str
    size: int
    manifest: Descriptor


def carried(store: Layout, release: Release) -> bytes:
    """What of a release travels in a delta besides its tree and contents: its manifest, a line feed, its config."""
    return store.blob(release.digest) + b"\n" + store.blob(release.config_digest)


@contextlib.contextmanager
def _side(store: Layout, release: Release) -> Iterator[codec.Side]:
    tree = store.tree(release.digest)
    with StoredContents(release, tree, store) as contents:
        yield codec.Side(tree, contents, carried(store, release))


def make_delta(store: Layout, base: Release, release: Release, out: BinaryIO) -> int:
    """Write the delta from one release of the store to another; returns its bytes.

    Raises:
        SteleError: `store.damaged`.
    """
    with _side(store, base) as old, _side(store, release) as new:
        return codec.make(old, new, out)


def attach_delta(store: Layout, base: Release, release: Release) -> Offer:
    """Make a delta from `base` to `release` and publish it in the store as an artifact that refers to `release`.

    Where the store has one from this base already, that one is given back.

    Raises:
        SteleError: `store.*`.
    """
    for offer in offers(release.digest, store.referrers(release.digest)):
        if offer.base == base.digest and store.has_blob(offer.manifest.digest):
            return offer
    with store.draft("blob") as draft, os.fdopen(os.dup(draft.fd), "w+b") as out:
        size = make_delta(store, base, release, out)
        out.flush()
        digest, _ = hash_fd(draft.fd)
        draft.commit(digest)
    blob = Descriptor(media_type=DELTA_TYPE, digest=digest, size=size)
    created = releases.rfc3339(release.spec.time)
    notes = {BASE: base.digest, BASE_TREE: base.tree_digest, SIZE: str(size), "org.opencontainers.image.created": created}
    referrer = attach(store, release, DELTA_TYPE, blob, notes)
    store.refer(release, (referrer,))
    return Offer(base.digest, release.digest, size, referrer.descriptor)


def offers(target: str, referrers: Iterable[Referrer]) -> list[Offer]:
    """The deltas among what refers to the release `target`; what does not say what it is, is passed over."""
    found = []
    for item in referrers:
        base, size = item.annotations.get(BASE, ""), item.annotations.get(SIZE, "")
        if item.artifact_type == DELTA_TYPE and base and size.isascii() and size.isdigit() and len(size) < 19:
            found.append(Offer(base, target, int(size), item.descriptor))
    return found


def cheapest(target: str, offers_of: Callable[[str], Sequence[Offer]], have: Callable[[str], bool], limit: int) -> tuple[Offer, ...]:
    """The deltas, first to last, that lead from a release that is here to `target` with the fewest bytes; () if none is below `limit`.

    Args:
        target: digest of the release that is wanted.
        offers_of: the deltas that lead to a release; asked once per release that is looked at.
        have: whether a release is here whole.
        limit: bytes that the whole strata would cost.
    """
    ways: list[tuple[int, str, tuple[Offer, ...]]] = [(0, target, ())]
    done: set[str] = set()
    while ways:
        size, digest, chain = heapq.heappop(ways)
        if chain and have(digest):
            return chain
        if digest in done or len(chain) == LONGEST_CHAIN:
            continue
        done.add(digest)
        for offer in offers_of(digest):
            if offer.base not in done and size + offer.size < limit:
                heapq.heappush(ways, (size + offer.size, offer.base, (offer, *chain)))
    return ()


class Built(NamedTuple):
    """What deltas made: the release, with the bytes that name it."""

    release: Release
    manifest: bytes
    config: bytes


def head(store: Layout, base: Release, target: str, chain: Sequence[BinaryIO]) -> Built:
    """The release `target` as a chain of deltas from `base` carries it.

    Raises:
        SteleError: `delta.*`, `release.*`: it is not the release of that digest.
    """
    known = carried(store, base)
    if chain and codec.read_ends(_begin(chain[0])).base != base.tree_digest:
        raise codec.wrong_base(codec.read_ends(_begin(chain[0])).base)
    for file in chain:
        known = codec.read_carried(_begin(file), known)
    manifest, _, config = known.partition(b"\n")
    return Built(releases.parse(target, manifest, config), manifest, config)


def build(store: Layout, base: Release, release: Release, chain: Sequence[BinaryIO]) -> int:
    """Make the images of `release` that the store lacks, from `base` and a chain of deltas; and its tree.

    Args:
        store: has `base` whole.
        base: what the first delta starts from.
        release: signed, checked.
        chain: the deltas, open for reading; hostile perhaps.

    Returns:
        How many images were made.

    Raises:
        SteleError: `delta.*`, `release.rebuild-differs`, `store.*`. The store is then as it was, but for unnamed files.
    """
    wanted = [codec.read_ends(_begin(file)) for file in chain[1:]]
    with contextlib.ExitStack() as stack:
        tree = store.tree(base.digest)
        contents: ContentReader = stack.enter_context(StoredContents(base, tree, store))
        for number, file in enumerate(chain):
            digest = wanted[number].base if number < len(wanted) else release.tree_digest
            tree, new = codec.apply(tree, contents, _begin(file), digest, anonymous_file())
            stack.callback(new.close)
            contents = Over(new, contents)
        slices = strata.cut(tree, release.spec, packages.find(tree, contents))
        missing = _missing(store, release.strata, slices)
        restore.images(missing, contents, store)
        store.put(tree.encode())
    return len(missing)


def _begin(file: BinaryIO) -> BinaryIO:
    file.seek(0)
    return file


def _missing(store: Layout, wanted: Sequence[Stratum], slices: Sequence[strata.Slice]) -> list[tuple[Stratum, Sequence[Node]]]:
    """The strata that are in the store in neither form, with their nodes."""
    if [piece.name for piece in slices] != [stratum.name for stratum in wanted]:
        raise restore.differs(wanted[0], "table of strata")
    return [(stratum, piece.nodes) for stratum, piece in zip(wanted, slices, strict=True) if not store.has_stratum(stratum)]
