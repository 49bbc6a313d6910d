"""Sealing: source → tree → release → signature → store → ledger."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Literal, cast

from stele.flow import opening
from stele.flow.record import Recorder
from stele.model import spec as specs
from stele.seal import release as releases
from stele.seal import settings, sources
from stele.seal.sign import sign
from stele.trust.errors import SteleError
from stele.trust.release_key import PrivateKey

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stele.flow.places import Places
    from stele.model.release import Release

SourceKind = Literal["auto", "folder", "docker-archive", "oci-layout"]
Compression = Literal["zstd", "gzip", "none"]


def seal(
    places: Places,
    source: Path,
    spec_file: Path,
    *,
    kind: str,
    reference: str,
    compression: str,
    say: Callable[[str], None],
    record: Callable[[Release], None],
) -> dict[str, Any]:
    """Seal a source; returns what a person wants to know of the release.

    Args:
        places: the data folder.
        source: a folder, an archive or a layout.
        spec_file: `stele.yaml`; its folder is where settings' sources lie.
        kind: of the source, or "auto".
        reference: which image, where the source holds several.
        compression: of the layers.
        say: told of each step.
        record: commits `release.sealed`; the release counts as sealed only then.

    Raises:
        SteleError: `spec.*`, `seal.*`, `store.*`, `ledger.*`.
    """
    begun = time.monotonic_ns()
    spec = specs.parse_yaml(spec_file.read_bytes())
    store = opening.open_store(places)
    say(f"reading {source}")
    with sources.load(source, kind=cast("SourceKind", kind), reference=reference, time=spec.time) as found:
        applied = settings.apply_settings(found.tree, found.contents, spec, spec_file.parent)
        say(f"sealing {len(applied.tree)} paths")
        sealed = releases.seal(
            applied.tree, applied.contents, spec, store, compression=cast("Compression", compression), platform=found.platform
        )
        notes = found.notes
        size = applied.tree.bytes_total()
        count = len(applied.tree)
    say("signing")
    store.publish(sign(sealed, PrivateKey.from_pem(places.release_key.read_bytes()), store))
    record(sealed.release)
    return {
        "workload": spec.name,
        "release": sealed.release.digest,
        "tree": sealed.release.tree_digest,
        "config": sealed.release.config_digest,
        "strata": [{"name": s.name, "diff_id": s.diff_id, "verity_root": s.verity_root} for s in sealed.release.strata],
        "paths": count,
        "bytes": size,
        "notes": list(notes),
        "took_ns": time.monotonic_ns() - begun,
    }


def recorder(places: Places, ask_agent: Callable[[dict[str, Any]], object]) -> Callable[[Release], None]:
    """How to record a seal: in the ledger itself, or through the agent where one holds the ledger."""

    def record(release: Release) -> None:
        try:
            ledger = opening.open_ledger(places)
        except SteleError as error:
            if error.code != "ledger.locked":
                raise
            ask_agent({"release": release.digest})
            return
        with contextlib.closing(ledger):
            commit = Recorder(ledger.append, actor=opening.actor(), clock=time.time_ns)
            commit(release.workload, "release.sealed", release=release.digest, tree=release.tree_digest)

    return record
