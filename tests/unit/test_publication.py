"""Publishing to a target in memory: order, resumption after a cut at every put, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.flow.publishing import parse_address, parse_retention
from stele.ledger import publication
from stele.ledger import source as sources
from stele.ledger.publication import ExistsError, Head
from stele.ledger.published import Published
from stele.trust import note
from stele.trust.errors import SteleError
from tests.ledgers import event, opened
from tests.refusals import code


class CutError(Exception):
    pass


class Memory:
    """A target that is cut off before its n-th put."""

    def __init__(self):
        self.files, self.locked, self.left = {}, set(), 10**9

    def get(self, name):
        return (self.files[name], str(hash(self.files[name]))) if name in self.files else None

    def put(self, name, data, *, locked, replaces):
        self.left -= 1
        if self.left < 0:
            raise CutError
        there = self.get(name)
        if (there[1] if there else "") != replaces:
            raise ExistsError(name)
        if name == "checkpoint":  # whoever reads it finds what it covers
            head = body(data)
            assert f"checkpoints/{head.size}" in self.files
            assert len(list(Published(self, head).entries(0, head.size))) == head.size
        self.files[name] = data
        if locked:
            self.locked.add(name)

    def read(self, name):
        return self.files.get(name)

    def wider(self, name, width):
        return []


def body(signed):
    return note.parse_body(signed.partition(b"\n\n")[0] + b"\n")


def head_of(memory):
    found = memory.get("checkpoint")
    return Head("the remote", found[0], body(found[0]), found[1]) if found else None


def run(folder, memory, *, begin=None):
    with sources.source_of(folder) as source:
        signed = sources.checkpoint_of(source, "it")
        local, remote = Published(source, body(signed)), head_of(memory)
        publication.refuse_split(local, [remote] if remote else [])
        first = begin if begin is not None else remote.checkpoint.size if remote else 0
        return publication.publish(local, signed, remote, memory, begin=first, workers=3, lock_partial=False, say=lambda count: None)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "ledger"
    grow(made, 300)
    return made


def grow(folder, count, **more):
    with opened(folder, **more) as ledger:
        ledger.append([event(number) for number in range(count)])
        ledger.publish()


def test_only_what_is_new_is_put_and_full_tiles_are_locked(folder):
    memory = Memory()
    first = run(folder, memory)
    assert (first.size, first.put) == (301, 2 + 2 + 1 + 1)  # bundles, tiles of level 0 and 1, archived checkpoint
    assert memory.locked == {"tile/0/000", "tile/entries/000", "checkpoints/301"}
    assert run(folder, memory).put == 0
    grow(folder, 300)
    again = run(folder, memory)
    assert again.put == 2 + 2 + 1 + 1
    assert memory.locked >= {"tile/0/001", "tile/entries/001", "checkpoints/602"}
    everything = run(folder, memory, begin=0)
    assert (everything.put, everything.found) == (0, 3 + 3 + 1 + 1)


def test_cut_off_at_any_put_it_goes_on(folder):
    whole = Memory()
    puts = run(folder, whole).put + 1
    for left in range(puts):
        memory = Memory()
        memory.left = left
        with pytest.raises(CutError):
            run(folder, memory)
        assert "checkpoint" not in memory.files
        memory.left = 10**9
        run(folder, memory)
        assert (memory.files, memory.locked) == (whole.files, whole.locked)


def test_a_file_that_differs_is_not_overwritten_and_nothing_is_published(folder):
    memory = Memory()
    memory.files["tile/0/000"] = b"something else"
    assert code(run, folder, memory) == "publish.other-bytes"
    assert "checkpoint" not in memory.files
    assert memory.files["tile/0/000"] == b"something else"


def test_a_damaged_ledger_is_not_uploaded(folder):
    path = folder / "tile/entries/000"
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    memory = Memory()
    assert code(run, folder, memory) == "ledger.damaged"
    assert "checkpoint" not in memory.files


def test_a_second_history_and_a_restored_backup_are_refused(folder, tmp_path):
    memory = Memory()
    run(folder, memory)
    other = tmp_path / "other"
    with opened(other) as ledger:
        ledger.append([event(number, workload="forged") for number in range(400)])
        ledger.publish()
    assert code(run, other, memory) == "publish.split-view"
    short = tmp_path / "short"
    grow(short, 10)
    assert code(run, short, memory) == "publish.ahead"


def test_who_publishes_at_the_same_time_is_noticed(folder):
    memory = Memory()
    run(folder, memory)
    grow(folder, 5)
    put = memory.put

    def raced(name, data, *, locked, replaces):
        if name == "checkpoint":
            memory.files["checkpoint"] = b"somebody else's\n"
        put(name, data, locked=locked, replaces=replaces)

    memory.put = raced
    assert code(run, folder, memory) == "publish.raced"


@pytest.mark.parametrize(
    "text", ["", "s3://", "s3://A", "s3://b/../c", "s3://b//c", "http://b/c", "s3://bucket/a b", "s3://bu_cket/", "s3://b?x"]
)
def test_what_is_no_place(text):
    assert code(parse_address, text) == "s3.bad-address"


@given(st.text(max_size=12))
def test_retention_has_one_spelling(text):
    try:
        seconds = parse_retention(text)
    except SteleError as error:
        assert error.code == "publish.bad-retention"
    else:
        days = seconds // 86400
        assert text in {f"{days}d", f"{days // 365}y"}
