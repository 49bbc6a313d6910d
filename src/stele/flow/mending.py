"""Ways to a lost file of the store: from what is whole beside it, from deltas, from a registry. Every result at its digest, or none."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from stele.flow import deltas, unpacking
from stele.host import registry_transfer
from stele.host.http_registry import Connections
from stele.host.registry import Repository
from stele.seal.delta import codec
from stele.store import reindex
from stele.store.census import Part
from stele.store.layout import MANIFEST_LIMIT, TREE_LIMIT
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stele.model.reference import Reference
    from stele.model.release import Release, Stratum
    from stele.store.layout import Layout

PASSING = ("store.full", "store.not-writable")  # of these nothing else can be tried


class LostError(SteleError):
    """None of the ways led to the file; `reason` says why, way by way."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__(
            "; ".join(dict.fromkeys(reasons)) or "nothing here leads to it",
            remedy="name a registry that has it (--from), pull or copy the release again, or seal it again",
            code="store.damaged",
        )


class Registries:
    """Where lost files may be had. `of`: references by the digest of the release; `more`: for any. A context manager."""

    def __init__(self, of: dict[str, list[Reference]], more: Sequence[Reference], *, plain_http: bool) -> None:
        self._of, self._more, self._plain_http = of, tuple(more), plain_http
        self._stack = contextlib.ExitStack()
        self._open: dict[str, Repository] = {}

    def __enter__(self) -> Registries:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def repositories(self, needs: Sequence[str]) -> Iterator[Repository]:
        """Those that may have what the releases `needs` need, each once."""
        seen = set()
        for reference in [*self._more, *(item for digest in needs for item in self._of.get(digest, ()))]:
            where = f"{reference.registry}/{reference.repository}"
            if where not in seen:
                seen.add(where)
                if where not in self._open:
                    made = Repository(Connections(reference.host, plain_http=self._plain_http), reference)
                    self._open[where] = self._stack.enter_context(made)
                yield self._open[where]


def first(ways: Sequence[tuple[str, Callable[[], bool]]]) -> str:
    """Try ways, each of which says whether it led there; returns the name of the one that did.

    Raises:
        SteleError: `LostError`; and at once `store.full`, `store.not-writable`.
    """
    reasons = []
    for name, way in ways:
        try:
            if way():
                return name
        except SteleError as error:
            if error.code in PASSING:
                raise
            reasons.append(f"not {name}: {error.reason}")
        except KeyError:  # a content that the tree names is in no image
            reasons.append(f"not {name}: something that it needs is not there")
    raise LostError(reasons)


def from_registry(store: Layout, registries: Registries, part: Part, needs: Sequence[str]) -> bool:
    """Fetch a document or blob by its digest. Raises `registry.*` of the last that could not be asked."""
    failed: SteleError | None = None
    for repository in registries.repositories(needs):
        try:
            if part.form == "manifest":
                found = repository.manifest(part.digest)
                if found is not None:
                    store.put(found.data)
                    return True
                continue
            size = part.size if part.size >= 0 else repository.blob_size(part.digest)
            if size is None or size > _limit(part) or not repository.has_blob(part.digest):
                continue
            with store.partial(part.digest) as draft:
                registry_transfer.download(repository, part.digest, size, draft.fd)
                draft.commit(part.digest)
        except SteleError as error:
            if error.code in PASSING:
                raise
            failed = error
        else:
            return True
    if failed is not None:
        raise failed
    return False


def _limit(part: Part) -> int:
    """Bytes that a part can have; where no document says how many, a registry says, which may not fill the disk."""
    return part.size if part.size >= 0 else MANIFEST_LIMIT if part.role == "config" else TREE_LIMIT


def from_documents(store: Layout, part: Part) -> bool:
    """A document that follows from others."""
    data = reindex.made_again(store).get(part.digest)
    if data is not None:
        store.put(data)
    return data is not None


def from_deltas(store: Layout, part: Part, needs: Sequence[str]) -> bool:
    """A release's manifest or config, which every delta to it carries."""
    for digest in needs:
        for offer in deltas.offers(digest, store.referrers(digest)):
            with contextlib.suppress(SteleError):
                base = b"" if offer.base == deltas.EMPTY else deltas.carried(store, store.find(offer.base))
                with store.open_blob(deltas.artifact(store, offer).delta) as file:
                    manifest, _, config = codec.read_carried(deltas.rewound(file), base).partition(b"\n")
                for data in (manifest, config):
                    if sha256(data) == part.digest:
                        store.put(data)
                        return True
    return False


def tree(store: Layout, release: Release) -> bool:
    """A release's tree, out of its layers, images or deltas."""
    store.tree(release.digest)
    return store.has_blob(release.tree_digest)


def tree_with_layers(store: Layout, registries: Registries, release: Release) -> bool:
    """A release's tree, out of layers of which those that are not here are fetched. Raises like `from_registry`."""
    for stratum in release.strata:
        layer = stratum.layer
        if not store.has_blob(layer.digest):
            from_registry(store, registries, Part(layer.digest, layer.size, "layer", stratum=stratum.name), [release.digest])
    return tree(store, release)


def layer_from_image(store: Layout, release: Release, stratum: Stratum) -> bool:
    """A layer, out of the images of its release."""
    if not store.has_image(stratum):
        return False
    unpacking.layers(store, release, [stratum])
    return store.has_blob(stratum.layer.digest)


def image_from_layer(store: Layout, stratum: Stratum) -> bool:
    """An image, out of its layer."""
    return store.has_blob(stratum.layer.digest) and store.image(stratum).exists()


def image_from_deltas(store: Layout, release: Release, stratum: Stratum) -> bool:
    """An image, with all that its release lacks, out of deltas."""
    deltas.make_whole(store, release)
    return store.has_image(stratum)


def delta(store: Layout, part: Part, needs: Sequence[str]) -> bool:
    """A delta, or the record of its cut, made again; kept only at its digest."""
    for digest in needs:
        release = store.find(digest)
        for offer in deltas.offers(digest, store.referrers(digest)):
            if deltas.artifact(store, offer).delta.digest != part.digest:
                continue
            base = None if offer.base == deltas.EMPTY else store.find(offer.base)
            for thorough in (True, False):
                if deltas.remake(store, base, release, part.digest, thorough=thorough):
                    return True
    return False


def drop_delta(store: Layout, part: Part, needs: Sequence[str]) -> bool:
    """Let a delta go that no release needs: those it leads to are whole, and so is what leads from them."""
    gone = False
    for digest in needs:
        release = store.find(digest)
        if not deltas.is_whole(store, release):
            return False
        for offer in deltas.offers(digest, store.referrers(digest)):
            its = deltas.artifact(store, offer)
            if part.digest in {its.delta.digest, its.cut.digest if its.cut else ""}:
                store.unrefer(digest, {offer.manifest.digest})
                gone = True
    return gone
