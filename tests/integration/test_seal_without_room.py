"""A whole seal on a disk that is full: whichever of its parts meets that, everything is as it was before."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from stele.flow import initialise, opening, sealing, storecheck
from stele.flow.places import Places
from stele.trust.errors import SteleError
from tests import small_disk

pytestmark = pytest.mark.root
PAGE = 4096


@pytest.fixture
def small(tmp_path):
    with small_disk.mounted(tmp_path / "small", "64m") as disk:
        yield disk


def seal(places: Places, root: Path, number: int) -> str:
    spec = places.data.parent.parent / "stele.yaml"
    spec.write_text(json.dumps({"stele": 0, "name": "app", "command": ["/app"], "env": {"NUMBER": str(number)}}))
    record = sealing.recorder(places, lambda _: None)
    return str(sealing.seal(places, root, spec, options=sealing.Options(), say=lambda _: None, record=record)["release"])


def seen(places: Places) -> list[str]:
    return [release.digest for release in opening.open_store(places).releases()]


@pytest.mark.parametrize("before", [0, 2])
def test_wherever_a_seal_meets_a_full_disk_its_release_is_not_there(small, tmp_path, before):
    """The room that is left grows until the seal succeeds; each time somewhere else it was not enough."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "app").write_bytes(b"x" * 5000)
    places = Places(small / "data")
    initialise.make_keys(places)
    for number in range(before):
        seal(places, tmp_path / "root", number)
    known, codes = seen(places), set()
    filler = small / "filler"
    filler.touch()
    pages = 0
    while True:
        room = os.statvfs(small).f_bavail + -(-filler.stat().st_size // PAGE)
        filler.write_bytes(bytes(max(0, room - pages) * PAGE))
        try:
            release = seal(places, tmp_path / "root", before)
            break
        except SteleError as error:
            codes.add(error.code)
            assert seen(places) == known, (pages, error.code)
        assert pages < room, "it never succeeded"
        pages += max(1, pages // 4)
    assert seen(places) == [*known, release]
    assert codes == ({"store.full"} if before else {"store.full", "ledger.write-failed"})  # a ledger that is there has room for a while
    filler.unlink()
    assert storecheck.check(opening.open_store(places), {}, lambda _: None).problems == []
