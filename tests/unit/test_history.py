"""What a workload's entries mean."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stele.model import history
from stele.model.event import KINDS, Event
from tests.ledgers import START, event


def run(*steps: tuple[str, dict]) -> history.WorkloadState:
    return history.reduce("shop", [event(number, kind=kind, **data) for number, (kind, data) in enumerate(steps)])


ONE = {"instance": "shop-1", "release": "sha256:1"}
TWO = {"instance": "shop-2", "release": "sha256:2"}
SERVING = [("instance.starting", ONE), ("instance.active", ONE)]


def test_a_release_comes_into_service_and_is_confirmed():
    state = run(("release.sealed", {"release": "sha256:1"}), *SERVING, ("deploy.confirmed", {"release": "sha256:1"}))
    assert (state.active_instance, state.active_release, state.active_since_ns) == ("shop-1", "sha256:1", START + 2)
    assert state.running["shop-1"] == history.Live(instance="shop-1", release="sha256:1", since_ns=START + 1)
    assert state.sealed == state.good == ("sha256:1",)
    assert state.last_ns == START + 3


def test_an_update_keeps_the_old_one_running_until_it_has_drained():
    state = run(*SERVING, ("instance.starting", TWO), ("instance.active", TWO), ("instance.draining", ONE))
    assert state.active_instance == "shop-2"
    assert set(state.running) == {"shop-1", "shop-2"}
    assert set(run(*SERVING, ("instance.starting", TWO), ("instance.active", TWO), ("instance.stopped", ONE)).running) == {"shop-2"}


def test_stopped_on_purpose_nothing_should_serve_failed_it_should():
    stopped, failed = run(*SERVING, ("instance.stopped", ONE)), run(*SERVING, ("instance.failed", ONE))
    assert (stopped.active_instance, stopped.active_release) == ("", "")
    assert (failed.active_instance, failed.active_release, failed.running) == ("", "sha256:1", {})


def test_frozen_is_not_serving_and_ends_when_it_is_released():
    frozen = run(*SERVING, ("instance.frozen", {**ONE, "incident": "shop-i1"}))
    assert (frozen.active_instance, frozen.running, frozen.frozen["shop-i1"].release) == ("", {}, "sha256:1")
    assert run(*SERVING, ("instance.frozen", {**ONE, "incident": "i"}), ("quarantine.released", {"incident": "i"})).frozen == {}


def test_quarantine_and_pardon():
    state = run(("release.quarantined", {"release": "sha256:1", "reason": "why"}))
    assert state.quarantined == {"sha256:1": "why"}
    assert run(("release.quarantined", {"release": "r", "reason": ""}), ("release.pardoned", {"release": "r"})).quarantined == {}


def test_confirming_again_moves_to_the_end():
    state = run(*[("deploy.confirmed", {"release": name}) for name in ("a", "b", "a")])
    assert state.good == ("b", "a")


def test_the_state_at_an_instant_is_after_a_beginning_of_the_chain():
    kinds = [10, 20, 15, 30]  # the third stamp: the clock was set back
    events = [Event(workload="shop", kind="deploy.confirmed", time_ns=stamp, actor="t", data={"release": str(stamp)}) for stamp in kinds]
    expected = {9: (), 10: ("10",), 17: ("10",), 19: ("10",), 20: ("10", "20", "15"), 29: ("10", "20", "15"), 30: ("10", "20", "15", "30")}
    for instant, good in expected.items():
        assert history.at("shop", events, instant).good == good
    assert history.reached_ns(events) == 30
    assert history.steps_back(events) == 1
    assert history.steps_back(events[:2]) == history.reached_ns([]) == 0


junk = st.dictionaries(
    st.sampled_from(["instance", "release", "incident", "reason"]), st.sampled_from(["a", "b", "", 1, None, [], {"x": 1}]), max_size=4
)
entries = st.lists(st.tuples(st.sampled_from(sorted(KINDS)), junk, st.integers(0, 50)), max_size=30)


@given(entries, st.integers(0, 60))
def test_any_entries_have_a_state_and_it_is_that_of_a_prefix(steps, instant):
    events = [Event(workload="w", kind=kind, time_ns=stamp, actor="", data=data) for kind, data, stamp in steps]
    prefixes = [history.reduce("w", events[:count]) for count in range(len(events) + 1)]
    assert history.at("w", events, instant) in prefixes
    assert history.at("w", events, history.reached_ns(events)) == prefixes[-1]
    if prefixes[-1].active_instance:
        assert prefixes[-1].active_since_ns >= 0


@given(entries, st.integers(0, 30))
def test_reducing_in_two_parts_is_reducing_at_once(steps, cut):
    events = [Event(workload="w", kind=kind, time_ns=stamp, actor="", data=data) for kind, data, stamp in steps]
    state = history.reduce("w", events[:cut])
    for item in events[cut:]:
        state = history.advance(state, item)
    assert state == history.reduce("w", events)
