"""Attestations: a signed statement about a release, as a sigstore bundle that refers to it (docs/spec/provenance.md, Envelope)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.model.release import BUNDLE_TYPE, Descriptor, Referrer, rfc3339
from stele.seal.release import attach
from stele.trust import canonical, dsse
from stele.trust.cosign import PAYLOAD_TYPE, STATEMENT_TYPE
from stele.trust.digest import digest_hex

if TYPE_CHECKING:
    from stele.model.ports import BlobSink
    from stele.model.release import Release
    from stele.trust.release_key import ReleaseSigner


def statement(release: Release, predicate_type: str, predicate: bytes) -> bytes:
    """An in-toto Statement v1 about a release, canonical JSON. `predicate`: canonical JSON."""
    head = canonical.encode({"_type": STATEMENT_TYPE})[:-1]
    subject = [{"name": release.workload, "digest": {"sha256": digest_hex(release.digest)}}]
    tail = canonical.encode({"predicateType": predicate_type, "subject": subject})[1:]
    return head + b',"predicate":' + predicate + b"," + tail  # the keys are in their order: the predicate is not encoded again


def attest(release: Release, predicate_type: str, predicate: bytes, key: ReleaseSigner, sink: BlobSink) -> Referrer:
    """Sign a statement about a release and put it into `sink`, as `cosign attest` would have it.

    Args:
        release: the subject.
        predicate_type: a URI.
        predicate: canonical JSON.
        key: a release key.
        sink: takes the bundle and the manifest by which it refers to the release.

    Raises:
        SteleError: those of `sink`.
    """
    envelope = dsse.sign(PAYLOAD_TYPE, statement(release, predicate_type, predicate), "", key.sign)
    bundle = canonical.encode(
        {
            "mediaType": BUNDLE_TYPE,
            "verificationMaterial": {"publicKey": {"hint": key.public.hint}},
            "dsseEnvelope": envelope,
        }
    )
    blob = Descriptor(media_type=BUNDLE_TYPE, digest=sink.put(bundle), size=len(bundle))
    annotations = {
        "dev.sigstore.bundle.content": "dsse-envelope",
        "dev.sigstore.bundle.predicateType": predicate_type,
        "org.opencontainers.image.created": rfc3339(release.spec.time),
    }
    return attach(sink, release, BUNDLE_TYPE, blob, annotations)
