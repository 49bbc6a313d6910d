"""A data folder whose ledger has something to redact."""

from __future__ import annotations

import pytest

from stele.flow import custody, initialise
from stele.flow.places import Places
from tests.custody import OTHER, RELEASE
from tests.ledgers import event


@pytest.fixture
def places(tmp_path) -> Places:
    made = Places(tmp_path / "data")
    initialise.make_keys(made)
    with custody.alone(made) as mine:
        mine._record.commit(
            event(0, kind="instance.starting", instance="shop-1", release=RELEASE),
            event(
                1, kind="violation", instance="shop-1", release=RELEASE, incident="shop-i1", path="/home/alice", argv=["--key", "hunter2"]
            ),
            event(2, kind="instance.frozen", instance="shop-1", release=RELEASE, incident="shop-i1"),
            event(3, kind="evidence.accessed", incident="shop-i1", how="hunter2"),
            event(4, workload="other", kind="instance.failed", instance="other-1", release=OTHER, reason="hunter2 is wrong"),
            event(5, kind="heartbeat", workload=""),
        )
    return made
