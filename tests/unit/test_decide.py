"""What follows from a report: by kind and policy, with back-off, and never a restart loop."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.model.report import Report
from stele.model.spec import Respond, Watch
from stele.respond import decide
from stele.respond.decide import Kept

SECOND = 1_000_000_000


def _report(kind: str = "exec-unsealed", *, frozen: bool = False) -> Report:
    return Report(instance="shop-1", kind=kind, is_frozen=frozen)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "policy", "freezes"),
    [
        ("exec-unsealed", Watch(), True),
        ("exec-unsealed", Watch(exec="report"), False),
        ("script-unsealed", Watch(), True),
        ("script-unsealed", Watch(scripts="report"), False),
        ("forbidden-call", Watch(), True),
        ("forbidden-call", Watch(forbidden="report"), False),
        ("write-refused", Watch(), False),
        ("write-refused", Watch(writes="freeze"), True),
        ("mount-change", Watch(), True),
        ("change", Watch(), False),
        ("foreign-process", Watch(), False),
        ("watcher-lost", Watch(), True),
    ],
)
def test_the_policy_decides_by_kind(kind: str, policy: Watch, freezes: bool) -> None:
    decision, _ = decide.decide(None, _report(kind), policy, Respond(), SECOND)
    assert decision.quarantine is freezes
    assert decision.replace is freezes


def test_what_comes_frozen_is_an_incident_whatever_the_policy_says() -> None:
    lenient = Watch(exec="report", forbidden="report", scripts="report", mounts="report")
    decision, _ = decide.decide(None, _report(frozen=True), lenient, Respond(), SECOND)
    assert decision.quarantine


def test_repeated_incidents_wait_longer_and_then_quarantine_the_release() -> None:
    state, delays = None, []
    for number in range(1, 8):
        decision, state = decide.decide(state, _report(frozen=True), Watch(), Respond(max_incidents=5), number * SECOND)
        delays.append(decision.delay_ms)
        assert decision.quarantine
        assert decision.replace is (number <= 5)
        assert decision.quarantine_release is (number > 5)
    assert delays[:5] == [0, 0, 250, 500, 1000]


def test_incidents_outside_the_window_are_forgotten() -> None:
    state = None
    for number in range(20):
        decision, state = decide.decide(state, _report(frozen=True), Watch(), Respond(window="10s"), number * 11 * SECOND)
        assert decision.replace
        assert decision.delay_ms == 0


@given(st.lists(st.integers(0, 400), min_size=1, max_size=30), st.integers(1, 10))
def test_within_a_window_delays_never_shrink_and_replacement_never_resumes(gaps: list[int], limit: int) -> None:
    state, now, last, stopped = None, 0, 0, False
    for gap in gaps:
        now += gap * 1_000_000
        decision, state = decide.decide(state, _report(frozen=True), Watch(), Respond(max_incidents=limit, window="1h"), now)
        assert not (stopped and decision.replace)
        if decision.replace:
            assert decision.delay_ms >= last
            last = decision.delay_ms
        stopped = stopped or not decision.replace


@given(
    st.lists(
        st.builds(Kept, incident=st.uuids().map(str), kind=st.sampled_from("abc"), time_ns=st.integers(0, 50), size=st.integers(0, 100)),
        unique_by=lambda item: item.incident,
    ),
    st.integers(0, 1000),
)
def test_eviction_drops_no_more_than_needed_and_keeps_first_and_last_of_each_kind(bundles: list[Kept], budget: int) -> None:
    dropped = set(decide.evict(bundles, budget))
    kept = [item for item in bundles if item.incident not in dropped]
    if sum(item.size for item in bundles) <= budget:
        assert not dropped
    for kind in {item.kind for item in bundles}:
        ordered = sorted((item for item in bundles if item.kind == kind), key=lambda item: (item.time_ns, item.incident))
        assert ordered[0] in kept
        assert ordered[-1] in kept
    by_incident = {item.incident: item for item in bundles}
    if dropped:
        newest = max(dropped, key=lambda name: (by_incident[name].time_ns, name))
        assert sum(item.size for item in kept) + by_incident[newest].size > budget
