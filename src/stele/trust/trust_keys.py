"""`trust.keys`: the keys that a verifier brings (docs/spec/trust-keys.md). One line a key, one spelling."""

from __future__ import annotations

import base64
from typing import NamedTuple

from stele.trust import note
from stele.trust.errors import SteleError
from stele.trust.release_key import PublicKey

HEADER = "stele-trust v1"


class Trust(NamedTuple):
    """Whom the verifier believes: ledgers, and signers of releases."""

    ledgers: tuple[note.Verifier, ...]
    releases: tuple[PublicKey, ...]


def encode(trust: Trust) -> bytes:
    """The file's bytes."""
    lines = [HEADER, *(f"ledger {key.encode()}" for key in trust.ledgers)]
    lines += [f"release {base64.b64encode(key.der).decode()}" for key in trust.releases]
    return ("\n".join(lines) + "\n").encode()


def parse(data: bytes) -> Trust:
    """Parse a trust file; needs at least one Ed25519 key of a ledger, and each key once.

    Raises:
        SteleError: `trust.bad-trust-file`, `trust.bad-note`, `trust.bad-key`, `prove.no-keys`.
    """
    bad = SteleError("this is not a trust file", remedy="use the trust.keys that `stele init` made, unaltered", code="trust.bad-trust-file")
    if len(data) > 1 << 20:
        raise bad
    try:
        lines = data.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise bad from error
    if len(lines) < 2 or lines[0] != HEADER or lines[-1] or len(set(lines)) != len(lines):
        raise bad
    ledgers: list[note.Verifier] = []
    releases: list[PublicKey] = []
    for line in lines[1:-1]:
        kind, _, rest = line.partition(" ")
        if kind == "ledger":
            ledgers.append(note.parse_vkey(rest))
            if ledgers[-1].algorithm == note.COSIGNATURE:
                raise bad
        elif kind == "release":
            releases.append(PublicKey.from_der(note.strict_base64(rest)))
        else:
            raise bad
    trust = Trust(tuple(ledgers), tuple(releases))
    if not any(key.algorithm == note.ED25519 for key in ledgers):
        raise SteleError("the trust file names no Ed25519 key of a ledger", remedy="bring the ledger's trust.keys", code="prove.no-keys")
    return trust
