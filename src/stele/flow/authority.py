"""Whose signatures count in a data folder: its trust policy, joined with what its ledger recorded. The store's judge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stele.flow import rooted
from stele.ledger import recorded
from stele.store.signatures import Counted
from stele.trust import policy as policies
from stele.trust.digest import sha256
from stele.trust.errors import SteleError
from stele.trust.policy import Policy, Refused, Rule, key_id
from stele.trust.release_key import PublicKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.flow.places import Places


def in_force(places: Places) -> tuple[Policy, str]:
    """The policy in force, and what says it: "root" if the root of trust has rules, else "policy", or "release.pub" without a file.

    Raises:
        SteleError: `trust.bad-policy`, `trust.policy-missing`, `trust.bad-root`, `trust.root-order`, `init.no-keys`.
    """
    root = rooted.present(places)
    if root is not None and root.policy.rules:
        return root.policy, "root"
    try:
        return policies.parse(places.policy.read_bytes()), "policy"
    except FileNotFoundError:
        pass
    if recorded.key_changes(places.ledger):
        # the file that says what is revoked is gone: to begin anew without it would undo the revocation
        raise SteleError(
            f"{places.policy} is missing, and the ledger records changes of keys",
            remedy="bring the file back from where you keep a copy; `stele log --kind key` shows what it must say",
            code="trust.policy-missing",
        )
    try:
        return policies.default(PublicKey.from_pem(places.release_pub.read_bytes())), "release.pub"
    except FileNotFoundError as error:
        raise SteleError(
            f"{places.data} has no keys yet", remedy="run `stele init` (with the same --data) first", code="init.no-keys"
        ) from error


class Authority:
    """Adapter of the store's port `Judge`. The policy is read at each question, so that a revocation counts at once."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def known(self) -> Sequence[PublicKey]:
        """Every key of the policy (see the port)."""
        return tuple(key.public for key in in_force(self._places)[0].keys)

    def accept(self, workload: str, digest: str, keys: Sequence[PublicKey]) -> Counted:
        """Whether signatures by `keys` are enough (see the port)."""
        policy, source = in_force(self._places)
        if source != "root":
            changes = recorded.key_changes(self._places.ledger)
            _agree(policy, changes)
            _as_strict(policy, changes, workload)
        seen = recorded.Recorded({}, 0, "")
        if not policy.timeless:
            seen = recorded.signatures(self._places.ledger, workload, digest, policy.keys[0].id if policy.keys else "")
            if seen.origin != policy.ledger:  # also where there is none: a ledger that is gone does not make a retired key valid again
                raise other_ledger(policy, seen.origin)
        found = policies.decide(policy, workload, [key_id(key) for key in keys], seen.indexes, seen.size)
        if isinstance(found, Refused):
            raise SteleError(f"release {digest[:19]} is not accepted: {found.reason}", remedy=found.remedy, code=found.code)
        return Counted(found.keys, found.signers, sha256(policy.encode()))


def _agree(policy: Policy, changes: Sequence[tuple[int, dict[str, Any], str]]) -> None:
    """Refuse a policy that the ledger knows to be outdated: one from before a revocation or rotation that was recorded."""
    for index, data, kind in changes:
        key = policy.key(str(data.get("old" if kind == "key.rotated" else "key")))
        if key is None or kind not in {"key.rotated", "key.revoked"}:
            continue
        start = data.get("from")
        revoked = policy.revoked.get(key.id)
        ends = [item for item in (key.end if kind == "key.rotated" else None, revoked.start if revoked else None) if item is not None]
        if not isinstance(start, int) or not ends or min(ends) > start:
            raise SteleError(
                f"the trust policy is older than entry {index} of the ledger, by which the key {key.id[:12]} of {key.signer} was "
                f"{kind.partition('.')[2]}",
                remedy="bring the present file back; or leave that key out of it, or repeat `stele key revoke` or `rotate`",
                code="trust.policy-outdated",
            )


def _as_strict(policy: Policy, changes: Sequence[tuple[int, dict[str, Any], str]], workload: str) -> None:
    """Refuse a policy whose rule for the workload asks for less than `stele key require` recorded last: an old one, or lowered by hand."""
    asked: dict[str, tuple[int, Rule]] = {}  # by pattern, in the order of `policies.with_rule`: what is new comes first
    for index, data, kind in changes:
        pattern, threshold, signers = (data.get(name) for name in ("workloads", "threshold", "signers"))
        if kind == "key.required" and isinstance(pattern, str) and isinstance(threshold, int) and isinstance(signers, list):
            made = index, Rule(pattern, threshold, tuple(map(str, signers)))
            asked = {**asked, pattern: made} if pattern in asked else {pattern: made, **asked}
    index, wanted = next((item for item in asked.values() if item[1].matches(workload)), (0, None))
    rule = next((rule for rule in policy.rules if rule.matches(workload)), None)
    if wanted is None or rule is None or (rule.threshold >= wanted.threshold and set(rule.signers) <= set(wanted.signers)):
        return
    raise SteleError(
        f"the trust policy asks for {rule.threshold} of {', '.join(rule.signers)} for {workload}, and by entry {index} of the ledger "
        f"{wanted.threshold} of {', '.join(wanted.signers)} are needed for {wanted.pattern}",
        remedy="bring the present file back; or, if less shall be enough, say so with `stele key require`, which records it",
        code="trust.policy-outdated",
    )


def other_ledger(policy: Policy, origin: str) -> SteleError:
    """The error for a policy whose indexes mean nothing here."""
    return SteleError(
        f"the trust policy names indexes of the ledger {policy.ledger}, and {f'this is {origin}' if origin else 'there is no ledger here'}",
        remedy="indexes of one ledger mean nothing in another: bring the ledger back, or write the policy anew (docs/guide/keys.md)",
        code="trust.other-ledger",
    )
