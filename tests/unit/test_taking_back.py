"""A release that cannot be recorded is taken back, whichever way it was sealed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stele.flow import initialise, opening, sealing
from stele.flow.places import Places
from stele.trust.errors import SteleError
from tests.refusals import code


@pytest.fixture
def places(tmp_path) -> Places:
    made = Places(tmp_path / "data")
    initialise.make_keys(made)
    (tmp_path / "root").mkdir()
    for name in ("one", "two"):
        (tmp_path / "root" / name).write_bytes(name.encode())
    (tmp_path / "stele.yaml").write_text('{"stele": 0, "name": "app", "command": ["/one"]}')
    return made


def seal(places: Places, record: Callable[..., None], *, paranoid: bool) -> str:
    folder, options = places.data.parent, sealing.Options(paranoid=paranoid)
    return str(sealing.seal(places, folder / "root", folder / "stele.yaml", options=options, say=lambda _: None, record=record)["release"])


def fails(how: str) -> Callable[..., None]:
    def record(_: object) -> None:
        raise SteleError("it cannot be written", remedy="free space", code=how)

    return record


def done(_: object) -> None:
    """It is in the ledger."""


def seen(places: Places) -> list[str]:
    return [release.digest for release in opening.open_store(places).releases()]


@pytest.fixture(params=["whole", "again"])
def ready(request, places, monkeypatch) -> tuple[Places, bool]:
    """A folder that was sealed and changed since. Sealed by the whole way, or again by the last seal."""
    seal(places, done, paranoid=False)
    (places.data.parent / "root" / "one").write_bytes(b"changed")
    again = request.param == "again"
    if again:
        monkeypatch.setattr("stele.flow.sealing._whole", None)  # the test would not be of that way
    return places, not again


@pytest.mark.parametrize("how", ["ledger.write-failed", "ledger.locked"])
def test_the_index_is_what_it_was(ready, how):
    places, paranoid = ready
    before = (places.store / "index.json").read_bytes()
    assert code(seal, places, fails(how), paranoid=paranoid) == how
    assert (places.store / "index.json").read_bytes() == before
    assert list((places.store / "tmp").iterdir()) == []


def test_where_it_may_have_been_recorded_it_stays(ready):
    places, paranoid = ready
    before = seen(places)
    assert code(seal, places, fails("agent.broke-off"), paranoid=paranoid) == "agent.broke-off"
    assert len(seen(places)) == len(before) + 1


def test_a_release_that_was_there_keeps_its_place(places):
    first = seal(places, done, paranoid=False)
    (places.data.parent / "root" / "one").write_bytes(b"changed")
    second = seal(places, done, paranoid=True)
    (places.data.parent / "root" / "one").write_bytes(b"one")
    assert code(seal, places, fails("ledger.write-failed"), paranoid=True) == "ledger.write-failed"
    assert seen(places) == [first, second]


def test_what_somebody_else_published_meanwhile_stays(places):
    seal(places, done, paranoid=False)
    spec = places.data.parent / "stele.yaml"

    def meanwhile(_: object) -> None:
        spec.write_text('{"stele": 0, "name": "other", "command": ["/one"]}')
        seal(places, done, paranoid=True)
        fails("ledger.write-failed")(_)

    spec.write_text('{"stele": 0, "name": "app", "command": ["/two"]}')
    assert code(seal, places, meanwhile, paranoid=True) == "ledger.write-failed"
    assert {release.workload for release in opening.open_store(places).releases()} == {"app", "other"}
    assert len(seen(places)) == 3
