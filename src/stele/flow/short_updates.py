"""Updates in their shortest form, as a registry has them at a tag that names both releases (docs/spec/update.md).

What one says is believed only where the release comes out at its digest, and is signed by who is trusted; then its contents are made.
"""

from __future__ import annotations

import base64
import contextlib
import io
from typing import TYPE_CHECKING, NamedTuple

from stele.flow import deltas, registry_lists, updates
from stele.flow.in_place import InPlace
from stele.host import durable
from stele.model import release as releases
from stele.model.release import BUNDLE_TYPE, CONTENT_TYPE, DELTA_TYPE, MANIFEST_TYPE, UPDATE_TYPE, Descriptor, Publication
from stele.seal import sign
from stele.seal.delta import codec, patches, quick, short
from stele.seal.release import attach
from stele.seal.sources.spool import anonymous_file
from stele.store import index as indexes
from stele.store import signatures
from stele.store.layout import TREE_LIMIT
from stele.trust import canonical, cosign, dsse
from stele.trust.digest import sha256
from stele.trust.errors import SteleError
from stele.trust.release_key import der_signature, raw_signature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stele.flow.deltas import Offer
    from stele.host.registry import Repository
    from stele.model.release import Referrer, Release, Stratum
    from stele.seal.delta.short import Short
    from stele.store.layout import Layout

BASES = 4  # releases that are asked for
APART = 32 << 10  # bytes of content that lie in a blob of their own, which the delta's artifact has too
# what the ordinary way has a better word for, or does not need
REFUSED = ("delta.", "release.", "tree.", "trust.", "store.unsigned", "store.unknown-signer", "store.bad-signature")
REFUSED_ANSWERS = ("registry.bad-answer", "registry.wrong-bytes")


# --- push


class Ready(NamedTuple):
    """An update as a registry is to have it. `base`: digest of the release that it starts from. `held`: bytes of all blobs by digest.

    `delta`: digest of the artifact, in the store, of the delta that it is made of; `parted`: that artifact with the content apart, where
    the update has it so.
    """

    base: str
    tag: str
    manifest: bytes
    delta: str
    parted: Referrer | None
    held: dict[str, bytes]


def ready(store: Layout, release: Release) -> list[Ready]:
    """The updates to `release` for which the store has deltas.

    Raises:
        SteleError: `store.*`.
    """
    found = []
    for item in store.referrers(release.digest):
        for offer in deltas.offers(release.digest, [item]):
            data, content = _made_of(store, release, offer)
            if data:
                found.append(_ready(store, release, item, offer, data, content))
    return found


def _ready(store: Layout, release: Release, item: Referrer, offer: Offer, data: bytes, content: int) -> Ready:
    held, parted, layers = _Held(), None, []
    if content > APART:
        tail = _described(held, CONTENT_TYPE, data[-content:])
        layers, data = [tail.plain()], data[:-content]
        with store.open_blob(deltas.artifact(store, offer).delta) as file:
            head = _described(held, DELTA_TYPE, file.read(offer.size - content))
        parted = attach(held, release, DELTA_TYPE, head, item.annotations, (tail,))
    blob = _described(held, UPDATE_TYPE, data)
    manifest = canonical.encode({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": blob.plain(), "layers": layers})
    return Ready(offer.base, short.tag(offer.base, release.digest), manifest, item.descriptor.digest, parted, held.data)


def _described(held: _Held, media_type: str, data: bytes) -> Descriptor:
    return Descriptor(media_type=media_type, digest=held.put(data), size=len(data))


def made(store: Layout, release: Release, offer: Offer) -> bytes:
    """The update that an offered delta makes, whole; b"" where there is none, also of a delta that does not lead there."""
    return _made_of(store, release, offer)[0]


def _made_of(store: Layout, release: Release, offer: Offer) -> tuple[bytes, int]:
    """Also how many bytes at its end, and at that of the delta, are content."""
    try:
        return _made(store, release, offer)
    except SteleError as error:
        if error.code.startswith(("delta.", "tree.")):
            return b"", 0
        raise


def _made(store: Layout, release: Release, offer: Offer) -> tuple[bytes, int]:
    if offer.base == deltas.EMPTY or offer.size > short.LIMIT:
        return b"", 0
    try:
        base = store.find(offer.base)
    except SteleError:
        return b"", 0
    with deltas.open_delta(store, deltas.artifact(store, offer)) as file:
        delta = file.read()
    lines = quick.Lines(store.tree(base.digest).encode())
    data = short.shortened(base, release, lines, delta, _signatures(store, release)) if len(delta) == offer.size else b""
    if not data:
        return b"", 0
    update = short.decode(data, base.digest, lines.data)
    nodes = {stratum.name: stratum.nodes for stratum in release.strata}
    manifest, _ = short.documents(base, update, release.tree_digest, lambda before: nodes[before.name])
    return (data, len(update.content)) if update.bundles and sha256(manifest) == release.digest else (b"", 0)


def _signatures(store: Layout, release: Release) -> tuple[list[bytes], list[bytes]]:
    """Those that can be told by 64 bytes: in bundles, and in the older form."""
    bundles, older = [], []
    for item in store.referrers(release.digest):
        if item.artifact_type == BUNDLE_TYPE:
            with contextlib.suppress(SteleError):
                plain = indexes.decode(store.blob(item.descriptor.digest), "a referrer")
                bundle = store.blob(indexes.descriptor(plain["layers"][0]).digest)
                read = indexes.decode(bundle, "a bundle")
                signature = dsse.decode(read["dsseEnvelope"]).signature
                hint = read["verificationMaterial"]["publicKey"]["hint"]
                if cosign.bundle_of(release.digest, hint, signature) == bundle:
                    bundles.append(raw_signature(signature))
    payload = sha256(cosign.make_payload(release.digest, release.workload))
    held = store.tagged(indexes.signatures_tag(release.digest))
    for layer in indexes.decode(held, "signatures").get("layers", []) if held else []:
        with contextlib.suppress(SteleError, ValueError):
            if indexes.descriptor(layer).digest == payload:
                older.append(raw_signature(base64.b64decode(indexes.annotations_of(layer).get(cosign.ANNOTATION_SIGNATURE, ""))))
    return bundles, older


# --- pull


def pull(
    repository: Repository,
    store: Layout,
    target: str,
    publish: Callable[[Publication], None],
    say: Callable[[str], None],
    damaged: dict[str, str],
) -> Release | None:
    """Bring a release into the store by an update from one that is here, and publish it; None where the ordinary way is to be gone.

    `publish`: makes it visible in the store.
    `damaged`: takes the releases that were a base and turned out to be damaged, by digest, with what is wrong.

    Raises:
        SteleError: `registry.*` if it could not be looked up; `store.full`, `store.not-writable`; those of `publish`.
    """
    for base in _bases(store):
        tag = short.tag(base.digest, target)
        if not repository.find(tag):
            continue
        try:
            found = _fetched(repository, tag)
            say(f"taking the update from {base.digest[:19]}: {len(found)} bytes")
            return receive(store, base, target, found, publish)
        except SteleError as error:
            if error.code == deltas.DAMAGED:
                damaged[base.digest] = error.reason
                say(f"{base.digest[:19]} cannot be built on: {error.reason}")
                continue
            if not error.code.startswith(REFUSED) and error.code not in REFUSED_ANSWERS:
                raise
            say(f"the update was refused: {error.reason}")
    return None


def _bases(store: Layout) -> Iterator[Release]:
    """Releases that an update may start from, the likeliest first: those that were added last."""
    for release in store.releases()[: -BASES - 1 : -1]:
        if deltas.is_whole(store, release) and store.has_blob(release.tree_digest):
            yield release


def _fetched(repository: Repository, tag: str) -> bytes:
    found = repository.manifest(tag)
    try:
        parts = registry_lists.parts(found.data if found else b"{}", "an update's manifest")
    except SteleError as error:  # by whoever may write there
        raise codec.damaged("its manifest is that of something else") from error
    kinds = [part.media_type for part in parts]
    if kinds not in ([UPDATE_TYPE], [UPDATE_TYPE, CONTENT_TYPE]) or sum(part.size for part in parts) > short.LIMIT:
        raise codec.damaged("its manifest is that of something else")
    data = [repository.blob(part.digest, part.size) for part in parts]
    if None in data:
        raise codec.damaged("a blob of it is not there")
    return b"".join(filter(None, data))


def receive(store: Layout, base: Release, target: str, data: bytes, publish: Callable[[Publication], None]) -> Release:
    """Make and publish the release `target` (digest) of an update, which is not trusted, and of a release that is here whole.

    Raises:
        SteleError: `delta.*`, `release.*`, `tree.*`, `trust.*`, `store.*`, and those of `publish`. Nothing is visible then.
    """
    place = InPlace(store, base, quick.Lines(store.blob(base.tree_digest, TREE_LIMIT)))
    update = short.decode(data, base.digest, place.lines.data)
    patch = short.patch(update, place.lines)
    patched = _patched(update, place.lines, patch)

    def nodes(before: Stratum) -> str:
        store.image(before)
        return sha256(place.nodes(before, patched.tree))

    tree_digest = sha256(patched.tree.data)
    manifest, config = short.documents(base, update, tree_digest, nodes)
    release = releases.parse(target, manifest, config)
    held, publication = _publication(store, release, update)
    with store.together():  # one wait for the disk
        _keep(store, patched.tree.data, tree_digest)
        for blob in (manifest, config, *held.data.values()):
            store.put(blob)
        made = None
        if not update.lines:
            made = place.build(release, lambda old: quick.unpack(place.lines, patched, io.BytesIO(update.content), old, anonymous_file))
        if made is None:
            delta = short.expand(update, place.lines.data, release.tree_digest, patch)
            updates.build_of_one(store, base, release, io.BytesIO(delta))
        publish(publication)
    return release


def _keep(store: Layout, data: bytes, digest: str) -> None:
    """Put a blob whose digest is known."""
    if not store.has_blob(digest):
        with store.draft("blob") as draft:
            durable.write_all(draft.fd, data)
            draft.commit(digest)


def _patched(update: Short, base: quick.Lines, patch: bytes) -> quick.Patched:
    """The tree that an update makes; of edits alone nothing has to be decoded."""
    if not update.lines:
        changes = dict(zip((edit.line for edit in update.edits), patch.split(b"\n")[:-1], strict=True))
        return quick.Patched(base.replaced(changes), changes, update)
    try:
        return quick.Patched(quick.Lines(patches.apply(base.data, patch)), {}, update)
    except patches.PatchError as error:
        raise codec.damaged(f"its change of the tree is not valid ({error})") from error


class _Held:
    """Blobs that are not in the store yet; what `signatures.check` reads."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def put(self, data: bytes) -> str:
        digest = sha256(data)
        self.data[digest] = data
        return digest

    def blob(self, digest: str, limit: int = 0) -> bytes:
        del limit  # they were made here
        return self.data[digest]


def _publication(store: Layout, release: Release, update: Short) -> tuple[_Held, Publication]:
    """What refers to the release, made again of the signatures; one by a trusted key holds, or as many as the policy wants."""
    held = _Held()
    referrers = []
    signed = cosign.signed_bytes(release.digest)
    known = store.judge.known()
    for signature in map(der_signature, update.bundles):
        key = next((key for key in known if key.verify(signed, signature)), None)
        if key is not None:
            referrers.append(sign.refer(release, cosign.bundle_of(release.digest, key.hint, signature), held))
    listed = [indexes.referrer_entry(item, release.digest) for item in referrers]
    signatures.check(held, indexes.Index.of(listed), release.digest, release.workload, store.judge)
    payload = cosign.make_payload(release.digest, release.workload)
    older = [signature for signature in map(der_signature, update.older) if any(key.verify(payload, signature) for key in known)]
    return held, Publication(
        release=release, referrers=tuple(referrers), signatures=tuple(sign.older(release, each, held) for each in older)
    )
