"""The story of workloads over time: which release served when, deploys, incidents, rollbacks, and when no agent was there. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from stele.flow import log_rows
from stele.model.event import HOST_WORKLOAD
from stele.model.selection import GROUPS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from stele.model.event import Entry, Event

Tone = Literal["plain", "good", "turn", "bad"]
# what is read for it
KINDS = frozenset({*GROUPS["deploys"], *GROUPS["instances"], *GROUPS["incidents"], "agent.started", "agent.stopped"})


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """From `begin_ns` to before `end_ns` an instance of a release served, or was started and did not yet (`serves` false)."""

    release: str
    instance: str
    begin_ns: int
    end_ns: int
    serves: bool


class Item(msgspec.Struct, kw_only=True):
    """One thing that happened, in a sentence that grows while its consequences are read. `mark`: a letter of the chart."""

    time_ns: int
    mark: Literal["deploy", "rollback", "incident", "failed", "stopped", "agent"]
    tone: Tone
    text: str


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """No agent recorded anything. `died`: it did not say that it ended. `removed`: it took all instances along. `lasts`: still so."""

    begin_ns: int
    end_ns: int
    died: bool = False
    removed: bool = False
    lasts: bool = False


class Lane(msgspec.Struct, kw_only=True):
    """One workload. `items`: oldest first."""

    workload: str
    spans: list[Span] = msgspec.field(default_factory=list)
    items: list[Item] = msgspec.field(default_factory=list)

    def releases(self) -> list[str]:
        """Those that appear, in the order in which they first did."""
        return list(dict.fromkeys(span.release for span in self.spans))


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """All lanes, those that changed last first. `begin_ns` to `end_ns`: what is shown."""

    begin_ns: int
    end_ns: int
    lanes: list[Lane]
    gaps: list[Gap]


class _Story:
    """Folds one workload's entries."""

    def __init__(self, workload: str) -> None:
        self.lane = Lane(workload=workload)
        self.last_ns = 0
        self._serving: tuple[str, str, int] | None = None  # instance, release, since
        self._starting: dict[str, tuple[str, int]] = {}  # instance: release, since
        self._deploy: Item | None = None
        self._deploy_of = ""
        self._incidents: dict[str, Item] = {}

    def take(self, entry: Entry) -> None:
        event = entry.event
        facts = log_rows.facts(entry)
        text = {key: value if isinstance(value, str) else "" for key, value in facts.items()}
        self.last_ns = max(self.last_ns, event.time_ns)
        handler: Callable[..., None] | None = getattr(self, "_on_" + event.kind.replace(".", "_").replace("-", "_"), None)
        if handler is not None:
            handler(event.time_ns, text.get, facts, log_rows.who(entry) if event.actor == "operator" else "")

    def end(self, end_ns: int) -> Lane:
        self._stop_serving(end_ns)
        for instance, (release, since) in self._starting.items():
            self._span(release, instance, since, end_ns, serves=False)
        return self.lane

    def _say(self, time_ns: int, mark: Any, tone: Tone, text: str) -> Item:
        item = Item(time_ns=time_ns, mark=mark, tone=tone, text=text)
        self.lane.items.append(item)
        return item

    def _span(self, release: str, instance: str, begin: int, end: int, *, serves: bool) -> None:
        self.lane.spans.append(Span(release=release, instance=instance, begin_ns=begin, end_ns=max(begin, end), serves=serves))

    def _stop_serving(self, time_ns: int) -> None:
        if self._serving is not None:
            instance, release, since = self._serving
            self._span(release, instance, since, time_ns, serves=True)
            self._serving = None

    def _gone(self, time_ns: int, instance: str) -> bool:
        """An instance is no more; whether it served."""
        if instance in self._starting:
            release, since = self._starting.pop(instance)
            self._span(release, instance, since, time_ns, serves=False)
        if self._serving is not None and self._serving[0] == instance:
            self._stop_serving(time_ns)
            return True
        return False

    def _on_instance_starting(self, now: int, text: Any, facts: dict[str, Any], who: str) -> None:
        del facts, who
        self._starting[text("instance", "")] = (text("release", ""), now)

    def _on_instance_active(self, now: int, text: Any, facts: dict[str, Any], who: str) -> None:
        del facts, who
        instance, release = text("instance", ""), text("release", "")
        self._gone(now, instance)
        self._stop_serving(now)
        self._serving = (instance, release, now)
        if self._deploy is not None and self._deploy_of == release:
            self._deploy.text += f"; served after {log_rows.took(max(0, now - self._deploy.time_ns))}"

    def _on_instance_stopped(self, now: int, text: Any, facts: dict[str, Any], who: str) -> None:
        del facts
        if self._gone(now, text("instance", "")):
            self._say(now, "stopped", "turn", f"stopped{_by(who)}: {text('reason', '') or 'no reason was given'}; nothing serves")

    def _on_instance_failed(self, now: int, text: Any, facts: dict[str, Any], who: str) -> None:
        del facts, who
        served = self._gone(now, text("instance", ""))
        also = "; nothing serves" if served else ""
        self._say(now, "failed", "bad", f"{text('instance', '')} failed: {text('reason', '')}{also}")

    def _on_deploy_started(self, now: int, text: Any, facts: dict[str, Any], who: str) -> None:
        del facts
        reason, release, previous = text("reason", ""), text("release", ""), text("previous", "")
        back = "rollback" in reason
        name = {"rollback": "rollback to", "auto-rollback": "rollback by itself to"}.get(reason, "deploy of")
        over = f" in place of {log_rows.short(previous)}" if previous else ""
        self._deploy_of = release
        self._deploy = self._say(now, "rollback" if back else "deploy", "turn", f"{name} {log_rows.short(release)}{over}{_by(who)}")

    def _on_deploy_confirmed(self, now: int, text: Any, facts: dict[str, Any], who: str) -> None:
        del text, facts, who
        if self._deploy is not None:
            self._deploy.text += f", confirmed after {log_rows.took(max(0, now - self._deploy.time_ns))}"
            self._deploy.tone, self._deploy = "good", None

    def _on_deploy_failed(self, now: int, text: Any, facts: dict[str, Any], who: str) -> None:
        del facts, who
        what = f"FAILED: {text('reason', '')}"
        if self._deploy is not None:
            self._deploy.text += f"; {what}"
            self._deploy.tone, self._deploy = "bad", None
        else:
            self._say(now, "failed", "bad", f"deploy of {log_rows.short(text('release', ''))} {what}")

    def _on_release_quarantined(self, now: int, text: Any, facts: dict[str, Any], who: str) -> None:
        del facts
        self._say(now, "failed", "bad", f"release {log_rows.short(text('release', ''))} is quarantined: {text('reason', '')}{_by(who)}")

    def _on_release_pardoned(self, now: int, text: Any, facts: dict[str, Any], who: str) -> None:
        del facts
        self._say(now, "deploy", "turn", f"release {log_rows.short(text('release', ''))} is pardoned{_by(who)}")

    def _incident(self, now: int, name: str) -> Item:
        if name not in self._incidents:
            self._incidents[name] = self._say(now, "incident", "bad", f"incident {name}")
        return self._incidents[name]

    def _on_violation(self, now: int, text: Any, facts: dict[str, Any], who: str) -> None:
        del facts, who
        name = text("incident", "")
        what = " ".join(part for part in (text("kind", ""), text("syscall", ""), text("path", "")) if part)
        by = f" by {text('comm', '')}" if text("comm", "") else ""
        if name:
            self._incident(now, name).text += f": {what}{by} in {text('instance', '')}"
        else:
            self._say(now, "incident", "bad", f"violation, reported only: {what}{by}")

    _on_watcher_lost = _on_violation

    def _on_instance_frozen(self, now: int, text: Any, facts: dict[str, Any], who: str) -> None:
        del who
        took = f" in {log_rows.took(facts['took_ns'])}" if facts.get("took_ns") else ""
        self._incident(now, text("incident", "")).text += f"; frozen{took}"
        self._gone(now, text("instance", ""))

    def _on_incident_resolved(self, now: int, text: Any, facts: dict[str, Any], who: str) -> None:
        del facts, who
        item = self._incident(now, text("incident", ""))
        item.text += f"; replaced by {text('instance', '')} after {log_rows.took(max(0, now - item.time_ns))}"

    def _on_incident_unresolved(self, now: int, text: Any, facts: dict[str, Any], who: str) -> None:
        del facts, who
        self._incident(now, text("incident", "")).text += f"; NOT REPLACED: {text('reason', '')}"

    def _on_evidence_sealed(self, now: int, text: Any, facts: dict[str, Any], who: str) -> None:
        del facts, who
        self._incident(now, text("incident", "")).text += "; evidence sealed"

    def _on_evidence_failed(self, now: int, text: Any, facts: dict[str, Any], who: str) -> None:
        del facts, who
        self._incident(now, text("incident", "")).text += f"; NO EVIDENCE: {text('reason', '')}"


def _by(who: str) -> str:
    return f" by {who}" if who else ""


def _stopped(event: Event, end_ns: int, *, lasts: bool = False) -> Gap:
    removed = event.data.get("removed") is True
    return Gap(begin_ns=event.time_ns, end_ns=max(event.time_ns, end_ns), removed=removed, lasts=lasts)


def build(entries: Iterable[tuple[int, Entry]], *, begin_ns: int, end_ns: int, time_before: Callable[[int], int]) -> Timeline:
    """Fold entries of KINDS, in the order of the log.

    Args:
        entries: index and entry.
        begin_ns: what is before is not shown, but counts; 0: from the first.
        end_ns: until when; what serves then is drawn to here.
        time_before: when the entry before an index was made: the last sign of life of an agent that died.
    """
    stories: dict[str, _Story] = {}
    gaps: list[Gap] = []
    stopped: Event | None = None
    agents = 0
    first = 0
    for index, entry in entries:
        event = entry.event
        first = first or event.time_ns
        if event.workload != HOST_WORKLOAD:
            stories.setdefault(event.workload, _Story(event.workload)).take(entry)
        elif event.kind == "agent.stopped":
            stopped = event
        elif event.kind == "agent.started":
            if stopped is not None:
                gaps.append(_stopped(stopped, event.time_ns))
            elif agents:
                begin = time_before(index)
                gaps.append(Gap(begin_ns=begin, end_ns=max(begin, event.time_ns), died=True))
            stopped, agents = None, agents + 1
    if stopped is not None:
        gaps.append(_stopped(stopped, end_ns, lasts=True))
    begin = max(begin_ns, first)
    lanes = []
    for story in sorted(stories.values(), key=lambda each: -each.last_ns):
        lane = story.end(end_ns)
        lane.spans = [span for span in lane.spans if span.end_ns >= begin and span.begin_ns < end_ns]
        lane.items = [item for item in lane.items if item.time_ns >= begin]
        if lane.spans or lane.items:
            lanes.append(lane)
    shown = [gap for gap in gaps if gap.end_ns >= begin]
    return Timeline(begin_ns=begin, end_ns=max(end_ns, begin + 1), lanes=lanes, gaps=shown)
