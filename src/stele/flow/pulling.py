"""Bringing releases from OCI registries into the store, by the cheapest way; nothing is believed before it is checked."""

from __future__ import annotations

import contextlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, BinaryIO

from stele.flow import deltas, known_trees, opening, registry_lists, short_updates, signing, updates
from stele.host import registry_transfer
from stele.host.http_registry import Connections, bad_answer
from stele.host.registry import Manifest, Repository
from stele.model import reference as references
from stele.model import release as releases
from stele.model.release import BUNDLE_TYPE, DELTA_TYPE, MANIFEST_TYPE, SIMPLE_TYPE, Descriptor, Publication, Referrer, SimpleSignature
from stele.store import index as indexes
from stele.store import signatures, strata_trees, taking_back
from stele.trust.cosign import ANNOTATION_SIGNATURE
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stele.flow.places import Places
    from stele.model.release import Release, Stratum
    from stele.model.tree import Node
    from stele.store.layout import Layout

AT_ONCE = 4  # blobs that move at a time
MAX_REFERRERS = 64  # of one release that are looked at
MAX_FETCHED = 256 << 20  # bytes of signatures and attestations that are held before one of them held


def pull(
    places: Places, source: str, *, plain_http: bool, whole: bool, say: Callable[[str], None], record: Callable[..., None]
) -> dict[str, Any]:
    """Bring a release from a registry into the store, where nothing of it is visible before its signature held.

    Args:
        places: the data folder, whose trusted keys must have signed the release.
        source: `REGISTRY/REPOSITORY[:TAG|@DIGEST]`.
        plain_http: speak http without TLS.
        whole: take whole strata, never deltas.
        say: told of each step.
        record: commits an event.

    Returns:
        Plain data; `damaged`: releases here that could not be built on, by digest, with what is wrong with them.

    Raises:
        SteleError: `registry.*` (it could not be looked up, or is not there), `store.unsigned`, `store.unknown-signer`,
            `store.bad-signature`, `release.*`, `store.*`, `ledger.*`.
    """
    begun = time.monotonic_ns()
    reference = references.parse(source)
    store = opening.open_store(places)
    damaged: dict[str, str] = {}
    shown = _Shown(store, record, str(reference))
    with Repository(Connections(reference.host, plain_http=plain_http), reference) as repository, store.adding():
        found = None if whole or not store.releases() else _nearly(repository, store, reference.name, shown, say, damaged)
        release, way = found or _wholly(repository, store, shown, damaged, whole=whole, say=say)
        received = repository.connections.received
    return {
        "workload": release.workload,
        "release": release.digest,
        "received": received,
        "way": way,
        "damaged": damaged,
        "took_ns": time.monotonic_ns() - begun,
    }


class _Shown:
    """Makes a release visible together with its entry in the ledger, or not at all."""

    def __init__(self, store: Layout, record: Callable[..., None], origin: str) -> None:
        self._store, self._record, self._origin = store, record, origin

    def publish(self, publication: Publication) -> None:
        with taking_back.published(self._store, publication):
            self.record(publication.release)

    def record(self, release: Release) -> None:
        keys = signing.keys_of(self._store, release.digest)
        named = {"release": release.digest, "tree": release.tree_digest, "keys": keys, "origin": self._origin}
        self._record(release.workload, "release.pulled", **named)


def _nearly(
    repository: Repository, store: Layout, name: str, shown: _Shown, say: Callable[[str], None], damaged: dict[str, str]
) -> tuple[Release, str] | None:
    """A release that is here already, or that an update makes of one that is; None where it has to be fetched. With the way."""
    digest = repository.find(name)
    if not digest:
        return None
    say(f"found {digest[:19]}")
    here = _here(store, digest)
    if here is None:
        made = short_updates.pull(repository, store, digest, shown.publish, say, damaged)
        return None if made is None else (made, "update")
    if store.releases()[-1].digest != digest:
        shown.publish(Publication(release=here))  # it is the newest of its workload again
    else:
        shown.record(here)
    return here, "nothing"


def _wholly(
    repository: Repository, store: Layout, shown: _Shown, damaged: dict[str, str], *, whole: bool, say: Callable[[str], None]
) -> tuple[Release, str]:
    """A release with all that refers to it, and the way by which its strata came."""
    found = repository.named()
    publication = _release(repository, store, found)
    way = _strata(repository, store, publication.release, damaged, whole=whole, say=say)
    store.put(found.data)
    shown.publish(publication)
    return publication.release, way


def _here(store: Layout, digest: str) -> Release | None:
    """A release that is in the store already, whole, and acceptable by the signatures that are here."""
    try:
        release = store.release(digest)
    except SteleError:
        return None
    return release if deltas.is_whole(store, release) else None


class _Fetched:
    """Blobs as they were received; what `signatures.check` reads."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.size = 0

    def blob(self, digest: str, limit: int = 0) -> bytes:
        if digest not in self.data or (limit and len(self.data[digest]) > limit):
            raise bad_answer(f"the blob {digest[:19]} is named and not there")
        return self.data[digest]


def _release(repository: Repository, store: Layout, found: Manifest) -> Publication:
    """The release that a manifest is, with its referrers and signatures; one signature by a trusted key holds."""
    named = json_manifest(found)
    config = repository.blob(named.digest, named.size)
    if config is None:
        raise bad_answer("the config of the release is not there")
    release = releases.parse(found.digest, found.data, config)
    fetched = _Fetched()
    referrers = list(_referrers(repository, store, release, fetched))
    simple, manifest = _signatures(repository, release, fetched)
    listed = [indexes.referrer_entry(item, release.digest) for item in referrers]
    if manifest is not None:
        tag = indexes.signatures_tag(release.digest)
        listed.append({**manifest.plain(), "annotations": {indexes.REF_NAME: tag}})
    signatures.check(fetched, indexes.Index.of(listed), release.digest, release.workload, store.judge)
    store.put(config)
    for data in fetched.data.values():
        store.put(data)
    return Publication(release=release, referrers=tuple(referrers), signatures=simple)


def json_manifest(found: Manifest) -> Descriptor:
    """The config that a manifest names.

    Raises:
        SteleError: `release.malformed`, also for an index or an ordinary image.
    """
    digest = releases.config_digest(found.data)
    return Descriptor(media_type=releases.CONFIG_TYPE, digest=digest, size=int(json.loads(found.data)["config"]["size"]))


def _held(store: Layout, part: Descriptor) -> bytes | None:
    """A small blob that the store has already."""
    with contextlib.suppress(SteleError):
        return store.blob(part.digest, min(part.size, MAX_FETCHED)) if store.has_blob(part.digest) else None
    return None


def _referrers(repository: Repository, store: Layout, release: Release, fetched: _Fetched) -> Iterator[Referrer]:
    """Signatures and attestations that refer to the release; each manifest says itself what it is."""
    listed = [
        item
        for item in repository.referrers(release.digest)
        if item.get("artifactType") != DELTA_TYPE and registry_lists.is_descriptor(item)
    ]
    # a registry may call them what it likes: those that it calls by a known type come first, the manifest decides
    listed.sort(key=lambda item: item.get("artifactType", BUNDLE_TYPE) != BUNDLE_TYPE)
    for item in listed[:MAX_REFERRERS]:
        manifest = repository.manifest(indexes.descriptor(item).digest)
        if manifest is None:
            continue
        try:
            plain = indexes.decode(manifest.data, "a referrer")
            parts = registry_lists.parts(manifest.data, "a referrer")
        except SteleError:  # not one of ours, whatever it is
            continue
        subject = plain.get("subject")
        if not isinstance(subject, dict) or subject.get("digest") != release.digest or plain.get("artifactType") != BUNDLE_TYPE:
            continue
        for part in parts:
            data = _held(store, part) or repository.blob(part.digest, part.size, MAX_FETCHED - fetched.size)
            if data is not None:
                fetched.data[part.digest] = data
                fetched.size += len(data)
        fetched.data[manifest.digest] = manifest.data
        described = Descriptor(media_type=MANIFEST_TYPE, digest=manifest.digest, size=len(manifest.data))
        yield Referrer(descriptor=described, artifact_type=BUNDLE_TYPE, annotations=indexes.annotations_of(plain))


def _signatures(repository: Repository, release: Release, fetched: _Fetched) -> tuple[tuple[SimpleSignature, ...], Descriptor | None]:
    found = repository.manifest(indexes.signatures_tag(release.digest))
    if found is None:
        return (), None
    made = []
    for layer in registry_lists.foreign(found.data)["layers"][:MAX_REFERRERS]:
        payload = indexes.descriptor(layer)
        data = repository.blob(payload.digest, payload.size)
        if data is not None and payload.media_type == SIMPLE_TYPE:
            fetched.data[payload.digest] = data
            made.append(SimpleSignature(payload=payload, signature=indexes.annotations_of(layer).get(ANNOTATION_SIGNATURE, "")))
    fetched.data[found.digest] = found.data
    return tuple(made), Descriptor(media_type=MANIFEST_TYPE, digest=found.digest, size=len(found.data))


class _Origin:
    """A repository as where deltas come from; adapter of `deltas.Origin`."""

    def __init__(self, repository: Repository, store: Layout) -> None:
        self._repository, self._store = repository, store

    def referrers(self, digest: str) -> list[Referrer]:
        listed = [item for item in self._repository.referrers(digest) if item.get("artifactType") == DELTA_TYPE]
        return [indexes.referrer(item) for item in listed[:MAX_REFERRERS] if registry_lists.is_descriptor(item)]

    def blob(self, digest: str) -> bytes:
        found = self._repository.manifest(digest)
        if found is None:
            raise bad_answer(f"the manifest {digest[:19]} is named and not there")
        return found.data

    @contextlib.contextmanager
    def open_blob(self, descriptor: Descriptor) -> Iterator[BinaryIO]:
        with self._store.partial(descriptor.digest) as draft, os.fdopen(os.dup(draft.fd), "rb") as file:
            registry_transfer.download(self._repository, descriptor.digest, descriptor.size, draft.fd)
            file.seek(0)
            yield file


def _strata(
    repository: Repository, store: Layout, release: Release, damaged: dict[str, str], *, whole: bool, say: Callable[[str], None]
) -> str:
    """Bring the strata that the store lacks, and make the tree; says by which way: `nothing`, `deltas` or `strata`."""
    missing = [stratum for stratum in release.strata if not store.has_stratum(stratum)]
    limit, origin = sum(stratum.layer.size for stratum in missing), _Origin(repository, store)
    if missing and not whole and updates.receive(store, release.digest, origin, limit=limit, say=say, damaged=damaged):
        return "deltas"
    # what a damaged release has as images only may be what is damaged: from its layers it can be repaired
    doubtful = {stratum.layer.digest for base in store.releases() if base.digest in damaged for stratum in base.strata}
    missing += [s for s in release.strata if s not in missing and s.layer.digest in doubtful and not store.has_blob(s.layer.digest)]
    has_tree = store.has_blob(release.tree_digest)
    known = {} if has_tree else known_trees.nodes(store, release)

    def one(stratum: Stratum) -> Sequence[Node]:
        held = known.get(stratum.name, ())
        asked = not has_tree and not held  # what it holds is asked of its layer
        if stratum in missing or (asked and not store.has_blob(stratum.layer.digest)):
            say(f"pulling {stratum.name} ({stratum.layer.size} bytes)")
            _fetch(repository, store, stratum.layer)
        return store.nodes(stratum) if asked else held

    with ThreadPoolExecutor(AT_ONCE) as pool:
        held = list(pool.map(one, release.strata))
    if not has_tree:
        store.put(strata_trees.joined(release, held).encode())
    return "strata" if missing else "nothing"


def _fetch(repository: Repository, store: Layout, blob: Descriptor) -> None:
    with store.partial(blob.digest) as draft:
        registry_transfer.download(repository, blob.digest, blob.size, draft.fd)
        draft.commit(blob.digest)
