"""The verification policy (docs/spec/trust-policy.md): who must have signed what. Parsing, changing and deciding; pure."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING

import msgspec

from stele.trust.errors import SteleError
from stele.trust.note import strict_base64
from stele.trust.release_key import PublicKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HEADER = "stele-policy v0"
MAX_BYTES = 1 << 20
SIGNER = re.compile(r"[a-z0-9]([a-z0-9._-]{0,38}[a-z0-9])?\Z", re.ASCII)
_PATTERN = re.compile(r"[a-z0-9*-]{1,80}\Z", re.ASCII)
_NUMBER = re.compile(r"(0|[1-9][0-9]{0,17})\Z", re.ASCII)  # as the size of a checkpoint
_ID = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)
_ORIGIN = re.compile(r"[!-*,-~]{1,200}\Z", re.ASCII)


class Key(msgspec.Struct, frozen=True):
    """A signer's key, valid from ledger index `start` on, before `end` (None: without end)."""

    signer: str
    start: int
    end: int | None
    public: PublicKey

    @property
    def id(self) -> str:
        """SHA-256 of its SPKI DER, 64 hex digits."""
        return key_id(self.public)


class Revocation(msgspec.Struct, frozen=True):
    """From which index of recording on a key's signatures do not count, and why."""

    start: int
    reason: str


class Rule(msgspec.Struct, frozen=True):
    """Releases of workloads that match `pattern` need `threshold` of `signers`."""

    pattern: str
    threshold: int
    signers: tuple[str, ...]

    def matches(self, workload: str) -> bool:
        """Whether the workload's name matches. Linear: there is nothing in it that could be made to backtrack."""
        first, *rest = self.pattern.split("*")
        if not rest:
            return workload == self.pattern
        if not workload.startswith(first):
            return False
        at = len(first)
        for part in rest[:-1]:
            found = workload.find(part, at)
            if found < 0:
                return False
            at = found + len(part)
        return len(workload) - at >= len(rest[-1]) and workload.endswith(rest[-1])


class Policy(msgspec.Struct, frozen=True):
    """A policy as parsed. `lines`: the file's, comments included, so that changing it keeps them."""

    lines: tuple[str, ...]
    ledger: str
    keys: tuple[Key, ...]
    revoked: Mapping[str, Revocation]
    rules: tuple[Rule, ...]
    stop: bool = False  # instances of releases that are no longer acceptable

    def encode(self) -> bytes:
        """The file's bytes."""
        return "".join(line + "\n" for line in self.lines).encode("ascii")

    @property
    def timeless(self) -> bool:
        """Whether no index but 0 is named: then nothing depends on when a signature was recorded."""
        return not any(key.start or key.end is not None for key in self.keys) and not any(item.start for item in self.revoked.values())

    def key(self, wanted: str) -> Key | None:
        """The key with this id."""
        return next((key for key in self.keys if key.id == wanted), None)

    def valid(self, key: Key, index: int) -> str:
        """Why a signature by `key` that was recorded at `index` does not count; "" if it does."""
        revoked = self.revoked.get(key.id)
        if revoked is not None and index >= revoked.start:
            since = f" from index {revoked.start} on" if revoked.start else ""
            return f"the key {key.id[:12]} of {key.signer} is revoked{since}: {revoked.reason}"
        if index < key.start:
            return f"the key {key.id[:12]} of {key.signer} is valid from index {key.start} on, and its signature was recorded at {index}"
        if key.end is not None and index >= key.end:
            return f"the key {key.id[:12]} of {key.signer} was retired at index {key.end}, and its signature is of index {index}"
        return ""


class Accepted(msgspec.Struct, frozen=True):
    """By which rule a release is accepted: the signers and ids of the keys that counted, sorted."""

    rule: Rule
    signers: tuple[str, ...]
    keys: tuple[str, ...]


class Refused(msgspec.Struct, frozen=True):
    """Why a release is not accepted, and which of the codes of the spec that is."""

    code: str
    reason: str
    remedy: str


def key_id(public: PublicKey) -> str:
    """SHA-256 of the SPKI DER, 64 hex digits: how policies and events name a key."""
    return hashlib.sha256(public.der).hexdigest()


def decide(policy: Policy, workload: str, signed: Iterable[str], recorded: Mapping[str, int], size: int) -> Accepted | Refused:
    """Whether a release may be believed (docs/spec/trust-policy.md, What is decided).

    Args:
        policy: the policy.
        workload: whose release it is.
        signed: ids of the policy's keys whose signatures hold.
        recorded: by key id, the index at which the ledger first recorded that signature.
        size: of the ledger: the index of what would be recorded now.
    """
    rule = next((rule for rule in policy.rules if rule.matches(workload)), None)
    if rule is None:
        return Refused(
            "trust.no-rule",
            f"no rule of the trust policy is about the workload {workload}",
            "add a rule for it to keys/trust.policy, if it is to run here",
        )
    counted: dict[str, str] = {}
    why: dict[str, list[str]] = {"trust.key-revoked": [], "trust.key-not-valid": [], "trust.signer-not-allowed": []}
    for wanted in sorted(set(signed)):
        key = policy.key(wanted)
        if key is None:
            continue
        if reason := policy.valid(key, recorded.get(wanted, size)):
            why["trust.key-revoked" if wanted in policy.revoked and "is revoked" in reason else "trust.key-not-valid"].append(reason)
        elif key.signer not in rule.signers:
            why["trust.signer-not-allowed"].append(f"{key.signer} may not sign {workload}")
        else:
            counted[wanted] = key.signer
    signers = tuple(sorted(set(counted.values())))
    if len(signers) >= rule.threshold:
        return Accepted(rule, signers, tuple(counted))
    return _refused(rule, workload, signers, why)


def _refused(rule: Rule, workload: str, signers: tuple[str, ...], why: dict[str, list[str]]) -> Refused:
    found = "; ".join(reason for reasons in why.values() for reason in reasons)
    need = f"{workload} needs {rule.threshold} of {', '.join(rule.signers)}, and counted is {', '.join(signers) or 'nobody'}"
    code = next((code for code, reasons in why.items() if reasons), "trust.too-few-signers")
    if signers and code == "trust.signer-not-allowed":
        code = "trust.too-few-signers"
    missing = [name for name in rule.signers if name not in signers]
    remedies = {
        "trust.key-revoked": "if you know the release to be good, sign it again with a key that is valid: `stele sign`; else do not run it",
        "trust.key-not-valid": "sign the release with the signer's present key: `stele sign`; `stele key list` shows which that is",
        "trust.signer-not-allowed": f"have it signed by {' or '.join(missing)}: `stele sign`",
        "trust.too-few-signers": f"have it signed by {' or '.join(missing)} too: `stele sign`",
    }
    return Refused(code, (f"{need}; {found}" if found else need)[:2000], remedies[code])


def _bad(number: int, reason: str) -> SteleError:
    return SteleError(
        f"the trust policy is not valid, line {number}: {reason}",
        remedy="correct keys/trust.policy as docs/spec/trust-policy.md says; until then no release is accepted",
        code="trust.bad-policy",
    )


def parse(data: bytes) -> Policy:
    """Parse a policy.

    Raises:
        SteleError: `trust.bad-policy`.
    """
    if len(data) > MAX_BYTES:
        raise _bad(1, "it is larger than 1 MiB")
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise _bad(data[: error.start].count(b"\n") + 1, "it is not ASCII") from error
    lines = text.split("\n")
    if lines.pop() or not lines or lines[0] != HEADER:
        raise _bad(1, f"it does not begin with {HEADER!r} or does not end with a newline")
    reader = _Reader()
    for number, line in enumerate(lines[1:], 2):
        if not all(" " <= char <= "~" for char in line):
            raise _bad(number, "it holds a character that is not printable")
        if line and not line.startswith("#"):
            reader.take(number, line)
    return reader.finish(tuple(lines))


class _Reader:
    """What was read so far, and where."""

    def __init__(self) -> None:
        self.ledger = ""
        self.running = ""
        self.keys: dict[str, Key] = {}
        self.revoked: dict[str, Revocation] = {}
        self.rules: list[Rule] = []
        self.where: dict[str, int] = {}

    def take(self, number: int, line: str) -> None:
        fields = line.split(" ")
        if not all(fields):
            raise _bad(number, "its fields are not separated by one space")
        kind = fields.pop(0)
        if kind == "ledger" and len(fields) == 1 and _ORIGIN.match(fields[0]) and not self.ledger:
            self.ledger = fields[0]
        elif kind == "key" and len(fields) == 4:
            self._key(number, fields)
        elif kind == "revoke" and len(fields) >= 3 and _ID.match(fields[0]) and fields[0] not in self.revoked:
            reason = " ".join(fields[2:])
            if len(reason) > 200:
                raise _bad(number, "its reason is longer than 200 characters")
            self.revoked[fields[0]] = Revocation(_number(number, fields[1]), reason)
            self.where[fields[0]] = number
        elif kind == "running" and fields in (["stop"], ["report"]) and not self.running:
            self.running = fields[0]
        elif kind == "rule" and len(fields) >= 3:
            self._rule(number, fields)
        else:
            raise _bad(number, f"it is no ledger, key, revoke, rule or running of the format, or a second one: {line[:60]!r}")

    def _key(self, number: int, fields: list[str]) -> None:
        signer, start, end, text = fields
        if not SIGNER.match(signer):
            raise _bad(number, f"{signer[:60]!r} is not a signer's name")
        try:
            public = PublicKey.from_der(strict_base64(text))
        except SteleError as error:
            raise _bad(number, error.reason) from error
        key = Key(signer, _number(number, start), None if end == "-" else _number(number, end), public)
        if key.end is not None and key.end <= key.start:
            raise _bad(number, "the key would never be valid")
        if key.id in self.keys:
            raise _bad(number, "the key is named twice")
        self.keys[key.id] = key

    def _rule(self, number: int, fields: list[str]) -> None:
        pattern, threshold, signers = fields[0], _number(number, fields[1]), tuple(fields[2:])
        if not _PATTERN.match(pattern):
            raise _bad(number, f"{pattern[:60]!r} is not a name of workloads with `*`")
        if len(set(signers)) != len(signers):
            raise _bad(number, "a signer is named twice")
        if not 1 <= threshold <= len(signers):
            raise _bad(number, f"{threshold} of {len(signers)} signers is not possible")
        for signer in signers:
            self.where.setdefault(f"signer {signer}", number)
        self.rules.append(Rule(pattern, threshold, signers))

    def finish(self, lines: tuple[str, ...]) -> Policy:
        known = {key.signer for key in self.keys.values()}
        for rule in self.rules:
            for signer in rule.signers:
                if signer not in known:
                    raise _bad(self.where[f"signer {signer}"], f"the signer {signer[:60]!r} has no key")
        for wanted in self.revoked:
            if wanted not in self.keys:
                raise _bad(self.where[wanted], "it revokes a key that is not named")
        policy = Policy(lines, self.ledger, tuple(self.keys.values()), self.revoked, tuple(self.rules), self.running == "stop")
        if not policy.timeless and not self.ledger:
            raise _bad(1, "it names indexes, but not of which ledger")
        return policy


def _number(number: int, text: str) -> int:
    if not _NUMBER.match(text):
        raise _bad(number, f"{text[:40]!r} is not an index or number")
    return int(text)


# --- changing it; what comes out is parsed again, so that nothing is written that would not be read


def default(public: PublicKey, signer: str = "release") -> Policy:
    """The policy with which a data folder begins: its own key may sign everything."""
    return _again([HEADER, _key_line(signer, 0, None, public), f"rule * 1 {signer}"])


def with_key(policy: Policy, signer: str, public: PublicKey, start: int, origin: str) -> Policy:
    """A further key of a signer, who may be new. Signing counts only where a rule names the signer."""
    return _again([*_with_ledger(policy, origin if start else ""), _key_line(signer, start, None, public)])


def rotated(policy: Policy, old: Key, public: PublicKey, index: int, origin: str) -> Policy:
    """The new key is valid from `index` on, the old one before it."""
    was = _key_line(old.signer, old.start, old.end, old.public)
    lines = [_key_line(old.signer, old.start, index, old.public) if line == was else line for line in _with_ledger(policy, origin)]
    return _again([*lines, _key_line(old.signer, index, None, public)])


def revoked(policy: Policy, key: Key, index: int, reason: str, origin: str) -> Policy:
    """What was signed with the key counts only if it was recorded before `index`; an earlier revocation stays if it is stricter."""
    present = policy.revoked.get(key.id)
    if present is not None and present.start <= index:
        return policy
    lines = [line for line in _with_ledger(policy, origin if index else "") if not line.startswith(f"revoke {key.id} ")]
    return _again([*lines, f"revoke {key.id} {index} {reason}"])


def with_rule(policy: Policy, pattern: str, threshold: int, signers: tuple[str, ...]) -> Policy:
    """A rule in the place of the one with the same pattern; else before all others, because the first that matches counts."""
    line = f"rule {pattern} {threshold} {' '.join(signers)}"
    places = [number for number, text in enumerate(policy.lines) if text.startswith("rule ")]
    same = [number for number in places if policy.lines[number].split(" ")[1] == pattern]
    lines = list(policy.lines)
    if same:
        lines[same[0]] = line
    else:
        lines.insert(places[0] if places else len(lines), line)
    return _again(lines)


def _key_line(signer: str, start: int, end: int | None, public: PublicKey) -> str:
    return f"key {signer} {start} {'-' if end is None else end} {base64.b64encode(public.der).decode()}"


def _with_ledger(policy: Policy, origin: str) -> list[str]:
    if not origin or policy.ledger == origin:
        return list(policy.lines)
    return [policy.lines[0], f"ledger {origin}", *policy.lines[1:]]


def _again(lines: list[str]) -> Policy:
    """The policy that a change leads to; of one that would not be valid, nothing is changed."""
    try:
        return parse(("\n".join(lines) + "\n").encode("ascii", "replace"))
    except SteleError as error:
        reason = error.reason.removeprefix("the trust policy is not valid, ")
        raise SteleError(
            f"the trust policy would not be valid, {reason}; nothing was changed",
            remedy="ask for what is possible (docs/spec/trust-policy.md); `stele key list` shows the policy as it is",
            code=error.code,
        ) from error
