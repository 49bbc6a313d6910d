"""Bringing one instance into being and out of it: verify, create, guard, log, start; stop, unguard, remove."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from stele.model.units import parse_duration_ms
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.flow.world import World
    from stele.model.instance import Instance
    from stele.model.release import Release

log = logging.getLogger(__name__)


def prepare(world: World, release: Release) -> Instance:
    """Create an instance that is ready to start and already guarded; nothing of the release has run yet.

    Its signatures must be enough now, whenever they were looked at before; every image is verified against the signed release before it
    is mounted.

    Raises:
        SteleError: whatever store, run or watch refuse with; nothing is left behind.
    """
    world.standing.require(release.digest)
    data = {item.path: _data_set(world, item.release) for item in release.spec.data}
    instance = world.runtime.create(release, _images(world, release), world.places.volumes, data)
    try:
        world.gate.register(instance, release.spec)
        world.sensor.watch(instance, release.spec)
    except BaseException:
        discard(world, instance)
        raise
    return instance


def _images(world: World, release: Release) -> tuple[Path, ...]:
    return tuple(Path(world.store.prepare_image(stratum).path) for stratum in release.strata)


def _data_set(world: World, digest: str) -> tuple[Release, tuple[Path, ...]]:
    """A data set, its signature and every image of it verified."""
    found = world.store.release(digest)
    if found.spec.kind != "dataset":
        raise SteleError(
            f"{digest[:19]} is a release of the workload {found.workload}, not a data set",
            remedy="name under `data:` the digest of what was sealed with `kind: dataset`",
            code="deploy.not-a-data-set",
        )
    return found, _images(world, found)


def start(world: World, instance: Instance, release: Release, *, role: str, logged: bool = False) -> None:
    """Start a prepared instance; `instance.starting` is in the ledger before its first instruction.

    Args:
        world: the host.
        instance: from `prepare`.
        release: what it is an instance of.
        role: "candidate", "replacement" or "active"; for the record.
        logged: the caller has committed `instance.starting` already (in one batch with what led to it).
    """
    if not logged:
        world.record(release.workload, "instance.starting", instance=instance.id, release=release.digest, role=role)
    world.runtime.start(instance)


def retire(world: World, instance: Instance, release: Release, *, reason: str) -> None:
    """Stop an instance in good order, record how it ended, and remove every trace of it from the host."""
    spec = release.spec
    status = world.runtime.stop(instance, spec.stop.signal, parse_duration_ms(spec.stop.grace))
    world.record(release.workload, "instance.stopped", instance=instance.id, release=release.digest, status=status, reason=reason)
    discard(world, instance)


def discard(world: World, instance: Instance) -> None:
    """Remove an instance that does not run (any more); failures are logged and left to the next sweep."""
    for step in (world.sensor.forget, world.gate.unregister):
        with contextlib.suppress(SteleError):
            step(instance.id)
    try:
        world.runtime.remove(instance)
    except SteleError as error:
        log.warning("could not remove %s entirely, the next start of the agent sweeps it: %s", instance.id, error.reason)
