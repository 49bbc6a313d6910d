"""Deltas as artifacts that refer to a release: what is offered, which is the cheapest way, and reading a release through them.

Nothing that a delta makes is believed before it came out at the digests of the signed release.
"""

from __future__ import annotations

import contextlib
import heapq
import io
import os
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

import msgspec

from stele.host.hashing import hash_fd
from stele.model import release as releases
from stele.model.release import CONTENT_TYPE, DELTA_TYPE, Descriptor, Referrer, Release
from stele.model.tree import Node, Tree
from stele.seal.contents import Contents
from stele.seal.delta import codec
from stele.seal.release import attach
from stele.seal.sources.spool import anonymous_file
from stele.seal.stored import Over, StoredContents
from stele.trust.digest import parse_digest
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from stele.model.ports import ContentReader
    from stele.store.layout import Layout

BASE = "dev.stele.delta.base"  # annotations of the artifact: digest of the base release,
BASE_TREE = "dev.stele.delta.base-tree"  # its tree digest,
SIZE = "dev.stele.delta.size"  # and the bytes of the delta
CUT_TYPE = "application/vnd.dev.stele.cut.v0"
EMPTY = "empty"  # the base of a delta that needs none
LONGEST_CHAIN = 8
DAMAGED = "store.damaged"  # of a base: another way is gone, and it is told
PARTED_LIMIT = 16 << 20  # bytes of a delta in two blobs
ANY_SIZE = 1 << 62  # bytes


class Offer(NamedTuple):
    """A delta that somebody offers: from release `base` to `target` (digests), `size` bytes, in the artifact `manifest`."""

    base: str
    target: str
    size: int
    manifest: Descriptor


class Origin(Protocol):
    """Where deltas come from: a registry, or a store."""

    def referrers(self, digest: str) -> Sequence[Referrer]:
        """What refers to a release."""

    def blob(self, digest: str) -> bytes:
        """A manifest, checked against its digest."""

    def open_blob(self, descriptor: Descriptor) -> AbstractContextManager[BinaryIO]:
        """A blob as a readable, seekable file, checked against its digest."""


class Artifact(NamedTuple):
    """The blobs of a delta's artifact. `cut`: how the release is cut, where it says so. `content`: with what `delta` goes on, if at all."""

    delta: Descriptor
    cut: Descriptor | None
    content: Descriptor | None

    @property
    def size(self) -> int:
        """Bytes of the delta."""
        return self.delta.size + (self.content.size if self.content else 0)


class _Blob(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str
    digest: str
    size: int

    def checked(self) -> Descriptor:
        return Descriptor(media_type=self.media_type, digest=parse_digest(self.digest), size=self.size)


class _Manifest(msgspec.Struct, frozen=True, rename="camel"):
    artifact_type: str
    layers: tuple[_Blob, ...]
    subject: _Blob


def offers(target: str, referrers: Iterable[Referrer]) -> list[Offer]:
    """The deltas among what refers to the release `target`; what does not say what it is, is passed over."""
    found = []
    for item in referrers:
        base, size = item.annotations.get(BASE, ""), item.annotations.get(SIZE, "")
        if item.artifact_type == DELTA_TYPE and base and size.isascii() and size.isdigit() and len(size) < 19:
            found.append(Offer(base, target, int(size), item.descriptor))
    return found


def artifact(origin: Origin, offer: Offer) -> Artifact:
    """The blobs of an offered delta.

    Raises:
        SteleError: `delta.damaged`, and those of `origin`.
    """
    try:
        manifest = msgspec.json.decode(origin.blob(offer.manifest.digest), type=_Manifest)
        blobs = [item.checked() for item in manifest.layers]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise codec.damaged("its manifest is not one") from error
    if manifest.artifact_type != DELTA_TYPE or manifest.subject.digest != offer.target or not blobs or blobs[0].media_type != DELTA_TYPE:
        raise codec.damaged("its manifest is that of something else")
    by_type = {blob.media_type: blob for blob in reversed(blobs[1:])}
    return Artifact(blobs[0], by_type.get(CUT_TYPE), by_type.get(CONTENT_TYPE))


@contextlib.contextmanager
def open_delta(origin: Origin, its: Artifact) -> Iterator[BinaryIO]:
    """A delta as a readable, seekable file, checked against the digests of its blobs. Raises those of `origin`, `delta.damaged`."""
    if its.content is None:
        with origin.open_blob(its.delta) as file:
            yield file
        return
    if its.size > PARTED_LIMIT:
        raise codec.damaged("it is in two blobs, and too large for that")
    with origin.open_blob(its.delta) as head, origin.open_blob(its.content) as content:
        yield io.BytesIO(head.read() + content.read())


def cheapest(
    target: str, offers_of: Callable[[str], Sequence[Offer]], have: Callable[[str], bool], limit: int = ANY_SIZE
) -> tuple[Offer, ...]:
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
        if digest in done or digest == EMPTY or len(chain) == LONGEST_CHAIN:
            continue
        done.add(digest)
        for offer in offers_of(digest):
            if offer.base not in done and size + offer.size < limit:
                heapq.heappush(ways, (size + offer.size, offer.base, (offer, *chain)))
    return ()


def is_whole(store: Layout, release: Release) -> bool:
    """Whether every stratum of a release is in the store, in one form at least."""
    return all(map(store.has_stratum, release.strata))


def make_whole(store: Layout, release: Release) -> None:
    """Unpack the strata that a release lacks, where something does that. Raises like `Unpacker.strata`."""
    if store.unpack is not None and not is_whole(store, release):
        store.unpack.strata(release)


def way_here(store: Layout, release: Release) -> tuple[Offer, ...]:
    """By which deltas of the store a packed release is read, from one that is whole or from nothing.

    Raises:
        SteleError: `store.damaged`: it is neither whole nor can it be made.
    """

    def have(digest: str) -> bool:
        try:
            return digest == EMPTY or is_whole(store, store.find(digest))
        except SteleError:
            return False

    chain = cheapest(release.digest, lambda digest: offers(digest, store.referrers(digest)), have)
    if not chain:
        raise SteleError(
            f"the store is damaged: strata of release {release.digest[:19]} are missing, and no delta leads to it",
            remedy="pull or copy the release again from where it is whole",
            code="store.damaged",
        )
    return chain


def carried(store: Layout, release: Release) -> bytes:
    """What of a release travels in a delta besides its tree and contents: its manifest, a line feed, its config."""
    return store.blob(release.digest) + b"\n" + store.blob(release.config_digest)


def nothing() -> codec.Side:
    """The base of a delta that needs none: a root directory."""
    root = Node(path=b"", kind="dir", mode=0o755, uid=0, gid=0, mtime=0)
    return codec.Side(Tree((root,)), Contents({}))


@contextlib.contextmanager
def whole(store: Layout, digest: str) -> Iterator[codec.Side]:
    """A release that is whole in the store, or `EMPTY`. Raises like `opened`."""
    if digest == EMPTY:
        yield nothing()
        return
    release = store.find(digest)
    tree = store.tree(digest)
    with StoredContents.of(release, tree, store) as contents:
        yield codec.Side(tree, contents, carried(store, release))


@contextlib.contextmanager
def opened(store: Layout, release: Release) -> Iterator[codec.Side]:
    """A release of the store, whole or packed, with its contents for as long as the context lasts.

    Raises:
        SteleError: `store.*`, `delta.*`.
    """
    if is_whole(store, release):
        with whole(store, release.digest) as side:
            yield side
        return
    with unpacked(store, release, way_here(store, release)) as side:
        yield side


@contextlib.contextmanager
def unpacked(store: Layout, release: Release, chain: Sequence[Offer]) -> Iterator[codec.Side]:
    """A release by deltas of the store, whatever else is there of it. Raises like `opened`."""
    with contextlib.ExitStack() as stack:
        base = stack.enter_context(whole(store, chain[0].base))
        files = [stack.enter_context(open_delta(store, artifact(store, offer))) for offer in chain]
        tree, contents = applied(base, release, files, stack)
        yield codec.Side(tree, contents, carried(store, release))


def tree_here(store: Layout, release: Release) -> Tree:
    """The tree of a packed release of the store; contents are not looked at. Raises like `opened`."""
    chain = way_here(store, release)
    tree = nothing().tree if chain[0].base == EMPTY else store.tree(chain[0].base)
    for number, offer in enumerate(chain, 1):
        with open_delta(store, artifact(store, offer)) as file:
            wanted = release.tree_digest if number == len(chain) else codec.read_ends(rewound(file)).tree
            tree = codec.apply_tree(tree, rewound(file), wanted)
    return tree


def applied(base: codec.Side, release: Release, chain: Sequence[BinaryIO], stack: contextlib.ExitStack) -> tuple[Tree, ContentReader]:
    """Tree and contents of `release`, from a base and a chain of deltas; the new contents live as long as `stack`.

    Raises:
        SteleError: `delta.*`, `store.*`.
    """
    trees = [codec.read_ends(rewound(file)).tree for file in chain[:-1]] + [release.tree_digest]
    tree, contents = base.tree, base.contents
    for file, wanted in zip(chain, trees, strict=True):
        tree, new = codec.apply(tree, contents, rewound(file), wanted, anonymous_file())
        stack.callback(new.close)
        contents = Over(new, contents)
    return tree, contents


def rewound(file: BinaryIO) -> BinaryIO:
    """The file at its beginning."""
    file.seek(0)
    return file


def make_delta(store: Layout, base: Release | None, release: Release, out: BinaryIO, *, thorough: bool = False) -> int:
    """Write the delta from one release of the store (None: from nothing) to another, whole or packed; returns its bytes.

    Raises like `opened`.
    """
    with opened(store, base) if base else whole(store, EMPTY) as old, opened(store, release) as new:
        return codec.make(old, new, out, thorough=thorough)


def remake(store: Layout, base: Release | None, release: Release, digest: str, *, thorough: bool) -> bool:
    """Make a delta again and keep it if it comes out at `digest`; whether it did. Raises like `make_delta`."""
    with store.draft("blob") as draft, os.fdopen(os.dup(draft.fd), "w+b") as out:
        make_delta(store, base, release, out, thorough=thorough)
        out.flush()
        if hash_fd(draft.fd)[0] != digest:
            return False
        draft.commit(digest)
    return True


def attach_delta(store: Layout, base: Release | None, release: Release, *, cut: bytes = b"", thorough: bool = False) -> Offer:
    """Make a delta from `base` (None: from nothing) to `release` and publish it in the store as what refers to `release`.

    Where the store has one from this base already (with a record of the cut, if `cut` is one), that one is given back.
    `thorough`: take more time to make it smaller.

    Raises:
        SteleError: `store.*`.
    """
    named = base.digest if base else EMPTY
    for offer in offers(release.digest, store.referrers(release.digest)):
        if offer.base == named and store.has_blob(offer.manifest.digest):
            has = artifact(store, offer)
            if store.has_blob(has.delta.digest) and (has.cut or not cut):
                return offer
    with store.draft("blob") as draft, os.fdopen(os.dup(draft.fd), "w+b") as out:
        size = make_delta(store, base, release, out, thorough=thorough)
        out.flush()
        digest, _ = hash_fd(draft.fd)
        draft.commit(digest)
    blob = Descriptor(media_type=DELTA_TYPE, digest=digest, size=size)
    more = (Descriptor(media_type=CUT_TYPE, digest=store.put(cut), size=len(cut)),) if cut else ()
    created = releases.rfc3339(release.spec.time)
    notes = {BASE: named, BASE_TREE: base.tree_digest if base else EMPTY, SIZE: str(size), "org.opencontainers.image.created": created}
    referrer = attach(store, release, DELTA_TYPE, blob, notes, more)
    store.refer(release, (referrer,))
    return Offer(named, release.digest, size, referrer.descriptor)
