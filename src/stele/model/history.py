"""The state of a workload as its entries tell it. Pure: reduce entries in order; the same code serves agent, status and verifier.

Which event means what: docs/spec/event.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from stele.model.event import Event


class Live(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An instance that runs or is frozen, and since when (UTC nanoseconds)."""

    instance: str
    release: str
    since_ns: int


class WorkloadState(msgspec.Struct, frozen=True, kw_only=True):
    """What is the case after some entries.

    `active_*`: what serves ("" if nothing does). `running`, `frozen`: by instance id (frozen: by incident).
    `good`: confirmed releases, the latest last, each once. `quarantined`: release to reason.
    """

    workload: str
    active_release: str = ""
    active_instance: str = ""
    active_since_ns: int = 0
    running: Mapping[str, Live] = {}
    frozen: Mapping[str, Live] = {}
    good: tuple[str, ...] = ()
    quarantined: Mapping[str, str] = {}
    sealed: tuple[str, ...] = ()
    last_ns: int = 0


def start(workload: str) -> WorkloadState:
    """The state before the first entry."""
    return WorkloadState(workload=workload)


def _without(mapping: Mapping[str, Live], key: str) -> dict[str, Live]:
    return {name: live for name, live in mapping.items() if name != key}


def _text(event: Event, key: str) -> str:
    value = event.private.get(key, event.data.get(key, ""))
    return value if isinstance(value, str) else ""


def advance(state: WorkloadState, event: Event) -> WorkloadState:
    """The state after one more event of the workload; unknown facts change nothing."""
    change = msgspec.structs.replace
    state = change(state, last_ns=max(state.last_ns, event.time_ns))
    instance, release = _text(event, "instance"), _text(event, "release")
    kind = event.kind
    if kind == "release.sealed":
        return change(state, sealed=(*(known for known in state.sealed if known != release), release))
    if kind == "instance.starting":
        live = Live(instance=instance, release=release, since_ns=event.time_ns)
        return change(state, running={**state.running, instance: live})
    if kind == "instance.active":
        return change(state, active_release=release, active_instance=instance, active_since_ns=event.time_ns)
    if kind in {"instance.stopped", "instance.failed"}:
        return _gone(change(state, running=_without(state.running, instance)), instance, kind)
    if kind == "instance.frozen":
        live = Live(instance=instance, release=release, since_ns=event.time_ns)
        frozen = {**state.frozen, _text(event, "incident"): live}
        return _gone(change(state, running=_without(state.running, instance), frozen=frozen), instance, kind)
    if kind == "quarantine.released":
        return change(state, frozen=_without(state.frozen, _text(event, "incident")))
    if kind == "deploy.confirmed":
        return change(state, good=(*(known for known in state.good if known != release), release))
    if kind == "release.quarantined":
        return change(state, quarantined={**state.quarantined, release: _text(event, "reason")})
    if kind == "release.pardoned":
        return change(state, quarantined={key: value for key, value in state.quarantined.items() if key != release})
    return state


def _gone(state: WorkloadState, instance: str, kind: str) -> WorkloadState:
    """If the serving instance is gone, nothing serves; which release should is kept unless it was stopped on purpose."""
    if instance != state.active_instance:
        return state
    keep = state.active_release if kind != "instance.stopped" else ""
    return msgspec.structs.replace(state, active_instance="", active_release=keep, active_since_ns=0)


def at(workload: str, events: Iterable[Event], at_ns: int) -> WorkloadState:
    """The state at an instant: after every entry before the first one that is stamped later.

    The order of the entries is certain, their clock is not. Where the host's clock was set back, entries carry earlier stamps than
    one before them: they count from that one's stamp on (`reached_ns`), so that the state is always that after a beginning of the
    chain.
    """
    state = start(workload)
    for event in events:
        if event.time_ns > at_ns:
            break
        state = advance(state, event)
    return state


def reached_ns(events: Iterable[Event]) -> int:
    """The latest stamp: from this instant on, all entries count."""
    return max((event.time_ns for event in events), default=0)


def steps_back(events: Iterable[Event]) -> int:
    """How many entries carry an earlier stamp than one before them."""
    latest = back = 0
    for event in events:
        back += event.time_ns < latest
        latest = max(latest, event.time_ns)
    return back


def reduce(workload: str, events: Iterable[Event]) -> WorkloadState:
    """The state after all events of one workload, in order."""
    state = start(workload)
    for event in events:
        state = advance(state, event)
    return state
