"""Finding and checking a release's signatures in a layout (docs/spec/signature.md, Verification)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from stele.model.release import BUNDLE_TYPE, MANIFEST_TYPE
from stele.store import index as indexes
from stele.trust import cosign, dsse
from stele.trust.cosign import ANNOTATION_SIGNATURE, Checked
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stele.store.index import Plain
    from stele.trust.release_key import PublicKey


ANNOTATION_PREDICATE = "dev.sigstore.bundle.predicateType"
MAX_BUNDLE = 4 << 20  # bytes


class Signed(NamedTuple):
    """A signature that holds: the release's digest, the key's hint, and in which form it was found."""

    digest: str
    hint: str
    form: str


class Blobs(Protocol):
    """Blobs by digest, checked as they are read."""

    def blob(self, digest: str, limit: int = ...) -> bytes:
        """One blob whole."""


def check(blobs: Blobs, index: Plain, digest: str, trusted: Sequence[PublicKey]) -> Signed:
    """Find one signature over `digest` that holds by a trusted key.

    Raises:
        SteleError: `store.unsigned` (there is none), `store.bad-signature` (one that names a trusted key is false),
            `store.unknown-signer` (only by keys that are not trusted), `store.damaged` (one is named and cannot be read).
    """
    lost: SteleError | None = None
    seen: list[Checked] = []
    for form, found in _all(blobs, index, digest, trusted):
        if isinstance(found, SteleError):
            lost = lost or found
        elif found.state == "valid":
            return Signed(digest, found.hint, form)
        else:
            seen.append(found)
    if lost is not None:
        raise lost
    bad = [item for item in seen if item.state == "bad"]
    if bad:
        raise SteleError(
            f"the signature of release {digest[:19]} does not hold: {bad[0].reason}",
            remedy="the release or its signature was altered: get both again from their source, and ask who changed them",
            code="store.bad-signature",
        )
    if seen:
        hints = sorted({item.hint for item in seen} - {""}) or ["which it does not name"]
        raise SteleError(
            f"release {digest[:19]} is signed, but not by a trusted key (by {', '.join(hints)[:200]})",
            remedy="if you trust its signer, name the signer's public key as trusted; otherwise seal the application yourself",
            code="store.unknown-signer",
        )
    raise SteleError(
        f"release {digest[:19]} has no signature",
        remedy="seal it again; if it was copied here, copy its signature too (the tags sha256-<hex> and sha256-<hex>.sig)",
        code="store.unsigned",
    )


def _all(blobs: Blobs, index: Plain, digest: str, trusted: Sequence[PublicKey]) -> Iterator[tuple[str, Checked | SteleError]]:
    for bundle in bundles(blobs, index, digest):
        yield "bundle", bundle if isinstance(bundle, SteleError) else cosign.check_bundle(bundle, digest, trusted)
    entry = indexes.tagged(index, indexes.signatures_tag(digest))
    if entry is None:
        return
    try:
        manifest = indexes.decode(blobs.blob(indexes.descriptor(entry).digest), "the signatures' manifest")
        for layer in manifest.get("layers", []):
            signature = indexes.annotations_of(layer).get(ANNOTATION_SIGNATURE, "")
            yield "sig", cosign.check_payload(blobs.blob(indexes.descriptor(layer).digest), signature, digest, trusted)
    except SteleError as error:
        yield "sig", error


def bundles(
    blobs: Blobs, index: Plain, digest: str, kind: str = cosign.PREDICATE_TYPE, limit: int = MAX_BUNDLE
) -> Iterator[bytes | SteleError]:
    """The sigstore bundles that refer to `digest`; an error in place of each that is named and cannot be read.

    `kind`: their predicate type; those that say that they are of another are passed over. `limit`: bytes of one.
    """
    listed = list(index.get("manifests", []))
    entry = indexes.tagged(index, indexes.referrers_tag(digest))
    try:
        if entry is not None:
            listed += indexes.decode(blobs.blob(indexes.descriptor(entry).digest), "the referrers' index").get("manifests", [])
    except SteleError as error:
        yield error
    seen: set[str] = set()
    for item in listed:
        # cosign's own index of referrers forgets the artifact type: the manifest says it then
        if (
            item.get("artifactType", BUNDLE_TYPE) != BUNDLE_TYPE
            or item.get("mediaType") != MANIFEST_TYPE
            or indexes.REF_NAME in indexes.annotations_of(item)
            or indexes.annotations_of(item).get(ANNOTATION_PREDICATE, kind) != kind
        ):
            continue
        try:
            name = indexes.descriptor(item).digest
            if name in seen:
                continue
            seen.add(name)
            manifest = indexes.decode(blobs.blob(name), "a referrer")
            subject = manifest.get("subject")
            if indexes.annotations_of(manifest).get(ANNOTATION_PREDICATE, cosign.PREDICATE_TYPE) != kind:
                continue
            if manifest.get("artifactType") == BUNDLE_TYPE and isinstance(subject, dict) and subject.get("digest") == digest:
                for layer in manifest.get("layers", [])[:1]:
                    yield blobs.blob(indexes.descriptor(layer).digest, limit)
        except SteleError as error:
            yield error


def statement(bundle: bytes, digest: str, trusted: Sequence[PublicKey]) -> tuple[bytes, bytes] | None:
    """The signed statement and its signature, if the bundle holds by a trusted key."""
    if cosign.check_bundle(bundle, digest, trusted).state != "valid":
        return None
    envelope = dsse.decode(indexes.decode(bundle, "a bundle")["dsseEnvelope"])
    return envelope.payload, envelope.signature
