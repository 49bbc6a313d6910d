"""The answer to a violation: log, cut, keep, replace, collect. The offender is frozen before this is called."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from stele.flow import evidence, health, launch
from stele.flow.spares import keep_spares
from stele.respond import decide
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.flow.world import Running, World
    from stele.model.instance import Instance
    from stele.model.release import Release
    from stele.model.report import Report

log = logging.getLogger(__name__)
RECORD_ONLY = {"write-refused": "write.refused", "change": "change.observed", "watcher-lost": "watcher.lost"}
STOPPED, UNHEALTHY = "the workload was stopped", "replacement did not become healthy"


def handle(world: World, running: Running, report: Report) -> None:
    """Record a report and do what its decision asks. Returns when it is committed; slow parts go on in threads.

    Raises:
        SteleError: if the ledger could not commit: then the report is not acknowledged and comes again.
    """
    found = _find(running, report.instance)
    if found is None or any(frozen.id == report.instance for frozen, _ in running.frozen.values()):
        # of an instance that is already gone or already evidence: recorded, nothing to do
        world.record(running.name, RECORD_ONLY.get(report.kind, "violation"), **facts(report))
        return
    instance, release = found
    now_ns = world.now_ns()
    decision, running.incidents = decide.decide(running.incidents, report, release.spec.watch, release.spec.respond, now_ns)
    if not decision.quarantine and not report.is_frozen:
        kind = RECORD_ONLY.get(report.kind, "violation")
        world.record(running.name, kind, release=release.digest, **facts(report))
        return
    _quarantine(world, running, instance, release, report, decision)


def _find(running: Running, instance_id: str) -> tuple[Instance, Release] | None:
    with running.lock:
        if running.active is not None and running.release is not None and running.active.id == instance_id:
            return running.active, running.release
        if instance_id in running.candidates:
            return running.candidates[instance_id]
        for frozen, digest in running.frozen.values():
            if frozen.id == instance_id and running.release is not None and running.release.digest == digest:
                return frozen, running.release
    return None


def facts(report: Report) -> dict[str, object]:
    """The report as event data: plain, bounded, integers in nanoseconds of the monotonic clock."""
    return {
        "instance": report.instance,
        "kind": report.kind,
        "path": report.path[:1024],
        "syscall": report.syscall,
        "pid": report.pid,
        "comm": report.comm,
        "exe": report.exe[:1024],
        "argv": [part[:256] for part in report.argv[:16]],
        "refused": report.refused,
        "count": report.count,
        "seen_ns": report.seen,
        "decided_ns": report.decided,
        "frozen_ns": report.frozen,
        "detail": {key: value[:512] for key, value in report.detail.items()},
    }


def _quarantine(world: World, running: Running, instance: Instance, release: Release, report: Report, decision: decide.Decision) -> None:
    incident = f"{running.name}-{world.fresh_id()}"
    if not report.is_frozen:
        world.runtime.freeze(instance)
    with running.lock:
        served = running.active is not None and running.active.id == instance.id
        ready = served and decision.replace and not decision.delay_ms and not running.refused
        spare = running.spares.pop(release.digest, None) if ready else None
        events = [
            world.record.event(running.name, "violation", incident=incident, release=release.digest, **facts(report)),
            world.record.event(
                running.name,
                "instance.frozen",
                incident=incident,
                instance=instance.id,
                release=release.digest,
                took_ns=max(0, report.frozen - report.seen),
            ),
        ]
        if spare is not None:
            events.append(
                world.record.event(
                    running.name, "instance.starting", instance=spare.id, release=release.digest, role="replacement", incident=incident
                )
            )
        if decision.quarantine_release:
            events.append(world.record.event(running.name, "release.quarantined", release=release.digest, reason=decision.reason))
        try:
            world.record.commit(*events)
        except BaseException:
            # what cannot be recorded is not answered; but nobody shall hang on a frozen instance meanwhile
            world.network.cut(running.name, instance)
            if spare is not None:
                running.spares[release.digest] = spare
            raise
        committed_ns = time.monotonic_ns()
        running.frozen[incident] = (instance, release.digest)
        if served:
            running.active = None
        running.candidates.pop(instance.id, None)
        running.collecting[incident] = threading.Event()
        if served and decision.replace:
            # at once: a cut takes effect when it is ordered, but returns only after the kernel's grace period, milliseconds later
            begin_replacement(world, running, release, incident, spare, decision.delay_ms)
    in_flight = world.network.cut(running.name, instance)
    # the moments before this one, on the clock of the report, so that the chain from the offence to the cut can be measured
    moments = {"committed_ns": committed_ns, "cut_ns": time.monotonic_ns()}
    world.runtime.quarantine(instance, incident)
    world.record(running.name, "network.cut", incident=incident, instance=instance.id, in_flight=in_flight, **moments)
    threading.Thread(
        target=evidence.gather, args=(world, running, instance, release, incident, report), name=f"evidence-{incident}", daemon=True
    ).start()


def begin_replacement(
    world: World, running: Running, release: Release, incident: str, spare: Instance | None = None, delay_ms: int = 0
) -> None:
    """Bring a clean instance of the same release into service, in a thread of its own. `spare`'s start is already in the ledger.

    Failures are recorded as `incident.unresolved`; the fleet tries again as long as nothing serves.
    """
    with running.drained:
        running.replacing += 1

    def work() -> None:
        try:
            _replace(world, running, release, incident, spare, delay_ms)
        except Exception as error:
            log.exception("no replacement for %s", running.name)
            reason = error.reason if isinstance(error, SteleError) else f"{type(error).__name__}: {error}"
            world.record(running.name, "incident.unresolved", incident=incident, release=release.digest, reason=reason[:500])
        finally:
            with running.drained:
                running.replacing -= 1
                running.drained.notify_all()
        keep_spares(world, running)

    threading.Thread(target=work, name=f"replace-{incident}", daemon=True).start()


def _is_evidence(running: Running, instance: Instance) -> bool:
    with running.lock:
        return any(frozen.id == instance.id for frozen, _ in running.frozen.values())


def _replace(world: World, running: Running, release: Release, incident: str, spare: Instance | None, delay_ms: int) -> None:
    if delay_ms:
        # back-off of repeated incidents: an attacker must not get a restart loop for free
        running.stopped.wait(delay_ms / 1000)
    if running.stopped.is_set():
        if spare is not None:  # its start is in the ledger already
            launch.retire(world, spare, release, reason=STOPPED)
        return
    try:
        world.standing.require(release.digest)
    except BaseException:
        if spare is not None:
            launch.retire(world, spare, release, reason="no longer accepted")
        raise
    clean = spare
    if clean is None:
        with running.lock:
            clean = running.spares.pop(release.digest, None)
        clean = clean or launch.prepare(world, release)
    with running.lock:
        running.candidates[clean.id] = (clean, release)
    begun = time.monotonic_ns()
    try:
        launch.start(world, clean, release, role="replacement", logged=spare is not None)
        why = health.await_healthy(clean, release.spec, lambda: _over(world, running, clean))
    except BaseException:
        _give_up(world, running, clean, release, UNHEALTHY)
        raise
    if why and not running.stopped.is_set():
        _give_up(world, running, clean, release, UNHEALTHY)
        raise SteleError(
            f"the replacement did not become healthy: {why}",
            remedy=f"see `stele logs {running.name}`",
            code="incident.replacement-unhealthy",
        )
    with running.lock:
        not_wanted = STOPPED if running.stopped.is_set() else "superseded" if running.active is not None else ""  # by a deploy
        if not not_wanted:
            running.candidates.pop(clean.id, None)
            world.network.publish(running.name, release.spec.ports, clean)
            running.active, running.release, running.unhealthy = clean, release, 0
    if not_wanted:
        _give_up(world, running, clean, release, not_wanted)
        return
    facts = {"instance": clean.id, "release": release.digest}
    world.record.commit(
        world.record.event(running.name, "instance.started", pid=clean.pid, **facts),
        world.record.event(running.name, "instance.healthy", **facts),
        world.record.event(running.name, "instance.active", replaces="", reason="replacement", **facts),
        world.record.event(running.name, "incident.resolved", incident=incident, start_to_healthy_ns=time.monotonic_ns() - begun, **facts),
    )


def _over(world: World, running: Running, clean: Instance) -> str:
    """Why a replacement need not be waited for any more, "" while it must be."""
    if running.stopped.is_set():
        return STOPPED
    return "it was frozen after a violation" if _is_evidence(running, clean) else world.runtime.ended(clean)


def _give_up(world: World, running: Running, clean: Instance, release: Release, reason: str) -> None:
    with running.lock:
        running.candidates.pop(clean.id, None)
    if not _is_evidence(running, clean):
        launch.retire(world, clean, release, reason=reason)
