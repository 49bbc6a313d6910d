"""Cosign's signature formats (docs/spec/signature.md): the sigstore bundle with a DSSE attestation, and the older payload.

Pure: bytes in, verdict out. How they are attached to an image is not known here.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from stele.trust import canonical, dsse
from stele.trust.digest import digest_hex, parse_digest
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stele.trust.release_key import PublicKey, ReleaseSigner

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://sigstore.dev/cosign/sign/v1"
SIMPLE_KIND = "cosign container image signature"
ANNOTATION_SIGNATURE = "dev.cosignproject.cosign/signature"
MAX_BYTES = 1 << 20

State = Literal["valid", "unknown", "bad"]


class Checked(msgspec.Struct, frozen=True):
    """What one signature is worth: `valid` by a trusted key, by an `unknown` key, or `bad`. `hint`: the key that it names."""

    state: State
    hint: str
    reason: str = ""


def make_bundle(digest: str, key: ReleaseSigner) -> bytes:
    """A sigstore bundle that signs the manifest `digest`."""
    return bundle_of(digest, key.public.hint, key.sign(signed_bytes(digest)))


def signed_bytes(digest: str) -> bytes:
    """What a bundle's signature of the manifest `digest` is made over."""
    return dsse.pae(PAYLOAD_TYPE, _statement(digest))


def bundle_of(digest: str, hint: str, signature: bytes) -> bytes:
    """The bundle of a DER signature by the key that `hint` names."""
    # no keyid: cosign takes it for the SSH fingerprint of the key, and passes over a signature that has another
    envelope = dsse.sign(PAYLOAD_TYPE, _statement(digest), "", lambda _: signature)
    return canonical.encode(
        {
            "mediaType": BUNDLE_TYPE,
            "verificationMaterial": {"publicKey": {"hint": hint}},
            "dsseEnvelope": envelope,
        }
    )


def _statement(digest: str) -> bytes:
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": "", "digest": {"sha256": digest_hex(digest)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {},
    }
    return canonical.encode(statement)


def check_bundle(data: bytes, digest: str, trusted: Sequence[PublicKey]) -> Checked:
    """Check a bundle over the manifest `digest` with the trusted keys; the keys decide, not what the bundle says of them."""
    hint = ""
    try:
        bundle = _object(data)
        hint = _hint(bundle)
        envelope = dsse.decode(bundle.get("dsseEnvelope"))
        signer = _signer(trusted, dsse.pae(envelope.payload_type, envelope.payload), envelope.signature)
        if signer is None:
            return _not_by(trusted, hint or envelope.key_id)
        statement = _object(envelope.payload)
        subjects = statement.get("subject")
        if (
            bundle.get("mediaType") != BUNDLE_TYPE
            or envelope.payload_type != PAYLOAD_TYPE
            or statement.get("_type") != STATEMENT_TYPE
            or statement.get("predicateType") != PREDICATE_TYPE
        ):
            return Checked("bad", signer.hint, "it signs something else than an image")
        if not isinstance(subjects, list) or not any(_names(subject, digest) for subject in subjects):
            return Checked("bad", signer.hint, "it signs another release")
    except SteleError as error:
        return Checked("bad", hint, error.reason)
    return Checked("valid", signer.hint)


def make_payload(digest: str, reference: str) -> bytes:
    """The payload of the older format ("simple signing") for the manifest `digest`."""
    critical = {
        "identity": {"docker-reference": reference},
        "image": {"docker-manifest-digest": parse_digest(digest)},
        "type": SIMPLE_KIND,
    }
    return canonical.encode({"critical": critical, "optional": None})


def check_payload(payload: bytes, signature: str, digest: str, trusted: Sequence[PublicKey]) -> Checked:
    """Check a simple-signing payload; `signature` is the base64 of its DER signature."""
    try:
        raw = base64.b64decode(signature.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return Checked("bad", "", "the signature is not base64")
    signer = _signer(trusted, payload, raw)
    if signer is None:
        return _not_by(trusted, "")  # the format does not name its key
    try:
        critical = _object(payload).get("critical")
        if not isinstance(critical, dict) or critical.get("type") != SIMPLE_KIND:
            return Checked("bad", signer.hint, "it signs something else than an image")
        image = critical.get("image")
        if not isinstance(image, dict) or image.get("docker-manifest-digest") != digest:
            return Checked("bad", signer.hint, "it signs another release")
    except SteleError as error:
        return Checked("bad", signer.hint, error.reason)
    return Checked("valid", signer.hint)


def _signer(trusted: Iterable[PublicKey], data: bytes, signature: bytes) -> PublicKey | None:
    return next((key for key in trusted if key.verify(data, signature)), None)


def _not_by(trusted: Sequence[PublicKey], hint: str) -> Checked:
    if any(key.hint == hint for key in trusted):
        return Checked("bad", hint, "it names a trusted key, but does not verify with it")
    return Checked("unknown", hint, "it is by none of the trusted keys")


def _names(subject: Any, digest: str) -> bool:
    return isinstance(subject, dict) and subject.get("digest") == {"sha256": digest_hex(digest)}


def _hint(bundle: dict[str, Any]) -> str:
    material = bundle.get("verificationMaterial")
    key = material.get("publicKey") if isinstance(material, dict) else None
    hint = key.get("hint") if isinstance(key, dict) else None
    return hint if isinstance(hint, str) else ""


def _object(data: bytes) -> dict[str, Any]:
    """A JSON object without duplicate keys; other tools' spelling is accepted, because the bytes are what is signed."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(items)
        if len(out) != len(items):
            raise ValueError("a key appears twice")
        return out

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=pairs) if len(data) <= MAX_BYTES else None
    except (ValueError, RecursionError) as error:
        raise _malformed(str(error)) from error
    if not isinstance(value, dict):
        raise _malformed("it is not a JSON object of at most 1 MiB")
    return value


def _malformed(reason: str) -> SteleError:
    return SteleError(
        f"the signature cannot be read: {reason}",
        remedy="it is damaged or forged; get it again from its source, or sign the release again",
        code="trust.bad-signature-file",
    )
