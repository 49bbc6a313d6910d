"""Events: what stages return and only `flow` appends to the ledger (docs/spec/event.md, version 1)."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from stele.trust import canonical
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

# Every kind of event, in the order in which a workload usually meets them.
KINDS = {
    "workload.created": "a workload's name is first used",
    "release.sealed": "a release was sealed and signed",
    "release.pushed": "a release was copied to a registry",
    "release.pulled": "a release was brought from a registry; its signature held",
    "release.signed": "a further signature of a release was added",
    "release.admitted": "a release's signature and strata were verified for running",
    "deploy.started": "a change of release begins",
    "instance.starting": "an instance is about to be created (log before run)",
    "instance.started": "an instance's first process runs",
    "instance.healthy": "an instance passed its health check",
    "instance.active": "the published ports lead to this instance",
    "instance.draining": "an instance gets no new connections",
    "instance.stopped": "an instance ended",
    "instance.failed": "an instance ended or became unhealthy by itself",
    "deploy.confirmed": "the release stayed healthy for its confirm window: it is now last known good",
    "deploy.failed": "a change of release did not succeed",
    "release.quarantined": "a release will not be chosen again by itself",
    "release.pardoned": "an operator lifted a release's quarantine",
    "rollback.decided": "a return to an earlier release was decided, by a person or by itself",
    "violation": "the gate, sensor or sweeper saw drift or an attempt at it",
    "write.refused": "writes to the sealed root were refused by the kernel",
    "change.observed": "something changed on a declared writable path",
    "instance.frozen": "an instance was frozen as it was",
    "network.cut": "a frozen instance's network was cut",
    "incident.resolved": "a clean instance serves in place of the frozen one",
    "incident.unresolved": "no clean instance could take over",
    "evidence.sealed": "an evidence bundle was completed and signed",
    "evidence.failed": "evidence could not be collected; the instance stays frozen",
    "evidence.evicted": "a bundle was dropped to keep the evidence budget; its root stays here",
    "evidence.accessed": "somebody read or exported evidence (custody)",
    "quarantine.released": "a frozen instance was released by an operator: its memory is gone",
    "key.added": "a key was added to the trust policy",
    "key.required": "it was said how many of which signers releases of some workloads need",
    "key.rotated": "a signer's key was replaced by a new one",
    "key.revoked": "a key was revoked",
    "release.lapsed": "what runs is no longer accepted by the trust policy",
    "release.reinstated": "what runs is accepted by the trust policy again",
    "trust.root": "the ledger has a new root of trust: who may sign its checkpoints and releases, by a threshold of holders",
    "store.removing": "files of the store that nothing needs are about to be removed",
    "store.repairing": "what a check of the store found is about to be mended",
    "store.repaired": "what a repair of the store mended, and what it could not",
    "watcher.lost": "a watcher died or overflowed; what it would have seen in between is unknown",
    "watcher.restored": "a watcher watches again",
    "hold.placed": "something must be kept: nothing of it may be redacted, evicted or let go of",
    "hold.released": "an operator ended a hold",
    "log.redacted": "private fields of earlier entries are erased: their salts and values, not their commitments",
    "agent.started": "the agent began to supervise",
    "agent.stopped": "the agent ended in good order",
    "heartbeat": "the agent was alive",
    "ledger.restored": "the ledger had been read-only, because it did not fit, and fits again (written by the ledger itself)",
    "witness.behind": "a witness named fewer entries than it had cosigned: it was set back, or lies",
    "epoch": "a commitment to the latest entry of every workload (written by the ledger itself)",
}

HOST_WORKLOAD = ""  # events of the host itself, not of a workload
ROLES = ("agent", "ledger", "operator")  # who acts, in clear; which person is private


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):  # plain data has no cycles
    """One thing that happened. `time_ns`: UTC nanoseconds since 1970 by the host's clock. `actor`: one of ROLES.

    `data`: plain data, in the log in clear. `private`: plain data to which the log only commits (`stele.model.private`); of an event
    that was read, what could be opened.
    """

    workload: str
    kind: str
    time_ns: int
    actor: str
    data: dict[str, Any] = {}
    private: dict[str, Any] = {}

    def facts(self) -> dict[str, Any]:
        """All that is known of it: `data` and `private`."""
        return {**self.data, **self.private} if self.private else self.data


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event in its place: `seq` within its workload from 0, `prev` the digest of that workload's previous entry.

    `sealed`: private field to commitment, lower-case hex.
    """

    event: Event
    seq: int
    prev: str
    sealed: dict[str, str] = {}

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        event = self.event
        return {
            "v": VERSION,
            "workload": event.workload,
            "seq": self.seq,
            "prev": self.prev,
            "kind": event.kind,
            "time_ns": event.time_ns,
            "actor": event.actor,
            "data": event.data,
            "sealed": self.sealed,
        }

    def opened(self, private: dict[str, Any]) -> Entry:
        """The same entry with what its commitments were found to be of."""
        return msgspec.structs.replace(self, event=msgspec.structs.replace(self.event, private=private))

    def encode(self) -> bytes:
        """Canonical bytes: the leaf data of the log, at most 65,535 bytes."""
        event, made = self.event, None
        if (
            type(self.seq) is int
            and type(event.time_ns) is int
            and isinstance(event.data, dict)
            and 0 <= self.seq <= canonical.MAX_SAFE_INT
            and 0 <= event.time_ns <= canonical.MAX_SAFE_INT
            and str is type(event.actor) is type(event.kind) is type(self.prev) is type(event.workload)
        ):
            made = _encode(self)
        return canonical.encode(self.plain()) if made is None else made

    def digest(self) -> str:
        """`sha256:<hex>` of `encode()`; the next entry's `prev`."""
        return sha256(self.encode())


class _Record(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """An entry's fields as they are spelled: what msgspec makes and reads at once, where it is sure to be right."""

    actor: str
    data: dict[str, Any]
    kind: str
    prev: str
    sealed: dict[str, str]
    seq: int
    time_ns: int
    v: int
    workload: str


_READER = msgspec.json.Decoder(_Record)


def _encode(entry: Entry) -> bytes | None:
    """The canonical bytes of one whose fields are all of their types and within their bounds; None if they must be made the long way."""
    event, sealed = entry.event, entry.sealed
    canonical.check(event.data, 1)
    if sealed:
        canonical.check(sealed, 1)
    record = _Record(event.actor, event.data, event.kind, entry.prev, sealed, entry.seq, event.time_ns, VERSION, event.workload)
    return canonical.encode_record(record)


def spell(entry: Entry) -> bytes:
    """The bytes of an entry that is to be written: what could not be read back must not be.

    Raises:
        SteleError: `ledger.bad-entry`, `trust.not-canonical`.
    """
    check(entry)
    short = entry.seq <= canonical.MAX_SAFE_INT >= entry.event.time_ns
    return (_encode(entry) if short else None) or entry.encode()


LATEST_NS = 1 << 62  # stamps end in 2116: an epoch is stamped later than all before it, and must have room to
NO_PREVIOUS = ""  # `prev` of a workload's first entry
VERSION = 1
_FIELDS = {"v", "workload", "seq", "prev", "kind", "time_ns", "actor", "data", "sealed"}
FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_COMMITMENT = re.compile(r"[0-9a-f]{64}", re.ASCII)


def decode_entry(data: bytes, *, any_kind: bool = False) -> Entry:
    """Decode a log entry; only the canonical spelling with exactly the known fields is accepted. `any_kind`: unknown kinds, too.

    Raises:
        SteleError: `trust.not-canonical`, `ledger.bad-entry`.
    """
    found = canonical.decode_record(data, _READER)
    if found is None or found.v != VERSION or found.seq > canonical.MAX_SAFE_INT or found.time_ns > canonical.MAX_SAFE_INT:
        return from_plain(canonical.decode(data), any_kind=any_kind)
    canonical.check(found.data, 1)
    event = Event(workload=found.workload, kind=found.kind, time_ns=found.time_ns, actor=found.actor, data=found.data)
    entry = Entry(event=event, seq=found.seq, prev=found.prev, sealed=found.sealed)
    check(entry, any_kind=any_kind)
    return entry


def from_plain(raw: Any, *, any_kind: bool = False) -> Entry:
    """The entry of plain data with exactly the known fields.

    Raises:
        SteleError: `ledger.bad-entry`.
    """
    if not isinstance(raw, dict) or raw.keys() != _FIELDS or raw["v"] != VERSION or isinstance(raw["v"], bool):
        raise _malformed()
    event = Event(workload=raw["workload"], kind=raw["kind"], time_ns=raw["time_ns"], actor=raw["actor"], data=raw["data"])
    entry = Entry(event=event, seq=raw["seq"], prev=raw["prev"], sealed=raw["sealed"])
    check(entry, any_kind=any_kind)
    return entry


def check(entry: Entry, *, any_kind: bool = False) -> None:
    """Refuse an entry that would not read back: each field of its type, and within its bounds.

    Raises:
        SteleError: `ledger.bad-entry`.
    """
    event, sealed = entry.event, entry.sealed
    if not (
        isinstance(event.workload, str)
        and isinstance(entry.prev, str)
        and isinstance(event.kind, str)
        and isinstance(event.actor, str)
        and isinstance(event.data, dict)
        and isinstance(sealed, dict)
        and type(entry.seq) is int
        and type(event.time_ns) is int
        and entry.seq >= 0
        and event.time_ns >= 0
        and (event.kind in KINDS or any_kind)
        and (event.time_ns < LATEST_NS or event.kind == "epoch")
    ):
        raise _malformed()
    if sealed:
        if not sealed.keys().isdisjoint(event.data):
            raise _malformed()
        for name, value in sealed.items():
            if not FIELD_NAME.fullmatch(name) or not isinstance(value, str) or not _COMMITMENT.fullmatch(value):
                raise _malformed()


def _malformed() -> SteleError:
    return SteleError(
        "a ledger entry is malformed", remedy="the ledger or proof is damaged; compare with another copy", code="ledger.bad-entry"
    )
