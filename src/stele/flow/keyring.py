"""Keys of a data folder and its trust policy: making, protecting, adding, replacing, revoking. Each change is an entry of the ledger."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Any

import msgspec

from stele.flow import authority, signers
from stele.host import durable
from stele.host.key_service import ServiceSigner
from stele.ledger import recorded
from stele.trust import key_files, trust_keys
from stele.trust import policy as policies
from stele.trust.digest import sha256
from stele.trust.errors import SteleError
from stele.trust.policy import key_id
from stele.trust.release_key import PrivateKey, PublicKey

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stele.flow.places import Places
    from stele.flow.signers import Ask
    from stele.trust.policy import Key, Policy


class Ring(msgspec.Struct, frozen=True):
    """What a change of keys needs: the data folder, and `record(workload, kind, **data)`, which commits and publishes an event."""

    places: Places
    record: Callable[..., None]


def show(places: Places) -> dict[str, Any]:
    """The policy in force, for people."""
    policy, source = authority.in_force(places)
    keys = []
    for key in policy.keys:
        revoked = policy.revoked.get(key.id)
        path = signers.own_key(places, key.signer)
        keys.append(
            {
                "signer": key.signer,
                "key": key.id,
                "from": key.start,
                "until": key.end,
                "revoked": None if revoked is None else {"from": revoked.start, "reason": revoked.reason},
                "here": _held(path, key),
            }
        )
    rules = [{"workloads": rule.pattern, "threshold": rule.threshold, "signers": list(rule.signers)} for rule in policy.rules]
    return {"ledger": policy.ledger, "keys": keys, "rules": rules, "policy": sha256(policy.encode()), "by": source}


def _held(path: Path, key: Key) -> str:
    """Whether the private half is in this data folder, and how it is kept; "" if it is not."""
    try:
        if PublicKey.from_pem(path.with_suffix(".pub").read_bytes()) != key.public:
            return ""
        return "passphrase" if key_files.is_encrypted(path.read_bytes()) else "plain"
    except (OSError, SteleError):
        return ""


def generate(path: Path, passphrase: str | None) -> dict[str, Any]:
    """Make a key pair: `path` (mode 0600), and `.pub` beside it. Nothing is overwritten.

    Raises:
        SteleError: `trust.key-exists`.
    """
    key = PrivateKey.generate()
    public = path.with_suffix(".pub")
    if public.exists():
        raise _exists(public)
    if public == path:
        raise SteleError(
            f"{path} is the name of a public key", remedy="name another file: it gets the private key", code="trust.key-exists"
        )
    _write_new(path, _private(key, passphrase))
    durable.write(public, key.public.pem())
    return {"private": str(path), "public": str(public), "key": key_id(key.public)}


def _private(key: PrivateKey, passphrase: str | None) -> bytes:
    secret = signers.as_bytes(passphrase)
    return key.pem() if secret is None else key_files.encrypt(key.der(), secret, secrets.token_bytes(key_files.RANDOM_BYTES))


def _write_new(path: Path, data: bytes) -> None:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        raise SteleError(
            f"{path} cannot be written: {error.strerror}", remedy="name a folder that you may write to", code="trust.key-exists"
        ) from error
    durable.write(path, data, mode=0o600)


def _exists(path: Path) -> SteleError:
    return SteleError(f"{path} is there already", remedy="name another file: a key is never overwritten", code="trust.key-exists")


def protect(path: Path, ask: Ask, passphrase: str | None) -> dict[str, Any]:
    """Put a private key under a passphrase, or under another one; None: under none any more.

    Raises:
        SteleError: `trust.bad-key`, `trust.wrong-passphrase`, `trust.no-passphrase`, `trust.no-such-key`.
    """
    key = signers.read_private(path, ask)
    data = _private(key, passphrase)
    durable.write(path, data, mode=0o600)
    # a key must never be lost to a fault here: what is on disk is read once more
    again = key_files.load(path.read_bytes(), signers.as_bytes(passphrase))
    assert again.public == key.public
    return {"private": str(path), "key": key_id(key.public), "passphrase": passphrase is not None}


def public(places: Places, name: str, ask: Ask, output: Path | None) -> dict[str, Any]:
    """The public half of what would sign (`signers.open_signer`), written to `output` if that is given. Raises like it.

    With `uri` for a key of a key service: with the version that signs, where it has several.
    """
    signer = signers.open_signer(places, name, ask)
    found = signer.public
    if output is not None:
        durable.write(output, found.pem())
    uri = {"uri": signer.uri} if isinstance(signer, ServiceSigner) else {}
    return {"key": key_id(found), "public": found.pem().decode(), **uri}


def add(ring: Ring, signer: str, public: PublicKey) -> dict[str, Any]:
    """A further key of a signer, who may be new. Raises `trust.bad-policy`, `trust.rooted`, `ledger.*`."""
    with durable.alone(ring.places.keys):
        changed = policies.with_key(_own(ring.places), signer, public, 0, "")
        _write(ring.places, changed)
        facts = {"key": key_id(public), "signer": signer, "from": 0, "policy": sha256(changed.encode())}
        ring.record("", "key.added", **facts)
    return facts


def require(ring: Ring, pattern: str, threshold: int, names: tuple[str, ...]) -> dict[str, Any]:
    """The rule for workloads that match `pattern`; it takes the place of one with the same pattern, else comes first.

    Raises:
        SteleError: `trust.bad-policy`, `trust.rooted`, `ledger.*`.
    """
    with durable.alone(ring.places.keys):
        changed = policies.with_rule(_own(ring.places), pattern, threshold, names)
        _write(ring.places, changed)
        facts = {"workloads": pattern, "threshold": threshold, "signers": list(names), "policy": sha256(changed.encode())}
        ring.record("", "key.required", **facts)
    return facts


def rotate(ring: Ring, signer: str, public: PublicKey | None, passphrase: str | None) -> dict[str, Any]:
    """Replace a signer's present key by `public`, or by a new one, whose private half then lies in this data folder.

    What the ledger recorded of the old key before this moment still counts, nothing later. The old private key is removed.

    Raises:
        SteleError: `trust.no-such-key`, `trust.bad-policy`, `trust.rooted`, `ledger.*`.
    """
    with durable.alone(ring.places.keys):
        return _rotate(ring, signer, public, passphrase)


def _rotate(ring: Ring, signer: str, public: PublicKey | None, passphrase: str | None) -> dict[str, Any]:
    places = ring.places
    policy = _own(places)
    old = _present(policy, signer)
    index, origin = _now(ring)
    path = signers.own_key(places, signer)
    made = None if public is not None else PrivateKey.generate()
    new = made.public if made is not None else public
    assert new is not None
    changed = policies.rotated(policy, old, new, index, origin)
    if made is not None:
        durable.write(path.with_name(f"{path.name}.new"), _private(made, passphrase), mode=0o600)
    _write(places, changed)
    if made is not None:
        os.rename(path.with_name(f"{path.name}.new"), path)
        durable.write(path.with_suffix(".pub"), made.public.pem())
    elif _held(path, old):
        durable.write(path.with_suffix(".pub"), new.pem())
        durable.remove(path)
    facts = {"key": key_id(new), "old": old.id, "signer": signer, "from": index, "policy": sha256(changed.encode())}
    ring.record("", "key.rotated", **facts)
    return {**facts, "private": str(path) if made is not None else ""}


def revoke(ring: Ring, name: str, start: int | None, reason: str) -> dict[str, Any]:
    """Revoke a key, named by its id or the beginning of it: what it signed counts only if it was recorded before index `start`.

    Args:
        ring: where.
        name: the key's id, or 8 digits of it or more.
        start: an index of the ledger; 0: nothing it signed counts; None: from now on.
        reason: for the record.

    Raises:
        SteleError: `trust.no-such-key`, `trust.bad-policy`, `trust.rooted`, `ledger.*`.
    """
    with durable.alone(ring.places.keys):
        return _revoke(ring, name, start, reason)


def _revoke(ring: Ring, name: str, start: int | None, reason: str) -> dict[str, Any]:
    policy = _own(ring.places)
    found = [key for key in policy.keys if len(name) >= 8 and key.id.startswith(name)]
    if len(found) != 1:
        raise _no_such(f"no key of the policy, or more than one, has the id {name[:64]!r}")
    index, origin = _now(ring)
    if start is not None and start > index:
        raise _no_such(f"{start} is larger than the ledger, which has {index} entries")
    changed = policies.revoked(policy, found[0], index if start is None else start, reason, origin)
    _write(ring.places, changed)
    revoked = changed.revoked[found[0].id]
    facts = {"key": found[0].id, "signer": found[0].signer, "from": revoked.start, "reason": revoked.reason}
    ring.record("", "key.revoked", **facts, policy=sha256(changed.encode()))
    return facts


def _present(policy: Policy, signer: str) -> Key:
    keys = [key for key in policy.keys if key.signer == signer and key.end is None and key.id not in policy.revoked]
    # a revoked key may be replaced, too: the signer has no other
    keys = keys or [key for key in policy.keys if key.signer == signer and key.end is None]
    if len(keys) != 1:
        raise _no_such(f"the signer {signer[:40]!r} has {len(keys) or 'no'} present key{'s' if keys else ''}")
    return keys[0]


def _no_such(reason: str) -> SteleError:
    return SteleError(reason, remedy="`stele key list` shows signers, ids of keys and the rules", code="trust.no-such-key")


def _own(places: Places) -> Policy:
    """The policy, if this data folder may change it by itself."""
    policy, source = authority.in_force(places)
    if source == "root":
        raise SteleError(
            f"who signs releases is said by the root of trust of {places.data}, not by keys/trust.policy",
            remedy="propose a new root document with other keys: `stele trust propose`",
            code="trust.rooted",
        )
    return policy


def _now(ring: Ring) -> tuple[int, str]:
    """The size of the published ledger and its name; an empty one gets its first entry."""
    reader = recorded.open_reader(ring.places.ledger)
    if reader is None:
        ring.record("", "heartbeat")
        reader = recorded.open_reader(ring.places.ledger)
        assert reader is not None
    return reader.size, reader.checkpoint.origin


def _write(places: Places, policy: Policy) -> None:
    """The policy, and what verifiers get of it. The policy is first: a revocation holds even if nothing more is written."""
    durable.write(places.policy, policy.encode())
    trust = trust_keys.parse(places.trust.read_bytes())
    releases = tuple(key.public for key in policy.keys if key.id not in policy.revoked)
    durable.write(places.trust, trust_keys.encode(trust._replace(releases=releases)))
