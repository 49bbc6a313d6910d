"""The ledger beside a model of a few lines: whatever is done to it in whatever order, it has what the model has, and all of it fits."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from stele.ledger import archive, mapfile, projection, sequencer, wal
from stele.ledger.reader import LedgerReader
from stele.ledger.sequencer import Ledger
from stele.trust import merkle, note
from stele.trust.errors import SteleError
from tests.ledgers import SIGNER, Clock, event

names = st.sampled_from(["", "shop", "other", "ü"])
batches = st.lists(names, min_size=0, max_size=70)


class Modelled(RuleBasedStateMachine):
    """The model: workloads in the order in which they were committed, epochs left out; and every head that was ever signed."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(prefix="stele-model-"))
        self.copies = 0
        self.clock = Clock()
        self.committed: list[str] = []
        self.heads: dict[int, note.Checkpoint] = {}

    @initialize()
    def begin(self) -> None:
        self.folder = self.base / "0"
        self.ledger = Ledger.open(self.folder, signer=SIGNER, clock=self.clock)

    @rule(workloads=batches)
    def append(self, workloads: list[str]) -> None:
        before = self.ledger.size
        made = self.ledger.append([event(len(self.committed) + n, workload=name) for n, name in enumerate(workloads)])
        assert [item.at for item in made] == list(range(before, before + len(workloads)))
        self.committed += workloads

    @rule(kind=st.sampled_from(["large", "float", "kind"]), before=batches)
    def append_what_is_refused(self, kind: str, before: list[str]) -> None:
        bad = {"large": event(text="x" * 70_000), "float": event(value=0.5), "kind": event(kind="no.such")}[kind]
        size = self.ledger.size
        with pytest.raises(SteleError):
            self.ledger.append([*(event(workload=name) for name in before), bad])
        assert self.ledger.size == size

    @rule()
    def publish(self) -> None:
        size = self.ledger.publish()
        assert size == self.ledger.size == self.ledger.published
        if size:
            self.look()

    def look(self) -> None:
        """Every head continues every other one."""
        reader = LedgerReader(self.folder)
        head = note.open_checkpoint(reader.note, SIGNER.verifiers)
        assert self.heads.setdefault(head.size, head) == head
        for old in self.heads.values():
            if old.size < head.size:
                assert merkle.is_consistent(old.size, head.size, old.root, head.root, reader.consistency(old.size))

    @rule()
    def close_and_open(self) -> None:
        self.ledger.close()
        self.ledger = Ledger.open(self.folder, signer=SIGNER, clock=self.clock)

    @rule()
    def die_and_open(self) -> None:
        """What a killed process leaves, in a copy; the original is closed elsewhere."""
        self.copies += 1
        copy = self.base / str(self.copies)
        shutil.copytree(self.folder, copy)
        self.ledger.close()
        shutil.rmtree(self.folder)
        self.folder = copy
        self.ledger = Ledger.open(self.folder, signer=SIGNER, clock=self.clock)

    @precondition(lambda self: self.ledger.published)
    @rule(what=st.sampled_from(["map", "projection"]))
    def lose_a_cache(self, what: str) -> None:
        self.ledger.close()
        mapfile.remove(self.folder) if what == "map" else projection.remove(self.folder / "projection.sqlite")
        self.ledger = Ledger.open(self.folder, signer=SIGNER, clock=self.clock)

    @rule(seconds=st.integers(-(10**9), 10**9))
    def set_the_clock(self, seconds: int) -> None:
        self.clock.now = max(0, self.clock.now + seconds * 10**9)

    @invariant()
    def chains_stand_where_the_model_says(self) -> None:
        found = {name: count for name, (count, _) in self.ledger.heads().items()}
        assert found == {name: self.committed.count(name) for name in set(self.committed) - {""}}

    def teardown(self) -> None:
        if not hasattr(self, "ledger"):
            return
        self.ledger.close()
        if self.committed:
            reader = LedgerReader(self.folder)
            assert reader.check(SIGNER.verifiers) == []
            mine = [entry.event for _, entry in reader.entries() if entry.event.kind != "epoch"]
            assert [each.workload for each in mine] == self.committed
            self.look()
        shutil.rmtree(self.base)


@pytest.mark.parametrize(("recycle_at", "notes"), [(600, 16), (1 << 30, 16), (1 << 30, 1)])
def test_the_ledger_does_what_its_model_does(monkeypatch, recycle_at, notes):
    monkeypatch.setattr(sequencer, "MOST_NOTES", notes)
    monkeypatch.setattr(archive, "WORTH", 0)
    monkeypatch.setattr(sequencer, "PUBLISH_EVERY_S", 3600)
    monkeypatch.setattr(sequencer, "RECYCLE_BYTES", recycle_at)
    monkeypatch.setattr(wal, "STEP", 1 << 14)
    slow = [HealthCheck.too_slow]
    run_state_machine_as_test(
        Modelled, settings=settings(max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=slow)
    )
