"""The same release with other settings: what sealing its source with them gives, without the source."""

from __future__ import annotations

from pathlib import Path

import pytest

from stele.flow import initialise, opening, sealing
from stele.flow.places import Places
from stele.trust.errors import SteleError

SPEC = """
stele: 0
name: app
command: [/srv/a]
settings: [{path: /etc/app.conf, content: "%s"}]
writable: [{path: /var/tmp}]
"""


@pytest.fixture
def places(tmp_path) -> Places:
    made = Places(tmp_path / "data")
    initialise.make_keys(made)
    return made


@pytest.fixture
def root(tmp_path) -> Path:
    made = tmp_path / "root"
    (made / "srv").mkdir(parents=True)
    (made / "srv" / "a").write_bytes(b"one")
    (made / "var" / "lib" / "dpkg").mkdir(parents=True)
    (made / "var" / "lib" / "dpkg" / "status").write_bytes(b"Package: a\nVersion: 1\nStatus: install ok installed\n")
    return made


def seal(places: Places, source: Path | str, text: str) -> str:
    spec = places.data.parent / "stele.yaml"
    spec.write_text(text)
    found = sealing.seal(places, source, spec, options=sealing.Options(), say=lambda _: None, record=lambda _: None)
    return str(found["release"])


def test_it_is_the_release_that_the_source_gives(places, root, tmp_path):
    first = seal(places, root, SPEC % "1")
    files = {path for path in places.store.rglob("*") if path.is_file()}
    second = seal(places, "app", SPEC % "2")
    new = {path for path in places.store.rglob("*") if path.is_file()} - files
    assert first != second
    assert len([path for path in new if path.suffix == ".erofs"]) == 1  # the settings, and nothing else
    other = Places(tmp_path / "other")
    initialise.make_keys(other)
    assert seal(other, root, SPEC % "2") == second
    assert seal(places, first, SPEC % "1") == first


def test_more_settings_are_fine_fewer_are_not(places, root):
    seal(places, root, SPEC % "1")
    more = SPEC.replace("settings: [", 'settings: [{path: /srv/a, content: "two"}, ') % "1"
    added = seal(places, "app", more)
    store = opening.open_store(places)
    assert store.tree(added).get(b"srv/a").size == 3
    for text in (SPEC % "1", more.replace("writable: [{path: /var/tmp}]", ""), more + "time: 1\n"):
        with pytest.raises(SteleError) as raised:
            seal(places, "app", text)
        assert raised.value.code == "seal.not-settings-only"


def test_a_data_set_keeps_more_than_a_workload_and_neither_becomes_the_other(places, root):
    (root / "dev").mkdir()
    (root / "dev" / "part").write_bytes(b"not for a workload")
    workload, data = "{stele: 0, name: app, command: [/srv/a]}", "{stele: 0, name: app, kind: dataset}"
    for kept, other in ((workload, data), (data, workload)):
        digest = seal(places, root, kept)
        assert (opening.open_store(places).tree(digest).get(b"dev/part") is not None) == (kept == data)
        assert seal(places, root, kept) == digest  # the short way
        with pytest.raises(SteleError) as raised:
            seal(places, digest, other)
        assert raised.value.code == "seal.not-settings-only"


def test_a_release_that_nobody_trusts_is_no_source(places, root, tmp_path):
    seal(places, root, SPEC % "1")
    for path in (places.release_key, places.release_pub, places.policy):
        path.unlink()
    initialise.make_keys(places)  # another key: what the old one signed is a stranger's
    with pytest.raises(SteleError) as raised:
        seal(places, "app", SPEC % "2")
    assert raised.value.code == "store.unknown-signer"
