"""Witness policies (C2SP tlog-policy): which logs, which witnesses, and how many of them must have cosigned. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from stele.trust import note
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

NONE = "none"  # the quorum of nobody
MAX_BYTES = 1 << 20
MAX_DEFINITIONS = 256  # of each kind; the specification wants 32
_OCTETS = re.compile(rb"[\x09\x0a\x20-\x7e\x80-\xff]*\Z")
_COUNT = re.compile(r"[1-9][0-9]{0,3}\Z", re.ASCII)
_COSIGNS = (note.COSIGNATURE, note.ML_DSA_44)


class Log(NamedTuple):
    """A log's key. `url`: "" if there is none."""

    verifier: note.Verifier
    url: str


class Witness(NamedTuple):
    """A witness's key, under the name by which groups call it. `url`: where it is asked, "" if that is not said."""

    name: str
    verifier: note.Verifier
    url: str


class Group(NamedTuple):
    """Has witnessed what `threshold` of its members (witnesses or groups) have."""

    name: str
    threshold: int
    members: tuple[str, ...]


class Policy(NamedTuple):
    """A policy. `quorum`: name of a witness or group, or `none`."""

    logs: tuple[Log, ...]
    witnesses: tuple[Witness, ...]
    groups: tuple[Group, ...]
    quorum: str

    @property
    def verifiers(self) -> tuple[note.Verifier, ...]:
        """The keys of all witnesses."""
        return tuple(witness.verifier for witness in self.witnesses)

    def met(self, cosigners: Collection[note.Verifier]) -> bool:
        """Whether cosignatures by these keys, which the caller has verified, are the quorum."""
        done = {NONE} | {witness.name for witness in self.witnesses if witness.verifier in cosigners}
        done |= _groups_of(self.groups, done)
        return self.quorum in done


NOBODY = Policy((), (), (), NONE)


def _groups_of(groups: Iterable[Group], done: set[str]) -> set[str]:
    """Groups that are met; each names only what was defined before it."""
    met: set[str] = set()
    for group in groups:
        if sum(member in done or member in met for member in group.members) >= group.threshold:
            met.add(group.name)
    return met


def bad(reason: str) -> SteleError:
    """The error for a policy that is none."""
    return SteleError(
        f"this is not a witness policy: {reason}",
        remedy="lines are log, witness, group and quorum as C2SP tlog-policy has them; docs/guide/witness.md has an example",
        code="witness.bad-policy",
    )


class Builder:
    """Takes the definitions of a policy line by line, in order; each may name only what came before."""

    def __init__(self) -> None:
        self.logs: list[Log] = []
        self.witnesses: list[Witness] = []
        self.groups: list[Group] = []
        self.quorum = ""
        self._members: set[str] = set()
        self._names: set[str] = {NONE}

    def log(self, vkey: str, url: str) -> None:
        """A log."""
        verifier = note.parse_vkey(vkey)
        if verifier.algorithm == note.COSIGNATURE:
            raise bad("a log's key is one of a witness")
        self._once(verifier, [log.verifier for log in self.logs])
        self.logs.append(Log(verifier, url))

    def witness(self, name: str, vkey: str, url: str) -> None:
        """A witness."""
        verifier = note.parse_vkey(vkey)
        if verifier.algorithm not in _COSIGNS:
            raise bad(f"the key of {name!r} is not one of a witness")
        self._once(verifier, self.policy_verifiers)
        self._define(name)
        self.witnesses.append(Witness(name, verifier, url))

    @property
    def policy_verifiers(self) -> list[note.Verifier]:
        """The witnesses' keys so far."""
        return [witness.verifier for witness in self.witnesses]

    def group(self, name: str, threshold: int, members: tuple[str, ...]) -> None:
        """A group."""
        if not 1 <= threshold <= len(members):
            raise bad(f"the group {name!r} wants {threshold} of {len(members)}")
        for member in members:
            if member not in self._names or member == NONE:
                raise bad(f"the group {name!r} names {member!r}, which is not defined before it")
            if member in self._members:
                raise bad(f"{member!r} is a member twice")
            self._members.add(member)
        self._define(name)
        self.groups.append(Group(name, threshold, members))

    def set_quorum(self, name: str) -> None:
        """The quorum."""
        if self.quorum:
            raise bad("it has two quorums")
        if name not in self._names:
            raise bad(f"its quorum {name!r} is not defined before it")
        self.quorum = name

    def build(self) -> Policy:
        """The policy."""
        if not self.quorum:
            raise bad("it has no quorum")
        return Policy(tuple(self.logs), tuple(self.witnesses), tuple(self.groups), self.quorum)

    def _define(self, name: str) -> None:
        if name in self._names:
            raise bad(f"the name {name!r} is defined twice")
        self._names.add(name)
        if len(self._names) > 2 * MAX_DEFINITIONS:
            raise bad("it is too long")

    def _once(self, verifier: note.Verifier, known: list[note.Verifier]) -> None:
        # the same key under another name is the same signer
        if len(known) >= MAX_DEFINITIONS or any(other.public == verifier.public for other in known):
            raise bad(f"the key of {verifier.name} is there twice, or there are too many keys")


def parse(data: bytes) -> Policy:
    """Parse a policy file.

    Names and URLs that are not UTF-8 come back with surrogates (PEP 383), so that different names stay different.

    Raises:
        SteleError: `witness.bad-policy`; `trust.bad-note`: a key is none.
    """
    if len(data) > MAX_BYTES or not _OCTETS.match(data):
        raise bad("it is too long, or has control characters")
    if data and not data.endswith(b"\n"):
        raise bad("its last line does not end")
    builder = Builder()
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        items = re.findall(r"[^ \t]+", line)
        if items and not items[0].startswith("#"):
            _take(builder, items)
    return builder.build()


def _take(builder: Builder, items: list[str]) -> None:
    kind, rest = items[0], items[1:]
    if kind == "log" and len(rest) in {1, 2}:
        builder.log(rest[0], rest[1] if len(rest) == 2 else "")
    elif kind == "witness" and len(rest) in {2, 3}:
        builder.witness(rest[0], rest[1], rest[2] if len(rest) == 3 else "")
    elif kind == "group" and len(rest) >= 3:
        members = tuple(rest[2:])
        builder.group(rest[0], _threshold(rest[1], len(members)), members)
    elif kind == "quorum" and len(rest) == 1:
        builder.set_quorum(rest[0])
    else:
        raise bad(f"a line begins with {kind!r} and has {len(rest)} more words")


def _threshold(text: str, count: int) -> int:
    if text in {"any", "all"}:
        return 1 if text == "any" else count
    if not _COUNT.match(text):
        raise bad(f"{text!r} is no number of members")
    return int(text)


def lines(policy: Policy) -> list[str]:
    """The witnesses, groups and quorum in one spelling, a line each, without URLs; nothing where nobody is asked."""
    if not policy.witnesses:
        return []
    out = [f"witness {witness.name} {witness.verifier.encode()}" for witness in policy.witnesses]
    out += [f"group {group.name} {group.threshold} {' '.join(group.members)}" for group in policy.groups]
    return [*out, f"quorum {policy.quorum}"]


def missing(policy: Policy, cosigners: Collection[note.Verifier], describe: Callable[[Witness], str] = lambda witness: witness.name) -> str:
    """Who has not cosigned, for the reader's eye."""
    return ", ".join(describe(witness) for witness in policy.witnesses if witness.verifier not in cosigners)
