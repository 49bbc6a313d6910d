"""Signing a release in cosign's formats: the bundle as a referrer, and the older `.sig` form (docs/spec/signature.md)."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from stele.model.release import BUNDLE_TYPE, SIMPLE_TYPE, Descriptor, Publication, SimpleSignature, rfc3339
from stele.seal.release import attach
from stele.trust import cosign

if TYPE_CHECKING:
    from stele.model.ports import BlobSink
    from stele.seal.release import Sealed
    from stele.trust.release_key import PrivateKey


def sign(sealed: Sealed, key: PrivateKey, sink: BlobSink) -> Publication:
    """Sign a sealed release; returns all that `sink.publish` makes visible at once.

    Raises:
        SteleError: those of `sink`.
    """
    release = sealed.release
    bundle = cosign.make_bundle(release.digest, key)
    blob = Descriptor(media_type=BUNDLE_TYPE, digest=sink.put(bundle), size=len(bundle))
    annotations = {
        "dev.sigstore.bundle.content": "dsse-envelope",
        "dev.sigstore.bundle.predicateType": cosign.PREDICATE_TYPE,
        "org.opencontainers.image.created": rfc3339(release.spec.time),
    }
    referrer = attach(sink, release, BUNDLE_TYPE, blob, annotations)
    payload = cosign.make_payload(release.digest, release.workload)
    simple = SimpleSignature(
        payload=Descriptor(media_type=SIMPLE_TYPE, digest=sink.put(payload), size=len(payload)),
        signature=base64.b64encode(key.sign(payload)).decode("ascii"),
    )
    return Publication(release=release, referrers=(*sealed.referrers, referrer), signatures=(simple,))
