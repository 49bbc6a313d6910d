"""Epochs: the log's own clock, and what they say of what went before."""

from __future__ import annotations

from pathlib import Path

import pytest

from stele.ledger.mapfile import MapFile, remove
from stele.ledger.reader import LedgerReader
from stele.model import epochmap
from stele.model.epochmap import Ran
from stele.model.event import LATEST_NS
from stele.trust.errors import SteleError
from tests.ledgers import SECOND, START, TRUST, Clock, event, quiet


class Back(Clock):
    """A clock that is set back an hour at every look."""

    def __call__(self) -> int:
        self.now -= 3600 * SECOND
        return self.now


def epochs(folder: Path) -> list[tuple[int, int, int, int]]:
    """Index, stamp, how far it is ahead of the clock, and where the one before ends."""
    found = LedgerReader(folder).entries("")
    return [
        (index, entry.event.time_ns, entry.event.data["behind_ns"], entry.event.data["since"])
        for index, entry in found
        if entry.event.kind == "epoch"
    ]


def test_epochs_are_later_than_all_before_them_also_where_the_clock_goes_back(tmp_path, monkeypatch):
    folder = tmp_path / "ledger"
    ledger = quiet(folder, monkeypatch)
    ledger._clock = Back(START)
    for number in (5, 3, 4):
        ledger.append([event(number)])
        ledger.publish()
    ledger.close()
    ledger = quiet(folder, monkeypatch)  # and the next process goes on from there
    ledger._clock = Back(START)
    ledger.append([event(2)])
    ledger.publish()
    ledger.close()
    said = epochs(folder)
    assert [index for index, _, _, _ in said] == [1, 3, 5, 7]
    assert [stamp - START for _, stamp, _, _ in said] == [6, 7, 8, 9]
    assert [since for _, _, _, since in said] == [0, 2, 4, 6]
    assert [behind // (3600 * SECOND) for _, _, behind, _ in said] == [1, 2, 3, 1]
    assert LedgerReader(folder).check(TRUST.ledgers) == []


@pytest.mark.parametrize("change", ['"behind_ns":1', '"since":1', '"map_size":9', '"covers":3', '"map":1'])
def test_an_epoch_that_says_otherwise_is_found(tmp_path, monkeypatch, change):
    folder = tmp_path / "ledger"
    with_clock = quiet(folder, monkeypatch)
    with_clock.append([event(1)])
    with_clock.publish()
    with_clock.close()
    bundle = folder / "tile" / "entries" / "000.p" / "2"
    name = change.partition(":")[0]
    raw = bundle.read_bytes()
    start = raw.index(name.encode())
    end = min(at for at in (raw.find(b",", start), raw.find(b"}", start)) if at > 0)
    assert len(change) == end - start
    bundle.write_bytes(raw[:start] + change.encode() + raw[end:])
    assert any("epoch entry 1 does not commit" in line for line in LedgerReader(folder).check(TRUST.ledgers))


def test_a_stamp_that_leaves_no_room_is_refused(tmp_path, monkeypatch):
    ledger = quiet(tmp_path / "ledger", monkeypatch)
    with pytest.raises(SteleError) as raised:
        ledger.append([event(LATEST_NS - START)])
    assert raised.value.code == "ledger.bad-entry"
    ledger.append([event(LATEST_NS - START - 1)])
    assert ledger.publish() == 2
    ledger.close()


def test_the_map_keeps_every_release_that_was_ever_started(tmp_path, monkeypatch):
    folder = tmp_path / "ledger"
    for round_ in range(3):  # three processes, of which the last has no map to begin with
        if round_ == 2:
            remove(folder)
        ledger = quiet(folder, monkeypatch)
        for number in range(4):
            release = f"r{number + round_}"
            ledger.append([event(1, kind="instance.starting", instance="i", release=release)])
            ledger.append([event(2, kind="instance.active", instance="i", release="never started")])
            ledger.publish()
        ledger.append([event(3, workload="other", kind="instance.starting", instance="i", release="r0")])
        ledger.close()
    with MapFile(folder) as file:
        root = file.root(LedgerReader(folder).size - 1)
        ran = {(leaf.workload, leaf.release): leaf.seq for leaf in epochmap.leaves(root.node, file.load) if isinstance(leaf, Ran)}
    firsts = {"r0": 0, "r1": 2, "r2": 4, "r3": 6, "r4": 14, "r5": 22}
    assert ran == {("shop", release): seq for release, seq in firsts.items()} | {("other", "r0"): 0}
    assert LedgerReader(folder).check(TRUST.ledgers) == []
