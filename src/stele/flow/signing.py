"""Signing releases, and what the ledger is told of signatures and keys."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from stele.flow import opening, signers
from stele.model.signing import KEY_KINDS
from stele.seal.sign import sign_again
from stele.store import taking_back
from stele.trust.errors import SteleError
from stele.trust.policy import key_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stele.flow.places import Places
    from stele.flow.record import Recorder
    from stele.flow.signers import Ask
    from stele.model.event import Event
    from stele.store.layout import Layout

_KINDS = {"release.sealed", "release.signed", "release.pulled", "release.pushed"}


def sign(places: Places, name: str, *, key: str, ask: Ask, record: Callable[..., None]) -> dict[str, Any]:
    """Add a signature to a release in the store.

    Args:
        places: the data folder.
        name: of the release, which need not be acceptable yet; it must have a signature that holds, or none.
        key: see `signers.open_signer`.
        ask: gives passphrases and PINs.
        record: commits an event.

    Raises:
        SteleError: `store.*`, `trust.*`, `ledger.*`.
    """
    store = opening.open_store(places)
    release = store.find(name)
    signer = signers.open_signer(places, key, ask)
    # what is signed here is what is in the store: whoever signs should not have to believe what they did not check
    store.verify(release, signed=False)
    with contextlib.ExitStack() as visible:
        if signer.public.hint not in {one.hint for one in store.signing_keys(release.digest)}:
            visible.enter_context(store.adding())
            visible.enter_context(taking_back.published(store, sign_again(release, signer, store)))
        keys = keys_of(store, release.digest)
        record(release.workload, "release.signed", release=release.digest, keys=keys)
    found = {"release": release.digest, "workload": release.workload, "key": key_id(signer.public), "keys": keys}
    try:
        store.check_signature(release.digest)
    except SteleError as error:
        return {**found, "accepted": False, "lacks": error.reason}
    return {**found, "accepted": True, "lacks": ""}


def keys_of(store: Layout, digest: str) -> list[str]:
    """Ids of the policy's keys whose signatures of a release hold, sorted: what the ledger records."""
    return sorted(key_id(key) for key in store.signing_keys(digest))


def release_event(record: Recorder, store: Layout, name: str, kind: str, facts: Mapping[str, str]) -> Event:
    """The event of what another process did with a release of this store; the keys are looked up here, not believed.

    Raises:
        SteleError: `store.*`: the release is not there, or not signed by any key of the policy.
    """
    if kind not in _KINDS:
        kind = "release.sealed"
    release = store.find(name)
    if kind == "release.pushed":
        return record.event(release.workload, kind, release=release.digest, **facts)
    keys = keys_of(store, release.digest)
    if not keys:
        store.check_signature(release.digest)  # says why not
    tree = {} if kind == "release.signed" else {"tree": release.tree_digest}
    return record.event(release.workload, kind, release=release.digest, keys=keys, **tree, **facts)


def key_event(record: Recorder, kind: str, data: Any) -> Event:
    """The event of a change of the trust policy, from what another process says of it.

    Raises:
        SteleError: `api.bad-request`.
    """
    known = {"key": str, "old": str, "signer": str, "from": int, "reason": str, "policy": str}
    known |= {"workloads": str, "threshold": int, "signers": list}
    if (
        kind not in KEY_KINDS
        or not isinstance(data, dict)
        or not all(name in known and type(value) is known[name] for name, value in data.items())
        or not all(type(name) is str for name in data.get("signers", ()))
        or len(str(data)) > 4096
    ):
        raise SteleError("this is not a change of keys", remedy="use the stele command line of the same version", code="api.bad-request")
    return record.event("", kind, **data)
