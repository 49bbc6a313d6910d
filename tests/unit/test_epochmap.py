"""The epoch map: the same however it came about, and what it proves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stele.ledger.mapfile import MapFile
from stele.model import epochmap, facts, history
from stele.model.chains import Chains
from stele.model.epochmap import EMPTY, Leaf, Ran, find, hash_of, key_of, put, ran_key, root_from, shows_absence
from stele.model.event import KINDS, Entry
from stele.trust.errors import SteleError
from tests.ledgers import event

ZEROS = "sha256:" + "0" * 64
NAMES = st.text(max_size=6)
STEPS = st.lists(st.dictionaries(NAMES, st.integers(1, 99), max_size=8), max_size=6)


def leaf(name: str, count: int = 1) -> Leaf:
    return epochmap.leaf(name, count, ZEROS, facts.NONE.digest, facts.NONE)


def of(counts: dict[str, int], node=None, load=epochmap.no_stubs):
    return put(node, sorted((leaf(*item) for item in counts.items()), key=lambda made: made.key), load)


@settings(deadline=None)
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
    path, end = find(node, key_of(name))
    assert root_from(key_of(name), path, end.hash if end else EMPTY) == hash_of(node)
    if name in held:
        assert end.workload == name
        assert not shows_absence(key_of(name), path, key_of(name))
    else:
        assert shows_absence(key_of(name), path, end.key if end else None)


@given(st.dictionaries(NAMES, st.integers(1, 99)), st.sets(st.tuples(NAMES, NAMES)), NAMES, NAMES)
def test_releases_that_ran_lie_in_their_own_half(held, ran, name, release):
    leaves = [*(leaf(*item) for item in held.items()), *(epochmap.ran(*pair, 7) for pair in ran)]
    node = put(None, sorted(leaves, key=lambda made: made.key))
    key = ran_key(name, release)
    path, end = find(node, key)
    assert root_from(key, path, end.hash if end else EMPTY) == hash_of(node)
    if (name, release) in ran:
        assert (end.workload, end.release, end.seq) == (name, release, 7)
        assert not shows_absence(key, path, end.key)
    else:
        assert shows_absence(key, path, end.key if end else None)
    assert sorted(item.workload for item in epochmap.leaves(node) if isinstance(item, Leaf)) == sorted(held)
    assert {(item.workload, item.release) for item in epochmap.leaves(node) if isinstance(item, Ran)} == ran
    assert all((item.key >> 255) == isinstance(item, Ran) for item in epochmap.leaves(node))


@given(st.dictionaries(NAMES, st.integers(1, 99), min_size=2), st.data())
def test_another_leaf_shows_absence_only_for_names_that_would_be_there(held, data):
    name, other = data.draw(st.sampled_from(sorted(held))), data.draw(st.sampled_from(sorted(held)))
    path, _ = find(of(held), key_of(name))
    assert shows_absence(key_of(name), path, key_of(other)) is False


def test_old_roots_stay():
    before = of({str(at): 1 for at in range(50)})
    root = hash_of(before)
    after = of({"7": 2}, before)
    assert hash_of(before) == root != hash_of(after)
    assert find(before, key_of("7")).leaf.count == 1


@settings(deadline=None)
@given(STEPS)
def test_maps_on_disk(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("map")
    node, held, roots = None, {}, {}
    with MapFile(folder, write=True) as file:
        file.keep(0)
        for at, step in enumerate(steps):
            node = of(step, node, file.load)
            held |= step
            file.commit(10 * at, node, len(held), 100 * at)
            roots[10 * at] = hash_of(node), len(held), 100 * at
            node = file.root(10 * at).node  # as the next process finds it
    with MapFile(folder) as file:
        assert file.check(roots) == []
        assert file.root(5) is None
        for at in range(len(steps)):
            before, after = file.around(100 * at)
            assert (before.epoch if before else -10, after.epoch) == (10 * at - 10, 10 * at)
            assert file.around(100 * at + 1)[0].epoch == 10 * at
    with MapFile(folder, write=True) as file:
        kept = file.keep(25)
        assert (kept.epoch if kept else -10) == max([at for at in roots if at < 25], default=-10)
        assert {found.workload for found in epochmap.leaves(kept.node if kept else None, file.load)} == set().union(*steps[:3])


@settings(deadline=None)
@given(st.data())
def test_no_bytes_break_the_file(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("map")
    with MapFile(folder, write=True) as file:
        file.keep(0)
        file.commit(0, of({"a": 1, "b": 2, "c": 3}), 3, 1)
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
            file.commit(0, node, 2, 1)
        os.close(file._roots)
        file._roots = real
        file.commit(0, node, 2, 1)
        assert file.check({0: (hash_of(node), 2, 1)}) == []


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("rst"), st.sampled_from(["take", "take", "draft", "adopt", "fold"])))
)
def test_a_map_that_is_made_in_parts_is_the_same(steps):
    """What is counted in while a draft is worked out goes into the next map."""
    parts, whole, draft = Chains(), Chains(), None
    for name, release, step in steps:
        if step == "take":
            for chains in (parts, whole):
                chain = chains.get(name)
                chains.take(
                    Entry(event=event(1, name, "instance.starting", instance="i", release=release), seq=chain.count, prev=chain.head),
                    release,
                    0,
                )
        elif step == "draft":
            draft = parts.draft()
            draft.work_out()
        elif step == "adopt" and draft is not None:
            parts.adopt(draft)
            draft = None
        elif step == "fold" and draft is None:
            assert parts.fold() == whole.fold()
    if draft is not None:
        parts.adopt(draft)
    assert parts.fold() == whole.fold()
    assert parts.workloads == len({name for name, _, step in steps if step == "take"})


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
