"""What the agent's flows work with: every opened resource of one host, joined here and nowhere else."""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from stele.flow.places import Places
    from stele.flow.record import Recorder
    from stele.model.history import WorkloadState
    from stele.model.instance import Instance
    from stele.model.release import Release
    from stele.respond.decide import IncidentState
    from stele.run.container import Runtime
    from stele.run.network import Network
    from stele.store.layout import Layout
    from stele.watch.client import GateClient
    from stele.watch.sensor import Sensor


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
    now_ns: Callable[[], int]
    fresh_id: Callable[[], str]


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
    draining: list[Instance] = dataclasses.field(default_factory=list)
    frozen: dict[str, tuple[Instance, str]] = dataclasses.field(default_factory=dict)  # by incident; with the release
    spare_lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    incidents: IncidentState | None = None
    unhealthy: int = 0
    deploy_id: str = ""  # a deploy that waits for its confirm window, and when (monotonic seconds) that ends
    confirm_at: float = 0.0
    stopped: threading.Event = dataclasses.field(default_factory=threading.Event)
