"""The fleet: all workloads of one host. What the agent's API calls and what its watchers report to."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from stele.flow import deploy, evidence, health, holding, incident, launch, reviewing, signing, spares, upkeep
from stele.flow.world import Running
from stele.model.report import Report
from stele.run import sweep
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stele.flow.custody import Custody
    from stele.flow.holding import LedgerPort
    from stele.flow.world import World
    from stele.model.instance import Instance
    from stele.model.release import Release

log = logging.getLogger(__name__)
TICK_S = 0.25


class Fleet:
    """Supervises every workload. Thread-safe."""

    def __init__(self, world: World, ledger: LedgerPort) -> None:
        self._world = world
        self.ledger = ledger
        self._lock = threading.Lock()
        self._workloads: dict[str, Running] = {}
        self._ended = threading.Event()

    @property
    def custody(self) -> Custody:
        """Holds and redactions of this host's ledger."""
        return self._world.custody

    # ---- what the API asks -------------------------------------------------------------------

    def apply(self, release: str, *, person: str, say: Callable[[str], None]) -> dict[str, Any]:
        """Verify a release and make it serve. Raises what `deploy.apply` raises."""
        say("verifying the release")
        found, signed = self._world.store.accepted(release)
        if found.spec.kind == "dataset":
            raise SteleError(
                f"{found.workload} is a data set: it does not run",
                remedy="name it under `data:` in the spec of a workload, seal that, and apply it",
                code="deploy.is-a-data-set",
            )
        counted = signed.counted
        self._world.record.by(person)(
            found.workload,
            "release.admitted",
            release=found.digest,
            tree=found.tree_digest,
            keys=list(counted.keys),
            signers=list(counted.signers),
            policy=counted.policy,
        )
        running = self._running(found.workload)
        if running.release is not None and running.release.digest == found.digest and running.active is not None:
            return {"instance": running.active.id, "release": found.digest, "changed": False}
        self._resume(running)
        instance = deploy.apply(self._world, running, found, reason="apply", say=say)
        return {"instance": instance.id, "release": found.digest, "changed": True}

    def rollback(self, workload: str, *, to: str, person: str, say: Callable[[str], None]) -> dict[str, Any]:
        """Return to the previous good release; no build, no network."""
        running = self._known(workload)
        serving = running.release.digest if running.release else ""
        digest = deploy.choose_rollback(self._world, running, to)
        self._resume(running)
        self._world.record.by(person)(workload, "rollback.decided", serving=serving, to=digest, by="operator")
        instance = deploy.apply(self._world, running, self._world.store.release(digest), reason="rollback", say=say)
        return {"instance": instance.id, "release": digest, "changed": True}

    def remove(self, workload: str, *, person: str, say: Callable[[str], None]) -> dict[str, Any]:
        """Stop a workload and remove its instances; frozen ones stay."""
        running = self._known(workload)
        holding.refuse(self.ledger)  # before anything of it is done
        say(f"stopping {workload}")
        self._stop(running, person, reason="removed by the operator")
        with self._lock:
            if not running.frozen:
                self._workloads.pop(workload, None)
        return {"workload": workload, "frozen": sorted(running.frozen)}

    def pardon(self, workload: str, release: str, reason: str, person: str) -> dict[str, Any]:
        """Lift the quarantine of a release."""
        digest = self._world.store.find(release).digest
        self._world.record.by(person)(workload, "release.pardoned", release=digest, reason=reason)
        return {"workload": workload, "release": digest}

    def release_incident(self, incident_id: str, person: str) -> dict[str, Any]:
        """Let go of a frozen instance: it is killed without running again, its memory is gone, its evidence stays.

        Raises:
            SteleError: `incident.unknown`, `incident.evidence-not-sealed`, `hold.forbids`.
        """
        for running in self._all():
            if incident_id in running.frozen:
                break
        else:
            raise SteleError(
                f"no frozen instance belongs to incident {incident_id!r}", remedy="`stele incidents` lists them", code="incident.unknown"
            )
        if incident_id in running.collecting:
            raise SteleError(
                f"the evidence of {incident_id} is still being collected",
                remedy="try again when `stele incidents` shows it as sealed",
                code="incident.evidence-not-sealed",
                retryable=True,
            )
        instance, digest = running.frozen[incident_id]
        # logged before its effect: if this is the last thing that happens, the record says what was asked
        record = self._world.record.by(person)
        with self.custody.undisturbed():
            self.custody.keep(f"the frozen instance of {incident_id}", incident_id)
            record(running.name, "quarantine.released", incident=incident_id, instance=instance.id, release=digest)
        self._world.runtime.release_quarantined(instance)
        self._world.gate.unregister(instance.id)
        self._world.sensor.forget(instance.id)
        with running.lock:
            running.frozen.pop(incident_id, None)
        return {"incident": incident_id, "instance": instance.id}

    def record_release(self, body: dict[str, Any], person: str) -> dict[str, Any]:
        """Record what another process did with a release of this agent's store: that it was sealed, signed, pulled or pushed."""
        release, record = str(body.get("release", "")), self._world.record.by(person)
        facts: dict[str, str] = {key: str(body[key])[:1000] for key in ("to", "origin") if key in body}
        record.commit(signing.release_event(record, self._world.store, release, str(body.get("kind", "")), facts))
        return {"release": release}

    def record_keys(self, kind: str, data: dict[str, Any], person: str) -> dict[str, Any]:
        """Record a change of the trust policy that another process made (`key.*`)."""
        record = self._world.record.by(person)
        record.commit(signing.key_event(record, kind, data))
        return {"kind": kind}

    def record_upkeep(self, kind: str, data: dict[str, Any], person: str) -> dict[str, Any]:
        """Record what another process does with this agent's store (`store.*`)."""
        record = self._world.record.by(person)
        record.commit(upkeep.event(record, kind, data))
        return {"kind": kind}

    def record_access(self, incident_id: str, how: str, person: str) -> dict[str, Any]:
        """Record that somebody read evidence (custody)."""
        workload = incident_id.rpartition("-")[0]
        self._world.record.by(person)(workload, "evidence.accessed", incident=incident_id, how=how[:200])
        return {"incident": incident_id}

    def publish(self) -> dict[str, Any]:
        """Publish a checkpoint that covers everything committed so far, and reaches this instant."""
        self._world.record("", "heartbeat")
        return {"size": self.ledger.publish()}

    def status(self) -> list[dict[str, Any]]:
        """One plain record per workload: what runs, by which digest, since when, and what enforces it."""
        return [reviewing.status(self._world, running) for running in self._all()]

    def shut_down(self, *, remove: bool, person: str, say: Callable[[str], None]) -> dict[str, Any]:
        """End supervision. With `remove` every instance is stopped, frozen ones included (their evidence stays).

        Raises:
            SteleError: `hold.forbids` if a hold is on a frozen instance, or why nothing can be recorded: then nothing was stopped.
        """
        if remove:
            holding.refuse(self.ledger)
            self.custody.keep("a frozen instance", *(incident_id for running in self._all() for incident_id in list(running.frozen)))
        self._ended.set()
        if remove:
            for running in self._all():
                say(f"stopping {running.name}")
                self._stop(running, person, reason="agent stopped by the operator")
                for incident_id in list(running.frozen):
                    running.wait_collected(incident_id)
                    self.release_incident(incident_id, person)
            for instance in self._world.runtime.adopt():
                # whatever was on its way when everything else was stopped
                launch.discard(self._world, instance)
        if self.ledger.read_only is None:
            self._world.record.by(person)("", "agent.stopped", removed=remove)
            holding.publish(self.ledger)
        if remove:
            self._world.gate.shutdown()
            sweep.clear(self._world.places.run, self._world.runtime.ways.cgroups, self._world.network)
        return {"removed": remove}

    # ---- what happens by itself ---------------------------------------------------------------

    def adopt(self, instances: list[Instance], frozen: dict[str, Instance]) -> None:
        """After a start: take over what runs, keep what is frozen, start what should run and does not."""
        if self.ledger.read_only is not None:
            holding.hold(self._world, self._running, instances, frozen)
            return
        known = {instance.id: instance for instance in instances}
        for incident_id, instance in {**frozen, **self._unmarked(known)}.items():
            known.pop(instance.id, None)
            self._keep_frozen(incident_id, instance)
        names = {instance.workload for instance in instances} | {name for name in self._world.workloads() if name}
        for name in sorted(names):
            history = self._world.history(name)
            if not history.active_release:
                continue
            running = self._running(name)
            try:
                release = self._world.store.find(history.active_release)
            except SteleError as error:
                log.error("%s cannot be supervised: %s", name, error.reason)  # noqa: TRY400  the reason says it all
                self._world.record(
                    name, "instance.failed", instance=history.active_instance, release=history.active_release, reason=error.reason[:500]
                )
                continue
            running.release = release
            active = known.pop(history.active_instance, None)
            if active is not None and self._world.runtime.is_frozen(active):
                # the gate kept its report for us: it is answered as soon as it comes, and at the latest by the health check
                self._world.network.cut(name, active)
                running.active = active
            elif active is not None and not self._world.runtime.ended(active):
                self._world.gate.register(active, release.spec)
                self._world.sensor.watch(active, release.spec)
                self._world.network.publish(name, release.spec.ports, active)
                running.active = active
                threading.Thread(target=spares.keep_spares, args=(self._world, running), daemon=True).start()
            elif why := self._world.standing.why_not(release.digest):
                log.warning("%s: its release is not accepted and is not started: %s", name, why)
            elif release.digest in history.quarantined:
                log.warning("%s: its release is quarantined and is not started by itself: %s", name, history.quarantined[release.digest])
            else:
                self._restart(running, "it did not run when the agent started")
        for orphan in known.values():
            # created or started, but never made active: whoever wanted it is gone
            launch.discard(self._world, orphan)

    def _unmarked(self, known: dict[str, Instance]) -> dict[str, Instance]:
        """Instances that a killed agent recorded as frozen but could not mark any more: evidence all the same."""
        found = {}
        for name in self._world.workloads():
            for incident_id, live in self._world.history(name).frozen.items():
                if live.instance in known:
                    self._world.runtime.quarantine(known[live.instance], incident_id)
                    found[incident_id] = known[live.instance]
        for instance in known.values():
            serving = self._world.history(instance.workload).active_instance == instance.id
            if not serving and instance not in found.values() and self._world.runtime.is_frozen(instance):
                # frozen by the gate, and whoever should have recorded it was killed first
                incident_id = f"{instance.workload}-{self._world.fresh_id()}"
                report = Report(
                    instance=instance.id, kind="watcher-lost", is_frozen=True, detail={"found": "frozen when the agent started"}
                )
                self._world.record(instance.workload, "violation", incident=incident_id, release=instance.release, **incident.facts(report))
                self._world.record(
                    instance.workload, "instance.frozen", incident=incident_id, instance=instance.id, release=instance.release, took_ns=0
                )
                self._world.network.cut(instance.workload, instance)
                self._world.runtime.quarantine(instance, incident_id)
                found[incident_id] = instance
        return found

    def _keep_frozen(self, incident_id: str, instance: Instance) -> None:
        """Take a frozen instance over; evidence that a killed agent did not finish is collected again."""
        running = self._running(instance.workload)
        running.frozen[incident_id] = (instance, instance.release)
        if (self._world.places.evidence / incident_id).exists():
            return
        try:
            release = self._world.store.find(instance.release)
        except SteleError as error:
            log.warning("evidence of %s is not collected again: %s", incident_id, error.reason)
            return
        running.collecting[incident_id] = threading.Event()
        threading.Thread(
            target=evidence.gather,
            args=(self._world, running, instance, release, incident_id, None),
            name=f"evidence-{incident_id}",
            daemon=True,
        ).start()

    def on_report(self, report: Report) -> None:
        """A watcher saw something. Returns when it is committed."""
        for running in self._all():
            with running.lock:
                ids = {
                    running.active.id if running.active else "",
                    *running.candidates,
                    *(value[0].id for value in running.frozen.values()),
                }
                ids |= {instance.id for instance in running.draining} | {spare.id for spare in running.spares.values()}
            if report.instance in ids:
                incident.handle(self._world, running, report)
                return
        workload = report.instance.rpartition("-")[0]
        self._world.record(workload, incident.RECORD_ONLY.get(report.kind, "violation"), **incident.facts(report))

    def run(self) -> None:
        """Look after health, exits and confirm windows until `shut_down`. Runs in a thread of its own."""
        last: dict[str, float] = {}
        while not self._ended.wait(TICK_S):
            for running in self._all() if self.ledger.read_only is None else ():
                try:
                    self._tick(running, last)
                except SteleError as error:
                    log.warning("%s: %s", running.name, error.reason)
                except Exception:  # one workload must not end the supervision of all
                    log.exception("%s could not be looked after", running.name)

    def _tick(self, running: Running, last: dict[str, float]) -> None:
        if reviewing.review(self._world, running):
            reason = f"no longer accepted: {running.refused[:300]}"
            threading.Thread(target=self._stop, args=(running, ""), kwargs={"reason": reason}, daemon=True).start()
            return
        with running.lock:
            active, release = running.active, running.release
        if active is None or release is None:
            self._revive(running)
            return
        ended = self._world.runtime.ended(active)
        if ended:
            self._failed(running, active, f"it ended by itself: {ended}")
            return
        now = time.monotonic()
        interval = health.interval_s(release.spec)
        if now - last.get(active.id, 0.0) >= interval:
            last[active.id] = now
            why = health.look(active, release.spec)
            running.unhealthy = running.unhealthy + 1 if why else 0
            if release.spec.health and running.unhealthy >= release.spec.health.retries:
                self._failed(running, active, f"unhealthy {running.unhealthy} times in a row: {why}")
                return
        if running.deploy_id and now >= running.confirm_at and not running.unhealthy:
            deploy_id, running.deploy_id = running.deploy_id, ""
            self._world.record(running.name, "deploy.confirmed", deploy=deploy_id, release=release.digest)
            spares.keep_spares(self._world, running)

    def _revive(self, running: Running) -> None:
        """Nothing serves though something should, and nobody is about to change that: try again, later and later."""
        with running.lock:
            release, busy = running.release, running.replacing > 0 or running.stopped.is_set() or running.deploying.locked()
        if release is not None and not busy and not running.refused and release.digest not in self._world.history(running.name).quarantined:
            self._restart(running, "nothing serves")

    def _failed(self, running: Running, instance: Instance, why: str) -> None:
        """The active instance failed by itself: inside the confirm window go back, else put a clean one in its place."""
        world = self._world
        if world.runtime.is_frozen(instance):
            # a watcher froze it and its report is on the way, or was lost with a killed agent: evidence, not a failure
            incident.handle(world, running, Report(instance=instance.id, kind="watcher-lost", is_frozen=True, detail={"found": why[:300]}))
            return
        with running.lock:
            if running.active is not instance or running.release is None:
                return  # an incident or a deploy was faster
            release, in_window = running.release, bool(running.deploy_id)
            running.active, running.deploy_id, running.unhealthy = None, "", 0
            world.network.unpublish(running.name)
        world.record(running.name, "instance.failed", instance=instance.id, release=release.digest, reason=why[:500])
        # in a thread of its own: one that hangs takes its whole grace to stop, and nobody shall wait for it
        threading.Thread(
            target=self._retire, args=(running, instance, release, why[:200]), name=f"retire-{instance.id}", daemon=True
        ).start()
        if not in_window:
            self._restart(running, why)
            return
        world.record(running.name, "release.quarantined", release=release.digest, reason=f"failed in its confirm window: {why[:300]}")
        try:
            digest = deploy.choose_rollback(world, running, "")
        except SteleError as error:
            world.record(running.name, "deploy.failed", release=release.digest, reason=error.reason[:500])
            return
        # at most once, and only here: a failed release is never chosen again by itself
        world.record(running.name, "rollback.decided", serving=release.digest, to=digest, by="stele")
        threading.Thread(target=self._return, args=(running, digest), name=f"rollback-{running.name}", daemon=True).start()

    def _retire(self, running: Running, instance: Instance, release: Release, why: str) -> None:
        with running.drained:
            running.draining.append(instance)
        try:
            launch.retire(self._world, instance, release, reason=why)
        except SteleError as error:
            log.warning("%s: %s", instance.id, error.reason)
        finally:
            with running.drained:
                running.draining.remove(instance)
                running.drained.notify_all()

    def _return(self, running: Running, digest: str) -> None:
        try:
            deploy.apply(self._world, running, self._world.store.release(digest), reason="auto-rollback", say=log.info)
        except SteleError as error:
            log.error("automatic return of %s failed: %s", running.name, error.reason)  # noqa: TRY400

    def _restart(self, running: Running, why: str) -> None:
        release = running.release
        if release is None:
            return
        incident_id = f"{running.name}-{self._world.fresh_id()}"
        log.warning("%s: starting a clean instance: %s", running.name, why)
        delay_ms = running.next_delay_ms(time.monotonic())
        incident.begin_replacement(self._world, running, release, incident_id, None, delay_ms)

    # ---- inside -------------------------------------------------------------------------------

    def _resume(self, running: Running) -> None:
        running.stopped.clear()
        if self._ended.is_set():  # looked at last: whoever ends supervision says so before it stops anything
            running.stopped.set()
            raise SteleError("this agent is being stopped", remedy="start it again with `stele agent start`", code="agent.stopping")

    def _stop(self, running: Running, person: str, *, reason: str) -> None:
        running.stopped.set()
        running.wait_replaced()  # one on its way gives up, or is what serves now
        with running.deploying, running.lock:
            active, release = running.active, running.release
            running.active, running.release, running.deploy_id = None, None, ""
            self._world.network.unpublish(running.name)
        spares.end(self._world, running)
        if active is not None and release is not None:
            launch.retire(self._world.by(person) if person else self._world, active, release, reason=reason)
        running.wait_drained()

    def _all(self) -> list[Running]:
        with self._lock:
            return [self._workloads[name] for name in sorted(self._workloads)]

    def _running(self, name: str) -> Running:
        with self._lock:
            return self._workloads.setdefault(name, Running(name))

    def _known(self, name: str) -> Running:
        with self._lock:
            if name in self._workloads:
                return self._workloads[name]
        raise SteleError(f"no workload {name!r} runs here", remedy="`stele status` lists the workloads", code="workload.unknown")
