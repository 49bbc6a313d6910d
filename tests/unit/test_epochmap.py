"""The epoch map: the same however it came about, and what it proves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.ledger.mapfile import MapFile
from stele.model import epochmap, facts, history
from stele.model.epochmap import Leaf, find, hash_of, put, root_from, shows_absence
from stele.model.event import KINDS
from stele.trust.errors import SteleError
from tests.ledgers import event

ZEROS = "sha256:" + "0" * 64
NAMES = st.text(max_size=6)
STEPS = st.lists(st.dictionaries(NAMES, st.integers(1, 99), max_size=8), max_size=6)


def leaf(name: str, count: int = 1) -> Leaf:
    return Leaf(name, count, ZEROS, facts.NONE.digest, facts.NONE)


def of(counts: dict[str, int], node=None, load=epochmap.no_stubs):
    return put(node, sorted((leaf(*item) for item in counts.items()), key=lambda made: made.key), load)


@given(STEPS)
def test_the_map_is_a_function_of_what_it_holds(steps):
    node, held = None, {}
    for step in steps:
        node = of(step, node)
        held |= step
    assert hash_of(node) == hash_of(of(held))
    assert {found.workload: found.count for found in epochmap.leaves(node)} == held


@given(st.dictionaries(NAMES, st.integers(1, 99)), NAMES)
def test_each_name_is_in_it_or_not_and_only_one_of_the_two_can_be_shown(held, name):
    node = of(held)
    path, end = find(node, name)
    assert root_from(name, path, end.hash if end else epochmap.EMPTY) == hash_of(node)
    if name in held:
        assert end.workload == name
        assert not shows_absence(name, path, name)
    else:
        assert shows_absence(name, path, end.workload if end else None)


@given(st.dictionaries(NAMES, st.integers(1, 99), min_size=2), st.data())
def test_another_leaf_shows_absence_only_for_names_that_would_be_there(held, data):
    name, other = data.draw(st.sampled_from(sorted(held))), data.draw(st.sampled_from(sorted(held)))
    path, _ = find(of(held), name)
    assert shows_absence(name, path, other) is False


def test_old_roots_stay():
    before = of({str(at): 1 for at in range(50)})
    root = hash_of(before)
    after = of({"7": 2}, before)
    assert hash_of(before) == root != hash_of(after)
    assert find(before, "7").leaf.count == 1


@given(STEPS)
def test_maps_on_disk(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("map")
    node, held, roots = None, {}, {}
    with MapFile(folder, write=True) as file:
        file.keep(0)
        for at, step in enumerate(steps):
            node = of(step, node, file.load)
            held |= step
            file.commit(10 * at, node, len(held))
            roots[10 * at] = hash_of(node), len(held)
            node = file.root(10 * at).node  # as the next process finds it
    with MapFile(folder) as file:
        assert file.check(roots) == []
        assert file.root(5) is None
    with MapFile(folder, write=True) as file:
        kept = file.keep(25)
        assert (kept.epoch if kept else -10) == max([at for at in roots if at < 25], default=-10)
        assert {found.workload for found in epochmap.leaves(kept.node if kept else None, file.load)} == set().union(*steps[:3])


@given(st.data())
def test_no_bytes_break_the_file(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("map")
    with MapFile(folder, write=True) as file:
        file.keep(0)
        file.commit(0, of({"a": 1, "b": 2, "c": 3}), 3)
    path: Path = folder / "map" / data.draw(st.sampled_from(["nodes", "roots"]))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    with MapFile(folder) as file:
        found = file.root(0)
        if found:
            try:
                list(epochmap.leaves(found.node, file.load))
            except SteleError as error:
                assert error.code == "ledger.bad-map"


def test_what_could_not_be_written_is_written_by_the_next_call(tmp_path):
    with MapFile(tmp_path, write=True) as file:
        file.keep(0)
        node = of({"a": 1, "b": 2})
        real, file._roots = file._roots, os.open(tmp_path, os.O_RDONLY)  # a folder cannot be written to
        with pytest.raises(OSError, match=r"descriptor|directory"):
            file.commit(0, node, 2)
        os.close(file._roots)
        file._roots = real
        file.commit(0, node, 2)
        assert file.check({0: (hash_of(node), 2)}) == []


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_facts_follow_the_state(kind):
    """Also for kinds that `facts` leaves out: they must change nothing of it."""
    start = [event(1, kind="instance.starting", instance="i", release="r"), event(2, kind="instance.active", instance="i", release="r")]
    start.append(event(3, kind="instance.frozen", instance="j", release="r", incident="x"))
    last = event(4, kind=kind, instance="i", release="q", incident="x", reason="?")
    kept = facts.NONE
    for item in (*start, last):
        kept = kept.after(item)
    assert kept == facts.of(history.reduce("", [*start, last]))
    assert facts.from_plain(kept.plain()) == kept
