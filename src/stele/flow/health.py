"""Waiting for an instance to be healthy, and looking whether it still is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from stele.host import http
from stele.model.units import parse_duration_ms

if TYPE_CHECKING:
    from collections.abc import Callable

    from stele.model.instance import Instance
    from stele.model.spec import Spec

FIRST_PAUSE_S = 0.001
LONGEST_PAUSE_S = 0.1


def look(instance: Instance, spec: Spec) -> str:
    """One probe: "" if healthy, else why not. A spec without a health check only asks for a live process."""
    if spec.health is None:
        return ""
    return http.probe(instance.address, spec.health.port, spec.health.http, parse_duration_ms(spec.health.timeout) / 1000)


def await_healthy(instance: Instance, spec: Spec, exited: Callable[[], str]) -> str:
    """Probe until healthy, exited, or the start time is over.

    Args:
        instance: a started instance.
        spec: its sealed spec.
        exited: says how the instance ended, "" while it runs.

    Returns:
        "" when healthy, else the reason in a few words.
    """
    limit = time.monotonic() + (parse_duration_ms(spec.health.start) / 1000 if spec.health else 0.0)
    pause = FIRST_PAUSE_S
    while True:
        ended = exited()
        if ended:
            return f"it ended by itself: {ended}"
        why = look(instance, spec)
        if not why:
            return ""
        if time.monotonic() >= limit:
            return f"not healthy within {spec.health.start if spec.health else '0s'}: {why}"
        time.sleep(pause)
        pause = min(pause * 1.3, LONGEST_PAUSE_S)


def interval_s(spec: Spec) -> float:
    """Seconds between two probes of a serving instance."""
    return parse_duration_ms(spec.health.interval) / 1000 if spec.health else 1.0
