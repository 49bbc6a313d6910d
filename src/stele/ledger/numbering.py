"""Events become entries: each gets its place in its workload's chain, and its bytes. Nothing is counted in here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stele.ledger import erasing
from stele.ledger.edge import Placed
from stele.ledger.wal import MAX_ENTRY
from stele.model import private
from stele.model.event import Entry, spell
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stele.ledger.edge import Edge
    from stele.model.event import Event

Heads = dict[str, tuple[int, str]]  # workload → entries so far, digest of the last


class Committed(msgspec.Struct, frozen=True, gc=False):
    """Where an event stands in the log (`at`, from 0). It is in the WAL and fdatasync has returned."""

    at: int
    entry: Entry


def place(events: Sequence[Event], edge: Edge, heads: Heads, random: Callable[[int], bytes]) -> list[Placed]:
    """The entries of events that follow `edge`, and after those `heads`, which are moved on; if one is refused they stay.

    `random` gives so many unpredictable bytes, for salts.

    Raises:
        SteleError: `ledger.entry-too-large`, `ledger.bad-entry`, `ledger.bad-map`, `trust.not-canonical`.
    """
    mine: Heads = {}
    placed = []
    for event in events:
        name = event.workload
        known = mine.get(name) or heads.get(name)
        if known is None:
            chain = edge.chains.get(name)
            known = chain.count, chain.head
        seq, prev = known
        kind = event.kind
        if event.private or kind in private.PRIVATE or private.PERSON in event.data:
            sealed, opening = _seal(event, edge.size, random)
            entry = Entry(event=event, seq=seq, prev=prev, sealed=sealed)
        else:
            opening, entry = b"", Entry(event=event, seq=seq, prev=prev)
        raw = spell(entry)
        if len(raw) > MAX_ENTRY:
            raise SteleError(
                f"an event of kind {kind} is {len(raw)} bytes, more than an entry holds ({MAX_ENTRY})",
                remedy="record digests of documents, not documents",
                code="ledger.entry-too-large",
            )
        digest = sha256(raw)
        mine[name] = seq + 1, digest
        placed.append(Placed(raw, entry, digest, opening))
    heads.update(mine)
    return placed


def _seal(event: Event, size: int, random: Callable[[int], bytes]) -> tuple[dict[str, str], bytes]:
    if event.kind in private.PRIVATE or private.PERSON in event.data:
        private.refuse_bare(event)
        if event.kind == erasing.KIND:
            erasing.refuse_malformed(event, size)
    if not event.private:
        return {}, b""
    return private.seal(event.private, random(private.SALT * len(event.private)))
