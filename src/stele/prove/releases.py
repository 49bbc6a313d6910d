"""The releases that an answer names: signed by somebody whom the verifier trusts. Pure (docs/spec/proof.md, step 6)."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, NamedTuple

from stele.prove.shape import invalid
from stele.trust import canonical, cosign, note
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stele.model.history import WorkloadState
    from stele.prove.shape import Signed
    from stele.trust.release_key import PublicKey
    from stele.trust.root import Root
    from stele.trust.trust_keys import Trust

WORKLOAD = "dev.stele.workload"
MAX_STATEMENT = 1 << 19  # bytes
MAX_SIGNATURES = 16  # of a release


def named_in(state: WorkloadState) -> set[str]:
    """Digests of the releases that a state names as serving, running or frozen."""
    live = {state.active_release if state.active_instance else "", *(item.release for item in state.running.values())}
    return (live | {item.release for item in state.frozen.values()}) - {""}


class Judge(NamedTuple):
    """Whose signatures count, and whether those of some of them are enough."""

    keys: Sequence[PublicKey]
    enough: Callable[[Sequence[PublicKey]], bool]


def judge(trust: Trust, root: Root | None, workload: str) -> Judge:
    """One signature by a trusted key is enough; where a root has rules, what the rule of the workload says.

    When a signature was recorded is not in a proof: a key that was revoked never counts, one that was replaced does.
    """
    if root is None or not root.policy.rules:
        return Judge(trust.releases, bool)
    rule = next((rule for rule in root.policy.rules if rule.matches(workload)), None)
    signers = {
        key.public.der: key.signer for key in root.policy.keys if rule and key.signer in rule.signers and key.id not in root.policy.revoked
    }
    keys = [key.public for key in root.policy.keys if key.public.der in signers]
    return Judge(keys, lambda held: rule is not None and len({signers[key.der] for key in held}) >= rule.threshold)


def check(found: Sequence[Signed], named: Sequence[str], workload: str, judged: Judge, *, light: bool) -> None:
    """These releases and no others are there, sorted by digest, and signed.

    Raises:
        SteleError: `prove.invalid`.
    """
    if len(found) != len(named):
        raise invalid("the releases that it brings are not those that the answer names")
    for release, digest in zip(found, named, strict=True):
        if len(release.signatures) > MAX_SIGNATURES:
            raise invalid(f"more than {MAX_SIGNATURES} signatures of a release")
        if light != (not release.manifest) or light != (not release.config):
            raise invalid("manifests and configs of releases come with all proofs but light ones")
        if not light:
            _check_manifest(release, digest, workload)
        if len(release.statement.encode("utf-8", "surrogatepass")) > MAX_STATEMENT:
            raise invalid(f"the statement of release {digest[:19]} is larger than 512 KiB")
        # each counts for the first key that it holds with: from any signature a second key can be computed, and a second spelling of it
        first = [next((key for key in judged.keys if _holds(release.statement, text, digest, key)), None) for text in release.signatures]
        held = list(dict.fromkeys(key for key in first if key is not None))
        if not judged.enough(held):
            raise invalid(f"release {digest[:19]} is not signed by a key that you trust, or by too few")


def _holds(statement: str, signature: str, digest: str, key: PublicKey) -> bool:
    try:
        note.strict_base64(signature)
        envelope = {
            "payload": base64.b64encode(statement.encode("utf-8", "surrogatepass")).decode(),
            "payloadType": cosign.PAYLOAD_TYPE,
            "signatures": [{"keyid": "", "sig": signature}],
        }
        bundle = canonical.encode({"mediaType": cosign.BUNDLE_TYPE, "dsseEnvelope": envelope})
        return cosign.check_bundle(bundle, digest, [key]).state == "valid"
    except SteleError:
        return False


def _check_manifest(release: Signed, digest: str, workload: str) -> None:
    manifest, config = (text.encode("utf-8", "surrogatepass") for text in (release.manifest, release.config))
    if sha256(manifest) != digest:
        raise invalid("the releases that it brings are not those that the answer names")
    try:
        plain = canonical.decode(manifest)
    except SteleError as error:
        raise invalid(f"the manifest of release {digest[:19]} is malformed") from error
    if _inner(plain, "annotations", WORKLOAD) != workload:
        raise invalid(f"release {digest[:19]} is of another workload")
    if _inner(plain, "config", "digest") != sha256(config):
        raise invalid(f"the config of release {digest[:19]} is not the one that its manifest names")


def _inner(plain: Any, outer: str, inner: str) -> Any:
    value = plain.get(outer) if isinstance(plain, dict) else None
    return value.get(inner) if isinstance(value, dict) else None
