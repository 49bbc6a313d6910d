"""From which releases updates are made: the one before, those known good, and those that somebody pinned."""

from __future__ import annotations

import json

import pytest

from stele.flow import initialise, opening, packing, sealing
from stele.flow.places import Places


@pytest.fixture
def series(tmp_path) -> tuple[Places, list[str]]:
    """Four releases of a workload, the oldest first, and one of another."""
    places = Places(tmp_path / "data")
    initialise.make_keys(places)
    (tmp_path / "root").mkdir()
    spec, made = tmp_path / "stele.yaml", []
    for number, name in enumerate(("other", "app", "app", "app", "app")):
        (tmp_path / "root" / "app").write_text(f"version {number}")
        spec.write_text(json.dumps({"stele": 0, "name": name, "command": ["/app"]}))
        sealed = sealing.seal(places, tmp_path / "root", spec, options=sealing.Options(), say=lambda _: None, record=lambda _: None)
        made.append(sealed["release"])
    return places, made


def test_the_release_before_and_what_is_pinned_of_the_same_workload(series):
    places, (other, first, second, third, newest) = series
    store = opening.open_store(places)

    def bases(digest: str) -> list[str]:
        return [release.digest for release in packing.bases(places, store, store.find(digest))]

    assert bases(newest) == [third]
    assert bases(first) == []
    for pinned in (other, first, newest):
        packing.set_pin(store, pinned, pinned=True)
    assert bases(newest) == [first, third]
    assert bases(second) == [first, newest]  # who goes back to it comes from there
    packing.set_pin(store, first, pinned=False)
    assert bases(newest) == [third]
    assert {offer.base for offer in packing.attach(places, store, store.find(second))} == {first, newest}
