"""Whose signatures count in a data folder: its trust policy, joined with what its ledger recorded. The store's judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.ledger import recorded
from stele.store.signatures import Counted
from stele.trust import policy as policies
from stele.trust.digest import sha256
from stele.trust.errors import SteleError
from stele.trust.policy import Policy, Refused, key_id
from stele.trust.release_key import PublicKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.flow.places import Places


def read(places: Places) -> Policy:
    """The policy in force.

    Raises:
        SteleError: `trust.bad-policy`, `trust.policy-missing`, `init.no-keys`.
    """
    try:
        return policies.parse(places.policy.read_bytes())
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
        return policies.default(PublicKey.from_pem(places.release_pub.read_bytes()))
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
        return tuple(key.public for key in read(self._places).keys)

    def accept(self, workload: str, digest: str, keys: Sequence[PublicKey]) -> Counted:
        """Whether signatures by `keys` are enough (see the port)."""
        policy = read(self._places)
        indexes: dict[str, int] = {}
        size = 0
        if not policy.timeless:
            indexes, size, origin = recorded.signatures(self._places.ledger, workload, digest, policy.keys[0].id)
            if origin not in {policy.ledger, ""}:
                raise other_ledger(policy, origin)
        found = policies.decide(policy, workload, [key_id(key) for key in keys], indexes, size)
        if isinstance(found, Refused):
            raise SteleError(f"release {digest[:19]} is not accepted: {found.reason}", remedy=found.remedy, code=found.code)
        return Counted(found.keys, found.signers, sha256(policy.encode()))


def other_ledger(policy: Policy, origin: str) -> SteleError:
    """The error for a policy whose indexes mean nothing here."""
    return SteleError(
        f"the trust policy names indexes of the ledger {policy.ledger}, and this is {origin}",
        remedy="indexes of one ledger mean nothing in another: write the policy anew here (`stele key`), or use index 0 only",
        code="trust.other-ledger",
    )
