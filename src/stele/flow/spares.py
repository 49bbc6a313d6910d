"""Spares: instances created, guarded, and not started, so that replacement costs only the application's own start."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from stele.flow import launch
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Container

    from stele.flow.world import Running, World

log = logging.getLogger(__name__)


def wanted(serving: str, good: tuple[str, ...], quarantined: Container[str]) -> tuple[str, ...]:
    """Which releases deserve a spare: the serving one, and the latest other good one (for rollback). Pure."""
    earlier = [digest for digest in good if digest != serving and digest not in quarantined]
    return tuple(digest for digest in (serving, *earlier[-1:]) if digest)


def keep_spares(world: World, running: Running) -> None:
    """Create what is wanted and not there, discard what is no longer wanted. Failures cost speed, not safety."""
    with running.spare_lock:
        history = world.history(running.name)
        with running.lock:
            serving = running.release.digest if running.release and running.active else ""
            keep = wanted(serving, history.good, history.quarantined) if serving else ()
            stale = [running.spares.pop(digest) for digest in list(running.spares) if digest not in keep]
            missing = [digest for digest in keep if digest not in running.spares]
        for instance in stale:
            launch.discard(world, instance)
        for digest in missing:
            if running.stopped.is_set():
                return
            try:
                spare = launch.prepare(world, world.store.release(digest))
            except SteleError as error:
                log.warning("no spare for %s: %s", running.name, error.reason)
                continue
            with running.lock:
                wanted_still = not running.stopped.is_set()
                if wanted_still:
                    running.spares[digest] = spare
            if not wanted_still:
                launch.discard(world, spare)


def end(world: World, running: Running) -> None:
    """Discard the spares of a workload that was told to stop; one that is on its way discards itself first."""
    with running.spare_lock:
        with running.lock:
            spares, running.spares = list(running.spares.values()), {}
        for spare in spares:
            launch.discard(world, spare)
