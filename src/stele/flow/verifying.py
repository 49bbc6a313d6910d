"""Verifying a release in the store in full; a module of its own, because it needs nothing of proofs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from stele.flow import opening

if TYPE_CHECKING:
    from stele.flow.places import Places


def verify_release(places: Places, reference: str) -> dict[str, Any]:
    """Check a release in the store in full: signature, every blob, every image.

    Raises:
        SteleError: `store.*`: which of them does not hold.
    """
    begun = time.monotonic_ns()
    store = opening.open_store(places)
    release = store.release(reference)
    checked = store.verify(release)
    return {"release": release.digest, **checked, "took_ns": time.monotonic_ns() - begun}
