"""Signing a release in cosign's formats: the bundle as a referrer, and the older `.sig` form (docs/spec/signature.md)."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from stele.model.release import BUNDLE_TYPE, SIMPLE_TYPE, Descriptor, Publication, SimpleSignature, rfc3339
from stele.seal.release import attach
from stele.trust import cosign

if TYPE_CHECKING:
    from stele.model.ports import BlobSink, SmallBlobs
    from stele.model.release import Referrer, Release
    from stele.seal.release import Sealed
    from stele.trust.release_key import ReleaseSigner


def sign(sealed: Sealed, key: ReleaseSigner, sink: BlobSink) -> Publication:
    """Sign a sealed release; returns all that `sink.publish` makes visible at once.

    Raises:
        SteleError: those of `sink`.
    """
    made = sign_again(sealed.release, key, sink)
    return Publication(release=made.release, referrers=(*sealed.referrers, *made.referrers), signatures=made.signatures)


def sign_again(release: Release, key: ReleaseSigner, sink: BlobSink) -> Publication:
    """A further signature of a release that is there already, whose place among the releases of its workload it keeps.

    Raises:
        SteleError: those of `sink` and of the key.
    """
    bundle = cosign.make_bundle(release.digest, key)
    signature = key.sign(cosign.make_payload(release.digest, release.workload))  # before anything is written: a key service may fail
    return Publication(
        release=release, referrers=(refer(release, bundle, sink),), signatures=(older(release, signature, sink),), newest=False
    )


def refer(release: Release, bundle: bytes, sink: SmallBlobs) -> Referrer:
    """Let a bundle refer to the release that it signs. Raises those of `sink`."""
    blob = Descriptor(media_type=BUNDLE_TYPE, digest=sink.put(bundle), size=len(bundle))
    annotations = {
        "dev.sigstore.bundle.content": "dsse-envelope",
        "dev.sigstore.bundle.predicateType": cosign.PREDICATE_TYPE,
        "org.opencontainers.image.created": rfc3339(release.spec.time),
    }
    return attach(sink, release, BUNDLE_TYPE, blob, annotations)


def older(release: Release, signature: bytes, sink: SmallBlobs) -> SimpleSignature:
    """A DER signature over the release's payload in the older form. Raises those of `sink`."""
    payload = cosign.make_payload(release.digest, release.workload)
    described = Descriptor(media_type=SIMPLE_TYPE, digest=sink.put(payload), size=len(payload))
    return SimpleSignature(payload=described, signature=base64.b64encode(signature).decode("ascii"))
