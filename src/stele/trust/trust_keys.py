"""`trust.keys`: the keys that a verifier brings (docs/spec/trust-keys.md). One line a key, one spelling."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, NamedTuple

from cryptography.hazmat.primitives.serialization import Encoding

from stele.trust import note, quorum
from stele.trust import root as roots
from stele.trust.digest import digest_hex
from stele.trust.errors import SteleError
from stele.trust.release_key import PublicKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.trust.root import Root

HEADER = "stele-trust v1"
_WORD = re.compile(r"[!-~]+\Z")
_VERSION = re.compile(r"[1-9][0-9]{0,8}\Z", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)
_COUNT = re.compile(r"[1-9][0-9]{0,3}\Z", re.ASCII)


class Trust(NamedTuple):
    """Whom the verifier believes.

    `ledgers`: keys of ledgers. `releases`: who signs releases. `policy`: witnesses, and how many must have cosigned a checkpoint.
    `authorities`: DER certificates of timestamp authorities, or of those who vouch for them. `roots`: root documents, by name; where
    there is one of a ledger, the keys of that ledger are those that the documents from it on say, and no others.
    """

    ledgers: tuple[note.Verifier, ...]
    releases: tuple[PublicKey, ...]
    policy: quorum.Policy = quorum.NOBODY
    authorities: tuple[bytes, ...] = ()
    roots: tuple[roots.Pin, ...] = ()

    def root(self, origin: str, documents: Sequence[bytes]) -> Root | None:
        """The root of a ledger that documents lead to (docs/spec/root.md); None if no root of this ledger is trusted.

        Raises:
            SteleError: `trust.bad-root`, `trust.root-order`, `trust.root-unsigned`.
        """
        pin = next((pin for pin in self.roots if pin.origin == origin), None)
        return None if pin is None else roots.from_pin(documents, pin)

    @property
    def witnesses(self) -> tuple[note.Verifier, ...]:
        """The witnesses' keys."""
        return self.policy.verifiers


def _bad() -> SteleError:
    return SteleError(
        "this is not a trust file", remedy="use the trust.keys that `stele init` made, unaltered", code="trust.bad-trust-file"
    )


def encode(trust: Trust) -> bytes:
    """The file's bytes."""
    lines = [HEADER, *(f"ledger {key.encode()}" for key in trust.ledgers)]
    lines += [f"release {base64.b64encode(key.der).decode()}" for key in trust.releases]
    lines += quorum.lines(trust.policy)
    lines += [f"root {pin.origin} {pin.version} {digest_hex(pin.digest)}" for pin in trust.roots]
    lines += [f"tsa {base64.b64encode(der).decode()}" for der in trust.authorities]
    return ("\n".join(lines) + "\n").encode()


def parse(data: bytes) -> Trust:
    """Parse a trust file; needs at least one Ed25519 key of a ledger, and each key once.

    Raises:
        SteleError: `trust.bad-trust-file`, `trust.bad-note`, `trust.bad-key`, `witness.bad-policy`, `prove.no-keys`.
    """
    if len(data) > 1 << 20:
        raise _bad()
    try:
        lines = data.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise _bad() from error
    if len(lines) < 2 or lines[0] != HEADER or lines[-1] or len(set(lines)) != len(lines):
        raise _bad()
    ledgers: list[note.Verifier] = []
    releases: list[PublicKey] = []
    authorities: list[bytes] = []
    pins: list[roots.Pin] = []
    policy = quorum.Builder()
    for line in lines[1:-1]:
        kind, _, rest = line.partition(" ")
        if kind == "ledger":
            ledgers.append(_ledger(rest))
        elif kind == "release":
            releases.append(PublicKey.from_der(note.strict_base64(rest)))
        elif kind == "root":
            pins.append(_root(rest.split(" ")))
        elif kind == "tsa":
            authorities.append(certificate(note.strict_base64(rest)))
        else:
            _policy_line(policy, kind, rest.split(" "))
    if not pins and not any(key.algorithm == note.ED25519 for key in ledgers):
        raise SteleError(
            "the trust file names no root and no Ed25519 key of a ledger", remedy="bring the ledger's trust.keys", code="prove.no-keys"
        )
    origins = [pin.origin for pin in pins]
    # a ledger is believed by its root or by its keys: keys beside a root would be believed after they were revoked
    if bool(policy.quorum) != bool(policy.witnesses) or len(set(origins)) != len(origins) or {key.name for key in ledgers} & set(origins):
        raise _bad()
    quorum_ = policy.build() if policy.quorum else quorum.NOBODY
    return Trust(tuple(ledgers), tuple(releases), quorum_, tuple(authorities), tuple(pins))


def _root(words: list[str]) -> roots.Pin:
    if len(words) != 3 or not _WORD.match(words[0]) or not _VERSION.match(words[1]) or not _HEX.match(words[2]):
        raise _bad()
    return roots.Pin(words[0], int(words[1]), f"sha256:{words[2]}")


def _ledger(text: str) -> note.Verifier:
    verifier = note.parse_vkey(text)
    if verifier.algorithm == note.COSIGNATURE:
        raise _bad()
    return verifier


def _policy_line(policy: quorum.Builder, kind: str, words: list[str]) -> None:
    """One line of the policy; `quorum` comes last of them."""
    if not all(_WORD.match(word) for word in words) or policy.quorum:
        raise _bad()
    if kind == "witness" and len(words) == 2:
        policy.witness(words[0], words[1], "")
    elif kind == "group" and len(words) >= 3 and _COUNT.match(words[1]):
        policy.group(words[0], int(words[1]), tuple(words[2:]))
    elif kind == "quorum" and len(words) == 1:
        policy.set_quorum(words[0])
    else:
        raise _bad()


def certificate(der: bytes) -> bytes:
    """An X.509 certificate in DER, in its one encoding.

    Raises:
        SteleError: `trust.bad-key`.
    """
    from cryptography import x509  # a third of what reading a trust file takes, and few name an authority

    try:
        found = x509.load_der_x509_certificate(der)
        if found.public_bytes(Encoding.DER) == der:
            return der
    except ValueError:
        pass
    raise SteleError(
        "a timestamp authority's certificate cannot be read",
        remedy="give X.509 in DER or PEM, as its operator publishes it",
        code="trust.bad-key",
    )
