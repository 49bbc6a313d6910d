"""What a workload runs, for status; and whether that is still accepted: it is reported, its spares go, the policy may have it stopped."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from stele.flow import launch

if TYPE_CHECKING:
    from stele.flow.world import Running, World

log = logging.getLogger(__name__)


def review(world: World, running: Running) -> bool:
    """Look at what a workload runs; whether it is to be stopped. That it is no longer accepted, or is again, is recorded once."""
    with running.lock:
        release, active, before = running.release, running.active, running.refused
    why = world.standing.why_not(release.digest) if release is not None else ""
    if release is None or why == before:
        return False
    facts = {"release": release.digest, "instance": active.id if active else ""}
    if why and not before:
        log.warning("%s runs a release that is no longer accepted: %s", running.name, why)
        world.record(running.name, "release.lapsed", **facts, reason=why[:500])
    elif not why:
        world.record(running.name, "release.reinstated", **facts)
    with running.lock:
        running.refused = why
        spares = [running.spares.pop(digest) for digest in list(running.spares) if world.standing.why_not(digest)]
    for spare in spares:
        launch.discard(world, spare)
    return bool(why) and active is not None and world.standing.stops(release.digest)


def status(world: World, running: Running) -> dict[str, Any]:
    """What a workload runs, by which digest, since when, what enforces it, and whether it is still accepted. Plain data."""
    history = world.history(running.name)
    with running.lock:
        active = running.active
        return {
            "workload": running.name,
            "release": running.release.digest if running.release else "",
            "instance": active.id if active else "",
            "phase": _phase(running),
            "since_ns": history.active_since_ns,
            "address": active.address if active else "",
            "ports": [f"{port.host}->{port.container}" for port in running.release.spec.ports if port.host] if running.release else [],
            "enforced": active.enforcement if active else "",
            "log": active.log if active else "",
            "spares": sorted(running.spares),
            "good": list(history.good),
            "quarantined": dict(history.quarantined),
            "refused": running.refused,
            "frozen": [{"incident": key, "instance": value[0].id, "release": value[1]} for key, value in sorted(running.frozen.items())],
            "draining": [instance.id for instance in running.draining],
        }


def _phase(running: Running) -> str:
    if running.active is None:
        return "replacing" if running.release is not None and running.frozen else "stopped"
    if running.unhealthy:
        return "unhealthy"
    return "serving, in its confirm window" if running.deploy_id else "serving"
