"""Where releases came from and went to, as the ledger has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.flow import reading
from stele.model import reference as references
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.flow.places import Places
    from stele.model.reference import Reference


def known(places: Places) -> tuple[dict[str, list[Reference]], list[str]]:
    """From the ledger: where each release was pulled from or pushed to, the newest first; and releases in the order they came."""
    found: dict[str, list[Reference]] = {}
    order: dict[str, None] = {}
    for _, entry in reading.entries(places):
        event = entry.event
        digest = event.data.get("release")
        if event.kind not in {"release.sealed", "release.pulled", "release.pushed"} or not isinstance(digest, str):
            continue
        order.pop(digest, None)
        order[digest] = None
        text = event.data.get("origin") or event.data.get("to")
        try:
            if isinstance(text, str):
                found.setdefault(digest, []).insert(0, references.parse(text))
        except SteleError:
            continue
    return found, list(order)
