"""Copying a release to an OCI registry, with all that refers to it: only what is missing there moves (docs/spec/distribution.md)."""

from __future__ import annotations

import contextlib
import io
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from stele.flow import deltas, opening, origins, packing, registry_lists, short_updates, unpacking
from stele.host import registry_transfer
from stele.host.http_registry import Connections
from stele.host.registry import Repository
from stele.model import reference as references
from stele.model import release as releases
from stele.model.release import INDEX_TYPE, MANIFEST_TYPE, Descriptor, SimpleSignature
from stele.store import index as indexes
from stele.trust.cosign import ANNOTATION_SIGNATURE
from stele.trust.digest import digest_hex, sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from stele.flow.places import Places
    from stele.flow.short_updates import Ready
    from stele.model.reference import Reference
    from stele.model.release import Release
    from stele.store.layout import Layout

AT_ONCE = 4  # blobs that move at a time
WRITES = 5  # of a list that somebody else writes at the same time


def push(
    places: Places, name: str, target: str, *, plain_http: bool, delta: bool, say: Callable[[str], None], record: Callable[..., None]
) -> dict[str, Any]:
    """Copy a release and all that refers to it to a registry; its tag is written last.

    Args:
        places: the data folder.
        name: of a release in the store; its signature must hold.
        target: `REGISTRY/REPOSITORY[:TAG]`; without a tag `<workload>-<12 hex digits>`. A digest in it must be the release's.
        plain_http: speak http without TLS.
        delta: make the deltas for updates to it that are not there yet.
        say: told of each step.
        record: commits an event.

    Raises:
        SteleError: `store.*`, `registry.*`, `ledger.*`.
    """
    begun = time.monotonic_ns()
    reference = references.parse(target)
    store = opening.open_store(places)
    with Repository(Connections(reference.host, plain_http=plain_http), reference) as repository, store.adding():
        release = store.release(name)
        if reference.digest not in {"", release.digest}:
            raise _another(release, reference)
        deltas.make_whole(store, release)
        made = packing.attach(places, store, release) if delta else []
        named = ":" in target.rpartition("/")[2]
        tag = reference.tag if named and reference.tag else releases.reference_name(release.workload, release.digest)
        say(f"pushing {release.digest[:19]} to {reference.registry}/{reference.repository}")
        absent = [s for s in release.strata if not store.has_blob(s.layer.digest) and not repository.has_blob(s.layer.digest)]
        if absent:  # pulled as a delta, or packed: the registry wants the layer
            say(f"making {len(absent)} layers again")
            unpacking.layers(store, release, absent)
        beside = _Beside(places, reference, store)
        _push_blobs(repository, store, [*(stratum.layer for stratum in release.strata), _config(store, release)], say, beside)
        _push_manifest(repository, release.digest, MANIFEST_TYPE, store.blob(release.digest))
        ready = short_updates.ready(store, release)
        _push_referrers(repository, store, release, ready, say, beside)
        _push_signatures(repository, store, release)
        for update in ready if delta else ():
            _push_update(repository, update, say)
        repository.put_manifest(tag, MANIFEST_TYPE, store.blob(release.digest))
        sent = repository.connections.sent
    where = f"{reference.registry}/{reference.repository}"
    record(release.workload, "release.pushed", release=release.digest, to=f"{where}:{tag}")
    return {
        "release": release.digest,
        "reference": f"{where}:{tag}",
        "by_digest": f"{where}@{release.digest}",
        "sent": sent,
        "deltas": len(made),
        "took_ns": time.monotonic_ns() - begun,
    }


def _another(release: Release, reference: Reference) -> SteleError:
    return SteleError(
        f"the target names {reference.digest}, but the release is {release.digest}",
        remedy="leave the digest out of the target, or name the release that has it",
        code="registry.bad-reference",
    )


def _config(store: Layout, release: Release) -> Descriptor:
    return Descriptor(media_type=releases.CONFIG_TYPE, digest=release.config_digest, size=len(store.blob(release.config_digest)))


class _Beside:
    """What helps a push besides the store: where uploads under way are noted, and repositories of the registry that may have a blob."""

    def __init__(self, places: Places, reference: Reference, store: Layout) -> None:
        self.sessions = places.data / "cache" / "uploads"
        self._mounts: dict[str, str] = {}
        with contextlib.suppress(SteleError):  # of a ledger that cannot be read nothing is known
            for digest, references_ in origins.known(places)[0].items():
                found = [item for item in references_ if item.registry == reference.registry and item.repository != reference.repository]
                if not found:
                    continue
                with contextlib.suppress(SteleError):
                    release = store.find(digest)
                    for blob in (*(stratum.layer.digest for stratum in release.strata), release.config_digest):
                        self._mounts[blob] = found[0].repository

    def mount(self, digest: str) -> str:
        """A repository that may have a blob; "" where none is known."""
        return self._mounts.get(digest, "")


def _push_blobs(
    repository: Repository, store: Layout, blobs: Sequence[Descriptor], say: Callable[[str], None], beside: _Beside | None = None
) -> None:
    def one(blob: Descriptor) -> None:
        if not repository.has_blob(blob.digest):
            say(f"pushing {blob.digest[:19]} ({blob.size} bytes)")
            with store.open_blob(blob) as file:
                mount, sessions = (beside.mount(blob.digest), beside.sessions) if beside else ("", None)
                registry_transfer.upload(repository, blob.digest, blob.size, file, mount=mount, sessions=sessions)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, {blob.digest: blob for blob in blobs}.values()))


def _push_held(repository: Repository, blobs: Sequence[Descriptor], held: Mapping[str, bytes]) -> None:
    """Small blobs that are in no store."""
    for blob in blobs:
        if not repository.has_blob(blob.digest):
            registry_transfer.upload(repository, blob.digest, blob.size, io.BytesIO(held[blob.digest]))


def _push_manifest(repository: Repository, digest: str, media_type: str, data: bytes) -> bool:
    """Store a manifest, unless it is there; whether the registry lists it under its subject by itself."""
    return repository.put_manifest(digest, media_type, data)


def _is_long(store: Layout, release: Release, offer: deltas.Offer) -> bool:
    """Whether a delta saves less than a tenth of the layers that its base does not have."""
    try:
        there = {stratum.diff_id for stratum in store.find(offer.base).strata}
    except SteleError:
        return False
    return offer.size * 10 > 9 * sum(stratum.layer.size for stratum in release.strata if stratum.diff_id not in there)


def _push_referrers(
    repository: Repository, store: Layout, release: Release, ready: Sequence[Ready], say: Callable[[str], None], beside: _Beside
) -> None:
    """What refers to the release; by the tag `sha256-<hex>` where the registry has no API for it (OCI distribution-spec 1.1).

    The forms that the store keeps releases by are its own matter; a delta whose update has its content apart has it so, too. One
    without an update that is hardly shorter than the layers in its place would only double what is sent.
    """
    unlisted = []
    short = {update.base for update in ready}
    apart = {update.delta: update for update in ready if update.parted is not None}
    for item in store.referrers(release.digest):
        found = deltas.offers(release.digest, [item])
        if any(packing.is_pack(store, offer) or (offer.base not in short and _is_long(store, release, offer)) for offer in found):
            continue
        update = apart.get(item.descriptor.digest)
        referrer = item if update is None or update.parted is None else update.parted
        data = store.blob(item.descriptor.digest) if update is None else update.held[referrer.descriptor.digest]
        parts = registry_lists.parts(data, referrer.descriptor.digest)
        if update is None:
            _push_blobs(repository, store, parts, say, beside)
        else:
            _push_held(repository, parts, update.held)
        if not _push_manifest(repository, referrer.descriptor.digest, MANIFEST_TYPE, data):
            unlisted.append(referrer)
    tag = f"sha256-{digest_hex(release.digest)}"
    for _ in range(WRITES if unlisted else 0):
        listing = repository.manifest(tag)
        present = {} if listing is None else registry_lists.foreign(listing.data)
        listed = {item["digest"] for item in present.get("manifests", [])}
        if all(item.descriptor.digest in listed for item in unlisted):  # also: nobody wrote over it meanwhile
            return
        repository.put_manifest(tag, INDEX_TYPE, indexes.merged_referrers(present, unlisted))


def _push_update(repository: Repository, update: Ready, say: Callable[[str], None]) -> None:
    if repository.find(update.tag) == sha256(update.manifest):
        return
    parts = registry_lists.parts(update.manifest, update.tag)
    say(f"pushing the update from {update.base[:19]} ({sum(part.size for part in parts)} bytes)")
    try:
        _push_held(repository, parts, update.held)
        repository.put_manifest(update.tag, MANIFEST_TYPE, update.manifest)
    except SteleError as error:
        if error.code not in {"registry.refused", "registry.forbidden"}:  # tags are often kept for those of releases
            raise
        say(f"the registry does not take updates in their short form: {error.reason}")


def _push_signatures(repository: Repository, store: Layout, release: Release) -> None:
    """Cosign's older form, which admission controllers still read."""
    tag = indexes.signatures_tag(release.digest)
    held = store.tagged(tag)
    if held is None:
        return
    _push_blobs(repository, store, registry_lists.parts(held, tag), lambda _: None)
    there = repository.manifest(tag)
    if there is not None:  # what others signed stays
        own = [
            SimpleSignature(payload=indexes.descriptor(layer), signature=indexes.annotations_of(layer).get(ANNOTATION_SIGNATURE, ""))
            for layer in indexes.decode(held, tag).get("layers", [])
        ]
        config, held = indexes.merged_signatures(registry_lists.foreign(there.data), own)
        if held == there.data:
            return
        digest = sha256(config)
        _push_held(repository, [Descriptor(media_type=releases.CONFIG_TYPE, digest=digest, size=len(config))], {digest: config})
    repository.put_manifest(tag, MANIFEST_TYPE, held)
