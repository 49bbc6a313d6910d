"""Proving and verifying: proof files, and releases in the store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from stele.flow import opening
from stele.flow.times import parse_instant
from stele.host import durable
from stele.ledger.reader import LedgerReader
from stele.prove import proof
from stele.prove import verify as verifier
from stele.trust import trust_keys

if TYPE_CHECKING:
    from pathlib import Path

    from stele.flow.places import Places


def prove(places: Places, workload: str, at: str, output: Path) -> dict[str, Any]:
    """Write the proof of what a workload ran at an instant ("" for the newest that the published ledger covers).

    Raises:
        SteleError: `prove.*`, `ledger.*`, `store.*`.
    """
    begun = time.monotonic_ns()
    store = opening.open_store(places)

    def evidence(digest: str) -> proof.ReleaseEvidence:
        manifest, config, payload, signature = store.evidence(digest)
        return proof.ReleaseEvidence(manifest, config, payload, signature)

    data = proof.build(LedgerReader(places.ledger), workload, parse_instant(at) if at else 0, evidence)
    durable.write(output, data)
    return {"file": str(output), "bytes": len(data), "took_ns": time.monotonic_ns() - begun}


def verify_file(path: Path, trust: Path | None) -> dict[str, Any]:
    """Check a proof file against the keys that the verifier brings. Needs nothing else: no store, ledger, agent or network.

    Raises:
        SteleError: `prove.*`, `trust.*`: it does not hold.
    """
    keys = trust_keys.parse(trust.read_bytes()) if trust is not None else None
    verdict = verifier.verify(path.read_bytes(), keys)
    state = verdict.state
    return {
        "workload": verdict.workload,
        "at_ns": verdict.at_ns,
        "release": state.active_release if state.active_instance else "",
        "instance": state.active_instance,
        "says": list(verdict.says),
        "checked": list(verdict.checked),
        "not_covered": list(verdict.not_covered),
    }


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
