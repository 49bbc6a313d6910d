"""What follows from a report. Pure: state, report, policy and time in; decision and new state out (docs/spec/response.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stele.model.units import parse_duration_ms

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from stele.model.report import Report
    from stele.model.spec import Respond, Watch

FIRST_DELAY_MS = 250
LONGEST_DELAY_MS = 30_000
FREE_INCIDENTS = 2  # so many within the window are answered at once; after that each waits longer


class IncidentState(msgspec.Struct, frozen=True, kw_only=True):
    """When the incidents of a workload within its window happened (UTC nanoseconds, oldest first)."""

    times: tuple[int, ...] = ()


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to do.

    `quarantine`: freeze, cut and keep the instance. `replace`: bring a clean one, after `delay_ms`.
    `quarantine_release`: do not run this release again by itself. `reason`: for the record, in plain words.
    """

    quarantine: bool
    replace: bool
    delay_ms: int = 0
    quarantine_release: bool = False
    reason: str = ""


def wants_freeze(report: Report, watch: Watch) -> bool:
    """Whether the policy asks to freeze for a report of this kind."""
    chosen = {
        "exec-unsealed": watch.exec,
        "script-unsealed": watch.scripts,
        "forbidden-call": watch.forbidden,
        "write-refused": watch.writes,
        "change": "report",
        "mount-change": watch.mounts,
        "foreign-process": "report",  # the instance is evidence already
        # what a lost watcher would have seen is unknown: that is treated as the worst it could have been
        "watcher-lost": "freeze",
    }[report.kind]
    return chosen == "freeze"


def decide(state: IncidentState | None, report: Report, watch: Watch, respond: Respond, now_ns: int) -> tuple[Decision, IncidentState]:
    """Decide on one report.

    Args:
        state: of this workload, from the previous decision; None at first.
        report: what was seen. One that comes frozen is always an incident, whatever the policy says.
        watch: the sealed policy by kind.
        respond: the sealed limits.
        now_ns: UTC nanoseconds.
    """
    state = state or IncidentState()
    if not report.is_frozen and not wants_freeze(report, watch):
        return Decision(quarantine=False, replace=False, reason="recorded"), state
    window_ns = parse_duration_ms(respond.window) * 1_000_000
    times = (*(moment for moment in state.times if now_ns - moment < window_ns), now_ns)
    state = IncidentState(times=times[-1000:])
    if len(times) > respond.max_incidents:
        reason = f"{len(times)} incidents within {respond.window}: replaying the same release would replay the same hole"
        return Decision(quarantine=True, replace=False, quarantine_release=True, reason=reason), state
    late = len(times) - FREE_INCIDENTS
    delay = min(FIRST_DELAY_MS * 2 ** (late - 1), LONGEST_DELAY_MS) if late > 0 else 0
    return Decision(quarantine=True, replace=True, delay_ms=delay, reason=f"incident {len(times)} within {respond.window}"), state


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """An evidence bundle as the budget sees it."""

    incident: str
    kind: str
    time_ns: int
    size: int


def evict(bundles: Sequence[Kept], budget: int, held: AbstractSet[str] = frozenset()) -> tuple[str, ...]:
    """Which bundles to drop so that the rest fits `budget` bytes: the oldest first, but the first and the last of each kind stay, and
    those of incidents that a legal hold is on.

    If what must stay is larger than the budget, nothing more is dropped: evidence is not thrown away to please a number.
    """
    ordered = sorted(bundles, key=lambda item: (item.time_ns, item.incident))
    first = {item.kind: item.incident for item in reversed(ordered)}
    last = {item.kind: item.incident for item in ordered}
    stay = {*first.values(), *last.values(), *held}
    total = sum(item.size for item in ordered)
    dropped = []
    for item in ordered:
        if total <= budget:
            break
        if item.incident not in stay:
            dropped.append(item.incident)
            total -= item.size
    return tuple(dropped)
