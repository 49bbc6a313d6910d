"""Making the keys of a data folder, and the starter files of a project."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from stele.host import durable
from stele.ledger import recorded
from stele.trust import note, policy, trust_keys
from stele.trust.release_key import PrivateKey, PublicKey

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stele.flow.places import Places


def make_keys(places: Places) -> list[str]:
    """Make the keys that are not there yet; returns the names of those made. Existing keys are never replaced.

    `release.key` signs releases, `ledger.key` checkpoints, `host.key` evidence. `trust.keys` is for verifiers.
    """
    durable.make_dirs(places.data)
    durable.make_dirs(places.keys, 0o700)
    made = []
    if not places.release_key.exists() and not places.policy.exists():  # a lost key is replaced by `stele key rotate`
        durable.write(places.release_key, PrivateKey.generate().pem(), mode=0o600)
        made.append(places.release_key.name)
    if not places.host_key.exists():
        durable.write(places.host_key, PrivateKey.generate().pem(), mode=0o600)
        made.append(places.host_key.name)
    if not places.ledger_key.exists() and not places.root.exists():
        # a random origin: two ledgers never share a name, so nobody mistakes one for the other
        signer = note.Signer.generate(f"stele.invalid/{secrets.token_hex(8)}")
        durable.write(places.ledger_key, signer.pem(), mode=0o600)
        made.append(places.ledger_key.name)
    if not places.release_pub.exists():  # the private half may need a passphrase, or be elsewhere
        durable.write(places.release_pub, PrivateKey.from_pem(places.release_key.read_bytes()).public.pem())
    release = PublicKey.from_pem(places.release_pub.read_bytes())
    ledgers = () if places.root.exists() else note.Signer.from_pem(places.ledger_key.read_bytes()).verifiers
    durable.write(places.host_pub, PrivateKey.from_pem(places.host_key.read_bytes()).public.pem())
    if not places.policy.exists() and not recorded.key_changes(places.ledger):
        durable.write(places.policy, policy.default(release).encode())
    trust = trust_keys.Trust(ledgers, (release,))
    if places.trust.exists():  # witnesses and authorities were added since
        old = trust_keys.parse(places.trust.read_bytes())
        trust = trust._replace(policy=old.policy, authorities=old.authorities, roots=old.roots, releases=old.releases or trust.releases)
    durable.write(places.trust, trust_keys.encode(trust))
    return made


def write_new(folder: Path, texts: Mapping[str, str]) -> list[str]:
    """Write files that are not there yet; returns the paths of those written."""
    written = []
    for name, text in texts.items():
        try:
            fd = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            continue
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
        written.append(str(folder / name))
    return written
