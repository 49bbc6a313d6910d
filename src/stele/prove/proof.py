"""Building a proof from a ledger's entries and the evidence of the releases that ran (docs/spec/proof.md)."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from stele.model import history
from stele.model.epochmap import map_inclusion
from stele.model.event import HOST_WORKLOAD, Entry, decode_entry
from stele.prove.verify import FORMAT, releases_named
from stele.trust import canonical
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class ReleaseEvidence(NamedTuple):
    """What shows that a release is what was signed: its manifest, config, and signed statement."""

    manifest: bytes
    config: bytes
    payload: bytes
    signature: bytes


class Log(Protocol):
    """A published ledger to read from."""

    note: bytes

    @property
    def size(self) -> int:
        """Entries under the checkpoint."""

    def raw_entries(self, begin: int, end: int) -> Iterator[bytes]:
        """Entries as bytes."""

    def inclusion(self, index: int) -> list[bytes]:
        """Audit path of one."""


def build(log: Log, workload: str, at_ns: int, evidence: Callable[[str], ReleaseEvidence]) -> bytes:
    """The proof file's bytes.

    Args:
        log: a published ledger.
        workload: whose state is asked.
        at_ns: the instant, UTC nanoseconds; 0 for the newest that the ledger covers.
        evidence: gives what belongs to a release digest.

    Raises:
        SteleError: `prove.unknown-workload`, `prove.not-covered`.
    """
    raws = list(log.raw_entries(0, log.size))
    heads: dict[str, tuple[int, str]] = {}
    mine: list[tuple[int, bytes, Entry]] = []
    last: Entry | None = None
    for index, raw in enumerate(raws):
        entry = decode_entry(raw)
        if index < log.size - 1:
            heads[entry.event.workload] = (entry.seq + 1, entry.digest())
        if entry.event.workload == workload and workload != HOST_WORKLOAD:
            mine.append((index, raw, entry))
        last = entry
    if not mine or last is None:
        raise SteleError(
            f"the ledger knows no workload {workload!r}",
            remedy="`stele log` shows the names; proofs of absence are not made yet",
            code="prove.unknown-workload",
        )
    at_ns = at_ns or last.event.time_ns
    if at_ns > last.event.time_ns:
        raise SteleError("the ledger does not reach that instant yet", remedy="give an instant that has passed", code="prove.not-covered")
    state = history.start(workload)
    for _, _, entry in mine:
        if entry.event.time_ns > at_ns:
            break
        state = history.advance(state, entry.event)
    index, path = map_inclusion(heads, workload)
    count, head = heads[workload]
    return _encode(log, at_ns, mine, {"index": index, "count": count, "head": head, "path": _hexes(path)}, raws[-1], state, evidence)


def _hexes(path: list[bytes]) -> list[str]:
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
        "epoch": {"entry": epoch.decode(), "path": _hexes(log.inclusion(log.size - 1))},
        "map": inmap,
        "entries": [{"index": index, "entry": raw.decode(), "path": _hexes(log.inclusion(index))} for index, raw, _ in mine],
        "releases": releases,
    }
    return canonical.encode({**plain, "sum": sha256(canonical.encode(plain))}) + b"\n"
