"""Finding and checking a release's signatures in a layout (docs/spec/signature.md, Verification)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from stele.model.release import BUNDLE_TYPE, MANIFEST_TYPE
from stele.store import index as indexes
from stele.trust import cosign, dsse
from stele.trust.cosign import ANNOTATION_SIGNATURE, Checked
from stele.trust.errors import SteleError
from stele.trust.policy import key_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stele.store.index import Index
    from stele.trust.release_key import PublicKey


ANNOTATION_PREDICATE = "dev.sigstore.bundle.predicateType"
MAX_BUNDLE = 4 << 20  # bytes
MAX_SIGNATURES = 16  # that a proof carries of one release


class Signed(msgspec.Struct, frozen=True):
    """Signatures that make a release acceptable.

    `hint` and `form`: of the first that holds, its key as cosign names it and in which form it was found. `counted`: what was enough.
    """

    digest: str
    hint: str
    form: str
    counted: Counted


class Counted(msgspec.Struct, frozen=True):
    """What made a release acceptable: ids of keys and names of signers, and the digest of the policy that said so ("" without one)."""

    keys: tuple[str, ...]
    signers: tuple[str, ...] = ()
    policy: str = ""


class Blobs(Protocol):
    """Blobs by digest, checked as they are read."""

    def blob(self, digest: str, limit: int = ...) -> bytes:
        """One blob whole."""


class Judge(Protocol):
    """Whose signatures make a release acceptable. Asked anew each time: what it says may change."""

    def known(self) -> Sequence[PublicKey]:
        """Every key that is known, retired and revoked ones included.

        Raises:
            SteleError: `trust.bad-policy`, `trust.policy-missing`, `trust.other-ledger`: nothing can be decided.
        """

    def accept(self, workload: str, digest: str, keys: Sequence[PublicKey]) -> Counted:
        """What counted, if signatures of the release by `keys` are enough.

        Raises:
            SteleError: `trust.*`: what is missing.
        """


class AnyOf:
    """The judge that wants one signature, by any of these keys."""

    def __init__(self, trusted: Sequence[PublicKey]) -> None:
        self._trusted = tuple(trusted)

    def known(self) -> Sequence[PublicKey]:
        """These."""
        return self._trusted

    def accept(self, workload: str, digest: str, keys: Sequence[PublicKey]) -> Counted:
        """All of them count."""
        del workload, digest
        return Counted(tuple(sorted(key_id(key) for key in keys)))


class Found(msgspec.Struct, frozen=True):
    """What is there: keys whose signatures hold, the first of them, what does not hold, and what cannot be read."""

    holding: tuple[PublicKey, ...]
    first: tuple[str, str]  # hint and form
    others: tuple[Checked, ...]
    lost: SteleError | None


def find(blobs: Blobs, index: Index, digest: str, known: Sequence[PublicKey]) -> Found:
    """Look at all signatures over `digest` with all `known` keys."""
    lost: SteleError | None = None
    others: list[Checked] = []
    holding: dict[str, str] = {}
    for form, found in _all(blobs, index, digest, known):
        if isinstance(found, SteleError):
            lost = lost or found
        elif found.state == "valid":
            holding.setdefault(found.hint, form)
        else:
            others.append(found)
    first = next(iter(holding.items()), ("", ""))
    return Found(tuple(key for key in known if key.hint in holding), first, tuple(others), lost)


def check(blobs: Blobs, index: Index, digest: str, workload: str, judge: Judge) -> Signed:
    """The signatures over `digest`, if they are enough for the judge.

    Raises:
        SteleError: `store.unsigned` (there is none), `store.bad-signature` (one that names a known key is false),
            `store.unknown-signer` (only by keys that are not known), `store.damaged` (one is named and cannot be read), and those of
            `Judge.accept`.
    """
    found = find(blobs, index, digest, judge.known())
    if not found.holding:
        raise _why_none(found, digest)
    try:
        counted = judge.accept(workload, digest, found.holding)
    except SteleError:
        if found.lost is not None:  # the one that is missing may be the one that cannot be read
            raise found.lost from None
        raise
    return Signed(digest, *found.first, counted)


def _why_none(found: Found, digest: str) -> SteleError:
    if found.lost is not None:
        return found.lost
    bad = [item for item in found.others if item.state == "bad"]
    if bad:
        return SteleError(
            f"the signature of release {digest[:19]} does not hold: {bad[0].reason}",
            remedy="the release or its signature was altered: get both again from their source, and ask who changed them",
            code="store.bad-signature",
        )
    if found.others:
        hints = sorted({item.hint for item in found.others} - {""}) or ["which it does not name"]
        return SteleError(
            f"release {digest[:19]} is signed, but not by a trusted key (by {', '.join(hints)[:200]})",
            remedy="if you trust its signer, name the signer's public key as trusted (`stele key add`); otherwise seal it yourself",
            code="store.unknown-signer",
        )
    return SteleError(
        f"release {digest[:19]} has no signature",
        remedy="seal it again; if it was copied here, copy its signature too (the tags sha256-<hex> and sha256-<hex>.sig)",
        code="store.unsigned",
    )


def _all(blobs: Blobs, index: Index, digest: str, trusted: Sequence[PublicKey]) -> Iterator[tuple[str, Checked | SteleError]]:
    for bundle in bundles(blobs, index, digest):
        yield "bundle", bundle if isinstance(bundle, SteleError) else cosign.check_bundle(bundle, digest, trusted)
    entry = index.tagged(indexes.signatures_tag(digest))
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
    blobs: Blobs, index: Index, digest: str, kind: str = cosign.PREDICATE_TYPE, limit: int = MAX_BUNDLE
) -> Iterator[bytes | SteleError]:
    """The sigstore bundles that refer to `digest`; an error in place of each that is named and cannot be read.

    What index.json says to refer to something else is not read: releases may be many. What is read says itself what it refers to.

    `kind`: their predicate type; those that say that they are of another are passed over. `limit`: bytes of one.
    """
    listed = index.about(digest)
    entry = index.tagged(indexes.referrers_tag(digest))
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


def evidence(blobs: Blobs, index: Index, digest: str, workload: str, known: Sequence[PublicKey]) -> tuple[bytes, tuple[bytes, ...]]:
    """A statement about `digest`, and its signatures by the `known` keys, one each: the statement that most of them have signed.

    Raises:
        SteleError: `store.no-bundle`, and those of `check`: why there is none.
    """
    signed: dict[bytes, dict[str, bytes]] = {}  # by statement: by key
    for bundle in bundles(blobs, index, digest):
        if isinstance(bundle, SteleError):
            continue
        found = cosign.check_bundle(bundle, digest, known)
        if found.state == "valid":
            envelope = dsse.decode(indexes.decode(bundle, "a bundle")["dsseEnvelope"])
            signed.setdefault(envelope.payload, {}).setdefault(found.hint, envelope.signature)
    if signed:
        payload = max(signed, key=lambda text: len(signed[text]))
        return payload, tuple(signed[payload].values())[:MAX_SIGNATURES]
    check(blobs, index, digest, workload, AnyOf(known))
    raise SteleError(
        f"release {digest[:19]} has a signature only in the older form, which a proof does not carry",
        remedy="seal it again, or copy its signature bundle (the tag sha256-<hex>) into the store",
        code="store.no-bundle",
    )
