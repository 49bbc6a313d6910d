"""Reading what was attested of a release: signed statements that refer to it (docs/spec/provenance.md, Envelope)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from stele.host import logs
from stele.store import index as indexes
from stele.store import signatures
from stele.trust import dsse
from stele.trust.cosign import BUNDLE_TYPE, PAYLOAD_TYPE, STATEMENT_TYPE
from stele.trust.digest import digest_hex
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stele.store.index import Index
    from stele.store.signatures import Blobs
    from stele.trust.release_key import PublicKey

LIMIT = 64 << 20  # bytes of one bundle: an SBOM of many packages is larger than a signature


def read(blobs: Blobs, index: Index, digest: str, predicate_type: str, trusted: Sequence[PublicKey]) -> Iterator[dict[str, Any]]:
    """The predicates of this type that a trusted key has signed of the release `digest`.

    Raises:
        SteleError: only where none holds: `store.damaged` if one is named and cannot be read, `store.bad-attestation` if one is signed by
            none of the trusted keys, or says something else. Beside one that holds, others may be foreign or lost.
    """
    failed: SteleError | None = None
    holds = False
    for bundle in signatures.bundles(blobs, index, digest, predicate_type, LIMIT):
        try:
            if isinstance(bundle, SteleError):
                raise bundle
            found = _predicate(bundle, digest, predicate_type, trusted)
        except SteleError as error:
            logs.of(__name__).info("an attestation of %s is passed over: %s", digest, error.reason)
            failed = failed or error
        else:
            holds = True
            yield found
    if failed is not None and not holds:
        raise failed


def _predicate(bundle: bytes, digest: str, predicate_type: str, trusted: Sequence[PublicKey]) -> dict[str, Any]:
    plain = indexes.decode(bundle, "an attestation")
    envelope = dsse.decode(plain.get("dsseEnvelope"))
    signed = dsse.pae(envelope.payload_type, envelope.payload)
    if not any(key.verify(signed, envelope.signature) for key in trusted):
        raise _bad(digest, "it is by none of the trusted keys, or was altered")
    statement = json.loads(envelope.payload)  # its bytes are signed: whoever may sign may also spell
    subjects = statement.get("subject") if isinstance(statement, dict) else None
    if (
        plain.get("mediaType") != BUNDLE_TYPE
        or envelope.payload_type != PAYLOAD_TYPE
        or not isinstance(subjects, list)
        or statement.get("_type") != STATEMENT_TYPE
        or statement.get("predicateType") != predicate_type
        or not isinstance(statement.get("predicate"), dict)
        or not any(isinstance(item, dict) and item.get("digest") == {"sha256": digest_hex(digest)} for item in subjects)
    ):
        raise _bad(digest, "it says something else than its place among the release's attestations")
    predicate: dict[str, Any] = statement["predicate"]
    return predicate


def _bad(digest: str, reason: str) -> SteleError:
    return SteleError(
        f"an attestation of release {digest[:19]} does not hold: {reason}",
        remedy="do not believe it; get the release again from its source, or seal it again",
        code="store.bad-attestation",
    )
