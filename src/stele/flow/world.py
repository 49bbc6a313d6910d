"""What the agent's flows work with: every opened resource of one host, joined here and nowhere else."""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from stele.flow.custody import Custody
    from stele.flow.places import Places
    from stele.flow.record import Recorder
    from stele.flow.standing import Standing
    from stele.model.history import WorkloadState
    from stele.model.instance import Instance
    from stele.model.release import Release
    from stele.respond.decide import IncidentState
    from stele.run.container import Runtime
    from stele.run.network import Network
    from stele.store.layout import Layout
    from stele.watch.client import GateClient
    from stele.watch.sensor import Sensor

RESTART_WINDOW_S = 600.0
LONGEST_DELAY_MS = 30_000


@dataclasses.dataclass
class World:
    """Opened resources. `now_ns` is the wall clock, `fresh_id` gives unused short ids."""

    places: Places
    store: Layout
    record: Recorder
    runtime: Runtime
    network: Network
    gate: GateClient
    sensor: Sensor
    history: Callable[[str], WorkloadState]
    workloads: Callable[[], tuple[str, ...]]
    now_ns: Callable[[], int]
    fresh_id: Callable[[], str]
    custody: Custody
    standing: Standing

    def by(self, person: str) -> World:
        """The same world, recording what an operator asked for."""
        return dataclasses.replace(self, record=self.record.by(person))


@dataclasses.dataclass
class Running:
    """What the agent knows of one workload beside its history: live instances, by role.

    `lock` guards the fields and is held only for changes of state, never while waiting;
    `deploying` makes changes of release come one after the other.
    """

    name: str
    lock: threading.RLock = dataclasses.field(default_factory=threading.RLock)
    deploying: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    active: Instance | None = None
    release: Release | None = None
    spares: dict[str, Instance] = dataclasses.field(default_factory=dict)
    candidates: dict[str, tuple[Instance, Release]] = dataclasses.field(default_factory=dict)
    drained: threading.Condition = dataclasses.field(default_factory=threading.Condition)  # guards `draining` and `replacing`
    draining: list[Instance] = dataclasses.field(default_factory=list)
    replacing: int = 0  # replacements under way
    frozen: dict[str, tuple[Instance, str]] = dataclasses.field(default_factory=dict)  # by incident; with the release
    spare_lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    incidents: IncidentState | None = None
    collecting: dict[str, threading.Event] = dataclasses.field(default_factory=dict)  # by incident; set when done
    restarts: list[float] = dataclasses.field(default_factory=list)
    unhealthy: int = 0
    refused: str = ""  # why the release is no longer accepted
    deploy_id: str = ""  # a deploy that waits for its confirm window, and when (monotonic seconds) that ends
    confirm_at: float = 0.0
    stopped: threading.Event = dataclasses.field(default_factory=threading.Event)

    def wait_drained(self) -> None:
        """Wait until no instance is being drained any more."""
        with self.drained:
            self.drained.wait_for(lambda: not self.draining)

    def wait_replaced(self) -> None:
        """Wait until no instance is on its way to replace another."""
        with self.drained:
            self.drained.wait_for(lambda: not self.replacing)

    def wait_collected(self, incident: str) -> None:
        """Wait until the evidence of an incident is sealed (or its collection failed)."""
        done = self.collecting.get(incident)
        if done is not None:
            done.wait()

    def next_delay_ms(self, now_s: float) -> int:
        """Back-off before the next restart: none at first, then doubling with each restart of the last ten minutes."""
        self.restarts = [moment for moment in self.restarts if now_s - moment < RESTART_WINDOW_S]
        self.restarts.append(now_s)
        return 0 if len(self.restarts) < 2 else min(250 * 2 ** (len(self.restarts) - 2), LONGEST_DELAY_MS)
