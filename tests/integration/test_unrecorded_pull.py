"""A release that was pulled and cannot be recorded in the ledger is taken back, whichever way it came."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stele.flow import opening, pulling, sealing, storecheck
from stele.flow.places import Places
from stele.trust.errors import SteleError
from tests.distributed import other, pull, push, quiet, seal


def fails(*_: object, **__: object) -> None:
    raise SteleError("it cannot be written", remedy="free space", code="ledger.write-failed")


def pull_recording(places: Places, source: str, record: Callable[..., None]) -> dict:
    return pulling.pull(places, source, plain_http=False, whole=False, say=quiet, record=record)


def refused(places: Places, source: str, record: Callable[..., None] = fails) -> None:
    """It is refused, and everything is as it was."""
    index = places.store / "index.json"
    before = index.read_bytes() if index.exists() else None
    with pytest.raises((SteleError, OSError)):
        pull_recording(places, source, record)
    assert index.read_bytes() == before if before is not None else not opening.open_store(places).releases()
    assert list((places.store / "tmp").iterdir()) == []


@pytest.mark.parametrize("way", ["strata", "deltas", "update", "nothing"])
def test_a_pull_that_cannot_be_recorded_leaves_everything_as_it_was(places, referring, tmp_path, way):
    target = f"{referring}/unrecorded-{tmp_path.name.replace('_', '-').lower()}"
    to = other(tmp_path, "two", places)
    one = seal(places, "1")
    push(places, one, f"{target}:v1")
    if way != "strata":
        pull(to, f"{target}:v1")
    two = seal(places, "2")
    push(places, two, f"{target}:v2", delta=way in {"deltas", "update"})
    wanted = ":v2"
    if way == "nothing":  # the older is to be the newest again
        pull(to, f"{target}:v2")
        wanted = ":v1"
    refused(to, target + wanted)
    found = pull(to, target + wanted)
    assert found["release"] == (one if way == "nothing" else two)
    newest = opening.open_store(to).releases()[-1].digest
    assert newest == found["release"]
    assert storecheck.check(opening.open_store(to), {}, quiet).problems == []


def test_with_what_really_records(places, crane, tmp_path):
    """The ledger stops to be one while the release is fetched."""
    target = f"{crane}/no-ledger:v1"
    push(places, seal(places, "1"), target)
    to = other(tmp_path, "two", places)
    record = sealing.event_recorder(to, quiet)

    def without_ledger(workload: str, kind: str, **data: object) -> None:
        to.ledger.write_bytes(b"")
        record(workload, kind, **data)

    refused(to, target, without_ledger)
    to.ledger.unlink()
    assert pull_recording(to, target, record)["release"] == opening.open_store(to).releases()[-1].digest
