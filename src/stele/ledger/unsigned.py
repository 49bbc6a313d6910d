"""Reading a log for the root documents that are to say whose signature of it counts: so far nobody's does, and it may never end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.model.signing import ROOT_KIND
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stele.ledger.published import Published

MOST_ENTRIES = 1 << 24
MOST_BYTES = 1 << 34
MOST_KEPT = 1 << 26  # bytes of root documents
_MARK = f'"kind":"{ROOT_KIND}"'.encode()


def entries(published: Published, begin: int, vouched: Callable[[], bool]) -> Iterator[tuple[int, bytes]]:
    """Index and bytes of the entries from `begin` on, each checked against the root that the checkpoint names.

    vouched: whether what was found so far leads to a trusted signature of that checkpoint; then there is no bound.

    Raises:
        SteleError: `trust.endless`, and what `Published.entries` raises.
    """
    free, count, size, kept = vouched(), 0, 0, 0
    for index, raw in published.entries(begin, published.size):
        count, size, kept = count + 1, size + len(raw), kept + (len(raw) if _MARK in raw else 0)
        if not free and (count > MOST_ENTRIES or size > MOST_BYTES or kept > MOST_KEPT):
            free = vouched()
            if not free:
                raise SteleError(
                    f"in {count - 1} entries of the log at hand nothing leads from the root that you trust to a signature of it",
                    remedy="whoever serves it may make it up as you read; if it is yours, put its keys into the trust file, too",
                    code="trust.endless",
                )
        yield index, raw
