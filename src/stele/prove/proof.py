"""Building a proof from a ledger's entries and the evidence of the releases that ran (docs/spec/proof.md)."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from stele.model import history
from stele.model.event import HOST_WORKLOAD, Entry, decode_entry
from stele.prove.verify import FORMAT, releases_named
from stele.trust import canonical, merkle
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stele.trust.note import Checkpoint


class ReleaseEvidence(NamedTuple):
    """What shows that a release is what was signed: its manifest, config, and signed statement."""

    manifest: bytes
    config: bytes
    payload: bytes
    signature: bytes


class Place(Protocol):
    """Where a workload's chain stands: entries, digest of the last, digest of their facts; and what proves it."""

    @property
    def count(self) -> int:
        """Entries; 0 if the map does not name it."""

    @property
    def head(self) -> str:
        """Digest of the last."""

    @property
    def facts(self) -> str:
        """Digest of what they make."""

    @property
    def path(self) -> Sequence[bytes]:
        """Hashes beside its path in the map, from the root on."""


class Log(Protocol):
    """A published ledger to read from."""

    note: bytes
    checkpoint: Checkpoint

    @property
    def size(self) -> int:
        """Entries under the checkpoint."""

    def raw_entries(self, begin: int, end: int) -> Iterator[bytes]:
        """Entries as bytes."""

    def inclusion(self, index: int) -> list[bytes]:
        """Audit path of one."""

    def place(self, workload: str) -> Place:
        """Where a workload's chain stands by the last epoch's map."""

    def chain(self, workload: str, count: int) -> Iterator[tuple[int, bytes]]:
        """Index and bytes of the first `count` entries of a workload."""


def build(log: Log, workload: str, at_ns: int, evidence: Callable[[str], ReleaseEvidence]) -> bytes:
    """The proof file's bytes.

    Args:
        log: a published ledger.
        workload: whose state is asked.
        at_ns: the instant, UTC nanoseconds; 0 for the newest that the ledger covers.
        evidence: gives what belongs to a release digest.

    Raises:
        SteleError: `prove.unknown-workload`, `prove.not-covered`, `ledger.damaged`.
    """
    place = log.place(workload)
    if workload == HOST_WORKLOAD or not place.count:
        raise SteleError(
            f"the ledger knows no workload {workload!r}",
            remedy="`stele log` shows the names; proofs of absence are not made yet",
            code="prove.unknown-workload",
        )
    (epoch,) = log.raw_entries(log.size - 1, log.size)
    mine = [(index, raw, decode_entry(raw)) for index, raw in log.chain(workload, place.count)]
    events = [entry.event for _, _, entry in mine]
    end_ns = max(decode_entry(epoch).event.time_ns, history.reached_ns(events))
    at_ns = at_ns or end_ns
    if at_ns > end_ns:
        raise SteleError("the ledger does not reach that instant yet", remedy="give an instant that has passed", code="prove.not-covered")
    inmap = {"count": place.count, "head": place.head, "facts": place.facts, "path": _hexes(place.path)}
    return _encode(log, at_ns, mine, inmap, epoch, history.at(workload, events, at_ns), evidence)


def _audit(log: Log, index: int, raw: bytes) -> list[str]:
    """The audit path of an entry. A proof that would not hold is not made."""
    path = log.inclusion(index)
    if merkle.root_from_inclusion(index, log.size, merkle.leaf_hash(raw), path) != log.checkpoint.root:
        raise SteleError(
            f"entry {index} of the ledger is not the one that was signed",
            remedy="the ledger is damaged or was altered: `stele log check` says where; compare with another copy",
            code="ledger.damaged",
        )
    return _hexes(path)


def _hexes(path: Sequence[bytes]) -> list[str]:
    return [item.hex() for item in path]


def _encode(
    log: Log,
    at_ns: int,
    mine: list[tuple[int, bytes, Entry]],
    inmap: dict[str, Any],
    epoch: bytes,
    state: history.WorkloadState,
    evidence: Callable[[str], ReleaseEvidence],
) -> bytes:
    releases = []
    for digest in releases_named(state):
        found = evidence(digest)
        releases.append(
            {
                "manifest": found.manifest.decode(),
                "config": found.config.decode(),
                "payload": found.payload.decode(),
                "signature": base64.b64encode(found.signature).decode(),
            }
        )
    plain: dict[str, Any] = {
        "format": FORMAT,
        "claim": {"workload": state.workload, "at_ns": at_ns},
        "checkpoint": log.note.decode(),
        "epoch": {"entry": epoch.decode(), "path": _audit(log, log.size - 1, epoch)},
        "map": inmap,
        "entries": [{"index": index, "entry": raw.decode(), "path": _audit(log, index, raw)} for index, raw, _ in mine],
        "releases": releases,
    }
    return canonical.encode({**plain, "sum": sha256(canonical.encode(plain))}) + b"\n"
