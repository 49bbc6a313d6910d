"""Holds: what is held stays, and who held it is on record."""

from __future__ import annotations

import pytest
from hypothesis import given

from stele.flow import custody
from stele.ledger.reader import LedgerReader
from stele.model import hold
from stele.model.event import Entry, Event
from stele.model.hold import On
from stele.respond import decide
from stele.trust.errors import SteleError
from tests.custody import JSON, OTHER, RELEASE, end, place, problems, redact, shown
from tests.refusals import code


@pytest.mark.parametrize(
    ("on", "held"),
    [
        ({"workload": "shop"}, {1, 3}), ({"release": RELEASE}, {1, 3}), ({"incident": "shop-i1"}, {1, 3}), ({"entries": (3, 4)}, {3, 4}),
        ({"release": OTHER}, {4}), ({"workload": "other"}, {4}), ({"entries": (0, 2**40)}, {1, 3, 4}), ({"incident": "shop-i2"}, set()),
    ],
)  # fmt: skip
def test_a_hold_blocks_the_redaction_of_what_it_is_on_and_of_nothing_else(places, on, held):
    place(places, **on)
    size = LedgerReader(places.ledger).size
    for index in sorted(held):
        assert code(redact, places, indexes={index}) == "hold.forbids"
    assert LedgerReader(places.ledger).size == size
    for index in sorted({1, 3, 4} - held):
        redact(places, indexes={index})
    assert problems(places) == []


def test_one_held_entry_blocks_the_whole_selection(places):
    place(places, incident="shop-i1")
    assert code(redact, places, fields=("reason", "how"), kind="evidence") == "hold.forbids"
    assert code(redact, places, indexes={1, 4}) == "hold.forbids"
    assert b"hunter2 is wrong" in (places.ledger / ".state/openings/0").read_bytes()


def test_a_hold_says_who_and_why_and_ends_only_by_an_entry(places):
    name = place(places, incident="shop-i1")
    (row,) = custody.listing(places, ended=False)
    assert (row["hold"], row["on"], row["person"], row["reason"]) == (name, {"incident": "shop-i1"}, "carol", "case 17")
    entry = shown(places)[row["index"]]
    assert (entry.event.workload, set(entry.event.data)) == ("", {"hold", "on"}), "who and why are not in clear"
    end(places, name)
    assert custody.listing(places, ended=False) == []
    (row,) = custody.listing(places, ended=True)
    assert (row["released"]["person"], row["released"]["reason"]) == ("carol", "case closed")
    assert code(end, places, name) == "hold.unknown"
    assert code(end, places, "hold-000000") == "hold.unknown"


def test_release_then_redact_works_and_is_visible(places):
    name = place(places, incident="shop-i1")
    end(places, name)
    redact(places, indexes={1})
    kinds = [entry.event.kind for entry in shown(places).values() if entry.event.kind.startswith(("hold.", "log."))]
    assert kinds == ["hold.placed", "hold.released", "log.redacted"]
    assert problems(places) == []


def test_two_holds_must_both_end(places):
    one, two = place(places, incident="shop-i1"), place(places, workload="shop")
    end(places, one)
    assert code(redact, places, indexes={1}) == "hold.forbids"
    end(places, two)
    redact(places, indexes={1})


def test_the_reason_of_a_hold_is_kept_by_a_hold_on_its_entry(places):
    place(places, incident="shop-i1")
    index = next(index for index, entry in shown(places).items() if entry.event.kind == "hold.placed")
    place(places, entries=(index, index))
    assert code(redact, places, indexes={index}) == "hold.forbids"


def test_deleting_the_projection_does_not_lift_a_hold(places):
    """Only the ledger says what stands."""
    place(places, incident="shop-i1")
    for path in places.ledger.glob("projection.sqlite*"):
        path.unlink()
    assert code(redact, places, indexes={1}) == "hold.forbids"


@pytest.mark.parametrize("on", [{"incident": "shop-i1"}, {"workload": "shop"}, {"release": RELEASE}, {"entries": (2, 2)}])
def test_evidence_and_frozen_instances_under_a_hold_must_be_kept(places, on):
    place(places, **on)
    with custody.alone(places) as mine:
        assert set(mine.held(["shop-i1", "shop-i2", "other-i1"])) == {"shop-i1"}
        assert set(mine.held([RELEASE, OTHER])) == {RELEASE}
        assert code(mine.keep, "the frozen instance", "shop-i1") == "hold.forbids"
        mine.keep("the frozen instance", "shop-i2")


def test_held_evidence_is_not_evicted_for_the_budget():
    kept = [decide.Kept(incident=f"i{number}", kind="violation", time_ns=number, size=10) for number in range(5)]
    assert decide.evict(kept, 30) == ("i1", "i2")
    assert decide.evict(kept, 30, frozenset({"i1"})) == ("i2", "i3")
    assert decide.evict(kept, 0, frozenset({"i1", "i2", "i3"})) == ()


@given(JSON, JSON)
def test_only_holds_of_the_four_forms_are_read(on, name):
    try:
        found = hold.on_from(on)
    except SteleError as error:
        assert error.code in {"hold.malformed", "trust.bad-digest"}
    else:
        assert found.plain() == on
    standing = hold.Standing()
    placed = Event(workload="", kind="hold.placed", time_ns=0, actor="operator", data={"hold": name, "on": on})
    standing.take(0, Entry(event=placed, seq=0, prev=""))
    assert standing.holds == {}, "no id of the right form was drawn"


def placed(name: str, on: On | None = None, workload: str = "", **more) -> Entry:
    on = on or On(workload="w")
    made = Event(workload=workload, kind="hold.placed", time_ns=1, actor="operator", data={"hold": name, "on": on.plain(), **more})
    return Entry(event=made, seq=0, prev="")


def ended(name: str) -> Entry:
    return Entry(event=Event(workload="", kind="hold.released", time_ns=2, actor="operator", data={"hold": name}), seq=0, prev="")


def test_a_hold_that_is_malformed_or_comes_again_means_nothing():
    standing = hold.Standing()
    one, two = "hold-aaaaaa", "hold-bbbbbb"
    steps = [placed(one), placed(one, On(workload="x")), placed("hold-1"), placed(two, workload="shop"), placed(two, extra=1), ended(two)]
    for index, entry in enumerate(steps):
        standing.take(index, entry)
    assert {name: found.on.workload for name, found in standing.holds.items()} == {one: "w"}
    standing.take(9, ended(one))
    standing.take(10, placed(one))
    assert standing.holds == {}, "an id is never used again"


def test_a_release_hold_covers_no_other_release_that_was_named_with_it():
    coverage = hold.Coverage([hold.Hold(id="hold-aaaaaa", on=On(release=RELEASE), placed_at=0, time_ns=0)])

    def covered(kind: str, **data) -> bool:
        return bool(coverage.take(0, Entry(event=Event(workload="w", kind=kind, time_ns=0, actor="agent", data=data), seq=0, prev="")))

    assert covered("instance.starting", instance="one", release=RELEASE)
    assert covered("deploy.started", release=OTHER, previous=RELEASE)
    assert not covered("instance.starting", instance="two", release=OTHER)
    assert covered("network.cut", instance="one", incident="i")
    assert not covered("network.cut", instance="two")
