"""Opening everything of a host for the agent: clean up, take over, supervise. Closed in reverse order."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from typing import TYPE_CHECKING

import msgspec

from stele.flow import cosigning, holding, opening, reading
from stele.flow.custody import Custody
from stele.flow.fleet import Fleet
from stele.flow.record import Recorder
from stele.flow.stamping import Stamper
from stele.flow.standing import Standing
from stele.flow.world import World
from stele.host import ways as host_ways
from stele.model import history
from stele.respond import collect
from stele.run import record, sweep
from stele.run.container import Runtime
from stele.run.network import Network
from stele.trust.errors import SteleError
from stele.watch import client as gate_client
from stele.watch.sensor import Sensor

if TYPE_CHECKING:
    from stele.flow.holding import LedgerPort
    from stele.flow.places import Places
    from stele.host.ways import Ways
    from stele.model.event import Entry, Event
    from stele.model.report import Report

log = logging.getLogger(__name__)
HEARTBEAT_S = 60.0


class Histories:
    """The state of every workload, kept up with each committed event. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: dict[str, history.WorkloadState] = {}

    def observe(self, event: Event) -> None:
        """Take in one committed event."""
        with self._lock:
            state = self._states.get(event.workload) or history.start(event.workload)
            self._states[event.workload] = history.advance(state, event)

    def forget(self, index: int, entry: Entry, fields: tuple[str, ...]) -> None:
        """Drop what was redacted of an entry."""
        del index
        event = entry.event
        with self._lock:
            state = self._states.get(event.workload)
            if state is not None and event.kind == "release.quarantined" and "reason" in fields:
                release = str(event.data.get("release", ""))
                if release in state.quarantined:
                    kept = {**state.quarantined, release: ""}
                    self._states[event.workload] = msgspec.structs.replace(state, quarantined=kept)

    def of(self, workload: str) -> history.WorkloadState:
        """The state of one workload."""
        with self._lock:
            return self._states.get(workload) or history.start(workload)

    def names(self) -> tuple[str, ...]:
        """Every workload that the ledger knows."""
        with self._lock:
            return tuple(sorted(name for name in self._states if name))


class Opened:
    """An agent's fleet and the threads that feed it."""

    def __init__(self, fleet: Fleet, world: World, ledger: LedgerPort) -> None:
        self.fleet = fleet
        self._world = world
        self._ledger = ledger
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._stamper: Stamper | None = None

    def begin(self) -> None:
        """Start supervision."""
        for name, work in (
            ("gate-reports", self._hear_gate),
            ("fleet", self.fleet.run),
            ("heartbeat", self._beat),
        ):
            thread = threading.Thread(target=work, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        self._stamper = Stamper(self._world.places) if cosigning.settings(self._world.places).authorities else None

    def _hear_gate(self) -> None:
        for number, report in self._world.gate.reports():
            if self._take(report):
                # acknowledged only now: what is not committed comes again
                self._world.gate.ack(number)

    def _take(self, report: Report) -> bool:
        """Handle a report; whether it is in the ledger."""
        try:
            self.fleet.on_report(report)
        except Exception:
            log.exception("a report could not be handled: %s", report)
            return False
        return True

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                self._world.record("", "heartbeat")
            except SteleError as error:
                log.error("no heartbeat: %s", error.reason)  # noqa: TRY400  the reason says it all

    def close(self) -> None:
        """Stop the threads and close everything; instances and the gate go on."""
        self._stop.set()
        if self._stamper is not None:
            self._stamper.close()
        with contextlib.suppress(Exception):
            self._world.sensor.close()
        self._world.gate.close()
        self._ledger.close()


def open_fleet(places: Places) -> Opened:
    """Open everything of the agent, clean up after a killed one, and take over what runs.

    Raises:
        SteleError: `run.*`, `watch.*`, `ledger.*`: the agent cannot run here, with what to do about it.
    """
    ways = ways_of(places)
    ledger: LedgerPort = opening.hold_ledger(places)
    try:
        histories = _histories(places, ledger)
        whole = ledger.read_only is None
        recorder = Recorder(ledger.append, actor="agent", clock=time.time_ns, observe=histories.observe)
        made = threading.Event()

        def hear(report: Report) -> None:
            made.wait()
            fleet.on_report(report)

        network = Network(places.run)
        swept = sweep.sweep(places.run, ways.cgroups, network)
        unfinished = collect.sweep(places.evidence) if whole and places.evidence.exists() else []
        gate_client.launch(places.run)
        runtime = Runtime(run_dir=places.run, logs=places.logs, ways=ways, network=network, listener=places.run / "seccomp.sock")
        store = opening.open_store(places)
        world = World(
            places=places,
            store=store,
            record=recorder,
            runtime=runtime,
            network=network,
            gate=gate_client.GateClient(places.run),
            sensor=Sensor(hear),
            history=histories.of,
            workloads=histories.names,
            now_ns=time.time_ns,
            fresh_id=lambda: secrets.token_hex(3),
            custody=Custody(places, recorder, ledger.publish, lambda: ledger.erasing, histories.forget),
            standing=Standing(store, places),
        )
        if whole:
            taken = {"erofs": ways.erofs, "freezer": ways.freezer}
            recorder("", "agent.started", swept=swept[:50], unfinished_evidence=unfinished[:50], ways=taken)
        fleet = Fleet(world, ledger)
        made.set()
        fleet.adopt(runtime.adopt(), runtime.quarantined())
        return Opened(fleet, world, ledger)
    except BaseException:
        ledger.close()
        _leave_nothing(places, ways)
        raise


def _histories(places: Places, ledger: LedgerPort) -> Histories:
    """What the ledger tells, up to where it can be read."""
    histories = Histories()
    try:
        holding.publish(ledger)
    except SteleError:
        if ledger.read_only is None:
            raise
        log.error("the ledger is READ-ONLY: %s", ledger.read_only.reason)  # noqa: TRY400  the reason says it all
    try:
        for _, entry in reading.entries(places):
            histories.observe(entry.event)
        for entry in ledger.uncovered():  # held back by witnesses: it happened all the same
            histories.observe(entry.event)
    except SteleError as error:
        if ledger.read_only is None:
            raise
        log.error("it can be read in part only: %s", error.reason)  # noqa: TRY400
    return histories


def _leave_nothing(places: Places, ways: Ways) -> None:
    """An agent that could not start takes its gate with it, unless there is something to guard."""
    with contextlib.suppress(Exception):
        if not record.folders(places.run):
            gate_client.GateClient(places.run).shutdown()
            sweep.clear(places.run, ways.cgroups, Network(places.run))


def ways_of(places: Places) -> Ways:
    """The ways that this host takes.

    Raises:
        SteleError: `run.unprivileged`, `run.no-cgroups`, `run.kernel-lacks`: instances cannot run here.
    """
    images = places.store / "erofs"
    images.mkdir(parents=True, exist_ok=True)
    return host_ways.find(images)
