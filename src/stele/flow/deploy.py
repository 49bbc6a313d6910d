"""Changing the release of a workload: candidate, health, atomic cutover, drain; or nothing at all."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from stele.flow import health, launch
from stele.flow.spares import keep_spares
from stele.host import backlog
from stele.model.units import parse_duration_ms
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stele.flow.world import Running, World
    from stele.model.instance import Instance
    from stele.model.release import Release

log = logging.getLogger(__name__)
ACCEPT_LIMIT_S = 5.0


def apply(world: World, running: Running, release: Release, *, reason: str, say: Callable[[str], None]) -> Instance:
    """Make `release` the one that serves. The old instance serves until the new one is healthy.

    Args:
        world: the host.
        running: the workload.
        release: verified release of this workload.
        reason: "apply", "rollback" or "auto-rollback"; for the record.
        say: told of each step, for a person who waits.

    Raises:
        SteleError: `deploy.stopped`, `deploy.quarantined-release`, `deploy.unhealthy` (the old instance still serves),
            and those of `launch`.
    """
    with running.deploying:
        if running.stopped.is_set():
            raise SteleError(
                f"{running.name} was told to stop meanwhile", remedy="apply the release again if it shall serve", code="deploy.stopped"
            )
        history = world.history(running.name)
        if release.digest in history.quarantined:
            raise SteleError(
                f"release {release.digest[:19]} of {running.name} is quarantined: {history.quarantined[release.digest]}",
                remedy="seal a corrected release, or lift the quarantine with `stele pardon` if you know that it was not at fault",
                code="deploy.quarantined-release",
            )
        deploy = world.fresh_id()
        was = running.release.digest if running.release else ""
        world.record(running.name, "deploy.started", deploy=deploy, release=release.digest, previous=was, reason=reason)
        try:
            candidate = _candidate(world, running, release, say)
            try:
                _cut_over(world, running, release, candidate, reason)
            except BaseException:
                if running.active is not candidate:  # it never got the ports: busy, or the firewall refused
                    _drop(world, running, candidate, release, "could not take the ports")
                raise
        except SteleError as error:
            world.record(running.name, "deploy.failed", deploy=deploy, release=release.digest, reason=error.reason[:500])
            raise
        say(f"serving: {candidate.id}")
        running.deploy_id = deploy
        running.confirm_at = time.monotonic() + parse_duration_ms(release.spec.respond.confirm) / 1000
    threading.Thread(target=keep_spares, args=(world, running), name=f"spares-{running.name}", daemon=True).start()
    return candidate


def _candidate(world: World, running: Running, release: Release, say: Callable[[str], None]) -> Instance:
    world.standing.require(release.digest)  # a spare may be older than a revocation, also of who signed its data sets
    with running.lock:
        candidate = running.spares.pop(release.digest, None)
    if candidate is None:
        say("creating an instance")
        candidate = launch.prepare(world, release)
    with running.lock:
        running.candidates[candidate.id] = (candidate, release)
    say(f"starting {candidate.id}")
    try:
        launch.start(world, candidate, release, role="candidate")
        world.record(running.name, "instance.started", instance=candidate.id, release=release.digest, pid=candidate.pid)
        say("waiting until it is healthy")
        why = health.await_healthy(candidate, release.spec, lambda: ended(world, running, candidate))
    except BaseException:
        _drop(world, running, candidate, release, "could not be started")
        raise
    if why:
        failed = [
            world.record.event(running.name, "instance.failed", instance=candidate.id, release=release.digest, reason=why),
            world.record.event(running.name, "release.quarantined", release=release.digest, reason=f"did not become healthy: {why}"),
        ]
        world.record.commit(*failed)
        _drop(world, running, candidate, release, "did not become healthy")
        raise SteleError(
            f"release {release.digest[:19]} did not become healthy ({why}); what served before still serves",
            remedy=f"see its output with `stele logs {running.name} --instance {candidate.id}`, correct it and seal again",
            code="deploy.unhealthy",
        )
    world.record(running.name, "instance.healthy", instance=candidate.id, release=release.digest)
    return candidate


def ended(world: World, running: Running, instance: Instance) -> str:
    """How an instance ended, "" while it runs. A frozen one counts as ended."""
    with running.lock:
        if any(frozen.id == instance.id for frozen, _ in running.frozen.values()):
            return "it was frozen after a violation (see `stele incidents`)"
    return world.runtime.ended(instance)


def _drop(world: World, running: Running, candidate: Instance, release: Release, reason: str) -> None:
    with running.lock:
        running.candidates.pop(candidate.id, None)
        if any(frozen.id == candidate.id for frozen, _ in running.frozen.values()):
            return  # evidence now: it stays
    launch.retire(world, candidate, release, reason=reason)


def _cut_over(world: World, running: Running, release: Release, candidate: Instance, reason: str) -> None:
    with running.lock:
        old, old_release = running.active, running.release
        world.network.publish(running.name, release.spec.ports, candidate)
        world.record(
            running.name,
            "instance.active",
            instance=candidate.id,
            release=release.digest,
            replaces=old.id if old else "",
            reason=reason,
        )
        running.candidates.pop(candidate.id, None)
        running.active, running.release, running.unhealthy = candidate, release, 0
        if old is not None:
            with running.drained:
                running.draining.append(old)
    if old is not None and old_release is not None:
        threading.Thread(target=_drain, args=(world, running, old, old_release), name=f"drain-{old.id}", daemon=True).start()


def _drain(world: World, running: Running, old: Instance, release: Release) -> None:
    world.record(running.name, "instance.draining", instance=old.id, release=release.digest)
    # a server that is told to finish resets connections that it has not accepted yet
    if not backlog.await_accepted(old.pid, ACCEPT_LIMIT_S):
        log.warning("draining %s: it does not accept its last connections", old.id)
    try:
        launch.retire(world, old, release, reason="replaced")
    except SteleError as error:
        log.warning("draining %s: %s", old.id, error.reason)
    finally:
        with running.drained:
            running.draining.remove(old)
            running.drained.notify_all()


def choose_rollback(world: World, running: Running, to: str) -> str:
    """The digest of the release to go back to.

    Raises:
        SteleError: `deploy.nothing-to-roll-back-to`.
    """
    history = world.history(running.name)
    serving = running.release.digest if running.release else ""
    for digest in reversed(history.good):
        if digest != serving and digest not in history.quarantined and (not to or digest.startswith(to) or digest[7:].startswith(to)):
            return digest
    raise SteleError(
        f"{running.name} has no earlier good release{' ' + to if to else ''} to go back to",
        remedy="`stele releases` lists what is in the store; a release is good once it stayed healthy for its confirm window",
        code="deploy.nothing-to-roll-back-to",
    )
