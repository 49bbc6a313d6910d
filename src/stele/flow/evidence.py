"""Evidence: collecting it from a frozen instance, and looking at it later."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from stele import __version__
from stele.host import evidence_proc
from stele.model.units import parse_size
from stele.respond import bundle, collect, decide
from stele.trust.errors import SteleError
from stele.trust.release_key import PrivateKey, PublicKey

if TYPE_CHECKING:
    from stele.flow.places import Places
    from stele.flow.world import Running, World
    from stele.model.instance import Instance
    from stele.model.release import Release
    from stele.model.report import Report

log = logging.getLogger(__name__)
LOG_TAIL = 4 << 20


def gather(world: World, running: Running, instance: Instance, release: Release, incident: str, report: Report | None) -> None:
    """Collect, sign and record the evidence of one incident. Runs in a thread of its own; failures are logged and recorded."""
    try:
        sealed, took_ns = _collect(world, instance, release, incident, report)
        world.record(
            running.name,
            "evidence.sealed",
            incident=incident,
            instance=instance.id,
            release=release.digest,
            root=sealed.root,
            files=sealed.files,
            bytes=sealed.size,
            took_ns=took_ns,
        )
        _keep_budget(world, running.name, parse_size(release.spec.respond.evidence_budget))
    except Exception as error:
        log.exception("the evidence of %s could not be collected; the instance stays frozen", incident)
        world.record(
            running.name, "evidence.failed", incident=incident, instance=instance.id, reason=f"{type(error).__name__}: {error}"[:500]
        )
    finally:
        done = running.collecting.pop(incident, None)
        if done is not None:
            done.set()


def _collect(world: World, instance: Instance, release: Release, incident: str, report: Report | None) -> tuple[bundle.Sealed, int]:
    begun = time.monotonic_ns()
    budget = parse_size(release.spec.respond.evidence_budget)
    pids = world.runtime.freezer(instance).pids()
    # the instance's first process first: its root is where files are read from
    pids.sort(key=lambda pid: (pid != instance.pid, pid))
    kernel = os.uname()
    extras = {
        "instance.json": msgspec.json.encode(instance),
        "spec.json": msgspec.json.encode(release.spec),
        "host.json": json.dumps({"kernel": list(kernel), "stele": __version__}).encode(),
    }
    tail = evidence_proc.read(instance.log, LOG_TAIL)
    if tail is not None:
        extras["instance.log"] = tail
    sealed = collect.collect(
        world.places.evidence / incident,
        instance,
        release.spec,
        report,
        pids=pids,
        extras=extras,
        bounds=collect.Bounds(memory=budget, files=budget),
        signer=PrivateKey.from_pem(world.places.host_key.read_bytes()),
        machine=kernel.machine,
        facts={"incident": incident, "tree": release.tree_digest, "time_ns": world.now_ns(), "kind": report.kind if report else ""},
    )
    return sealed, time.monotonic_ns() - begun


def _keep_budget(world: World, workload: str, budget: int) -> None:
    """Drop the bundles that the budget has no room for; what is dropped is recorded, its root stays in the ledger."""
    kept = []
    for folder in sorted(world.places.evidence.glob(f"{workload}-*")):
        if folder.suffix == ".partial":
            continue
        try:
            facts = bundle.read_manifest(folder)[0]["facts"]
        except SteleError as error:
            log.warning("the bundle %s is damaged and left alone: %s", folder.name, error.reason)
            continue
        kept.append(decide.Kept(incident=folder.name, kind=facts["kind"], time_ns=facts["time_ns"], size=bundle.total_size(folder)))
    with world.custody.undisturbed():
        held = frozenset(world.custody.held(item.incident for item in kept))
        evicted = decide.evict(kept, budget, held)
        for incident in evicted:
            world.record(workload, "evidence.evicted", incident=incident, reason=f"over the budget of {budget} bytes")
    for incident in evicted:
        bundle.remove_tree(world.places.evidence / incident)


def _folder(places: Places, incident: str) -> Path:
    if "/" in incident or incident.startswith("."):
        raise SteleError(f"{incident!r} is not an incident", remedy="`stele incidents` lists them", code="incident.unknown")
    return places.evidence / incident


def files(places: Places, incident: str) -> list[dict[str, Any]]:
    """The files of a bundle, as its manifest lists them.

    Raises:
        SteleError: `evidence.not-there`.
    """
    listed = bundle.read_manifest(_folder(places, incident))[0]["files"]
    return [{"name": name, **listed[name]} for name in sorted(listed)]


def verify(places: Places, incident: str, expected_root: str) -> list[str]:
    """What of a bundle does not fit its signature or the ledger; nothing if it is whole."""
    key = PublicKey.from_pem(places.host_pub.read_bytes())
    return bundle.verify(_folder(places, incident), key, expected_root)
