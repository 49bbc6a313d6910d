"""Sealing again: unchanged files are not read, changed ones are, and the release is the same either way."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.flow import caches, initialise, opening, sealing
from stele.flow.places import Places
from stele.host import states
from stele.seal.sources import folder, statcache
from stele.seal.sources.statcache import Known, StatCache
from stele.trust.errors import SteleError


def settled() -> int:
    """An instant by which nothing that was written until now is young any more."""
    return time.time_ns() + 1_000_000_000


@pytest.fixture
def root(tmp_path) -> Path:
    made = tmp_path / "root"
    (made / "srv" / "__pycache__").mkdir(parents=True)
    (made / "srv" / "a").write_bytes(b"one")
    (made / "srv" / "large").write_bytes(os.urandom(300_000))
    os.link(made / "srv" / "a", made / "srv" / "name")
    (made / "srv" / "m.py").write_bytes(b"x = 1\n")
    info = (made / "srv" / "m.py").stat()
    header = b"\xa7\r\r\n" + bytes(4) + int(info.st_mtime).to_bytes(4, "little") + info.st_size.to_bytes(4, "little")
    (made / "srv" / "__pycache__" / "m.cpython-311.pyc").write_bytes(header + b"code")
    return made


def read(root: Path, cache: StatCache | None = None) -> StatCache:
    """Read a folder; returns the cache for the next time."""
    cache = cache or StatCache()
    with folder.load(root, time=0, cache=cache):
        pass
    return statcache.decode(cache.encode(settled()))


def test_unchanged_files_are_not_read(root, monkeypatch):
    with folder.load(root, time=0) as first:
        tree = first.tree
    cache = read(root)
    opened = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest, **more: opened.append(path) or real(path, *rest, **more))
    with folder.load(root, time=0, cache=cache) as again:
        assert again.tree == tree  # the time of m.py, too, which its byte code names
        assert b"".join(again.contents.chunks(tree.get(b"srv/large").sha256)) == (root / "srv/large").read_bytes()
    assert not {b"a", b"name", b"m.py"} & {path for path in opened if isinstance(path, bytes)}
    assert cache.hits == 4


def put_back(path: Path) -> None:
    info = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


CHANGES = {
    "written in place": lambda path: path.write_bytes(b"two"),
    "written in place, its time put back": put_back,
    "replaced": lambda path: (path.with_name("new").write_bytes(b"two"), path.with_name("new").rename(path)),
    "another mode": lambda path: path.chmod(0o600),
    "longer": lambda path: path.write_bytes(b"three"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_touched_is_read_again(root, change):
    cache = read(root)
    (root / "srv" / "name").unlink()
    info = (root / "srv" / "a").stat()
    while time.time_ns() - info.st_ctime_ns < states.SETTLED_NS:  # the clock's next tick, or the ctime could be the same
        pass
    CHANGES[change](root / "srv" / "a")
    with folder.load(root, time=0, cache=cache) as again, folder.load(root, time=0) as fresh:
        assert again.tree == fresh.tree


def test_a_file_as_young_as_the_clock_is_coarse_is_not_remembered(root):
    cache = StatCache()
    with folder.load(root, time=0, cache=cache):
        pass
    newest = max(known.state[5] for known in cache.recorded.values())
    assert statcache.decode(cache.encode(newest))._known.keys() != cache.recorded.keys()
    assert statcache.decode(cache.encode(newest + states.SETTLED_NS + 1))._known.keys() == cache.recorded.keys()


def test_files_with_xattrs_are_read_again(root):
    try:
        os.setxattr(root / "srv" / "a", "user.note", b"x")
    except OSError:
        pytest.skip("this file system has no user xattrs")
    assert b"srv/a" not in read(root)._known


@given(st.binary(max_size=200))
def test_any_bytes_are_a_cache_or_an_empty_one(data):
    assert statcache.decode(data)._known == {}
    assert statcache.decode(statcache.HEADER + data)._known == {}


@given(st.data())
def test_a_damaged_cache_is_an_empty_one(data):
    cache = StatCache()
    cache.record(b"a", Known((1, 2, 3, 4, 5, 6), "0" * 64, (7, 8)))
    whole = cache.encode(settled())
    assert statcache.decode(whole).find(b"a", (1, 2, 3, 4, 5, 6)) == Known((1, 2, 3, 4, 5, 6), "0" * 64, (7, 8))
    at = data.draw(st.integers(0, len(whole) - 1))
    assert statcache.decode(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])._known == {}


# the whole way


def seal(places: Places, root: Path, spec: Path, *, paranoid: bool = False) -> str:
    options = sealing.Options(paranoid=paranoid)
    found = sealing.seal(places, root, spec, options=options, say=lambda _: None, record=lambda _: None)
    return str(found["release"])


def cache_file(places: Places, kind: str) -> Path:
    (found,) = (path for path in places.stat_caches.iterdir() if path.suffix == kind)
    return found


@pytest.fixture
def spec(tmp_path) -> Path:
    path = tmp_path / "stele.yaml"
    path.write_text("stele: 0\nname: app\ncommand: [/srv/a]\n")
    return path


@pytest.fixture
def _old_files(monkeypatch):
    """The source's files count as settled, young as they are."""
    monkeypatch.setattr(states, "SETTLED_NS", -(1 << 50))


def places_in(folder_: Path) -> Places:
    places = Places(folder_)
    initialise.make_keys(places)
    return places


@pytest.mark.usefixtures("_old_files")
def test_sealing_again_gives_the_release_that_sealing_afresh_gives(tmp_path, root, spec):
    (root / "usr").mkdir()
    (root / "usr" / "big").write_bytes(os.urandom(17 << 20))  # a stratum of its own
    places = places_in(tmp_path / "one")
    first = seal(places, root, spec)
    files = {path: path.stat().st_ino for path in places.store.rglob("*") if path.is_file()}
    assert seal(places, root, spec) == first
    assert {path: path.stat().st_ino for path in files if path.name != "index.json"}.items() <= files.items()
    (root / "srv" / "a").write_bytes(b"another")
    again = seal(places, root, spec)
    assert again != first
    assert seal(places_in(tmp_path / "two"), root, spec) == again
    assert seal(places, root, spec, paranoid=True) == again


@pytest.mark.parametrize("harm", ["blob gone", "image gone", "image cut"])
def test_a_stratum_that_is_not_whole_is_made_again(tmp_path, root, spec, harm):
    places = places_in(tmp_path / "one")
    first = seal(places, root, spec)
    image = next((places.store / "erofs").iterdir())
    layer = max((places.store / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    if harm == "image cut":
        image.chmod(0o600)
        os.truncate(image, 4096)
    else:
        (image if harm == "image gone" else layer).unlink()
    assert seal(places, root, spec) == first
    assert image.stat().st_size > 300_000
    assert layer.exists() == (harm != "blob gone")  # a layer that is not kept is made again where it is asked for
    store = opening.open_store(places)
    store.verify(store.find(first))


@pytest.mark.usefixtures("_old_files")
def test_a_cache_that_somebody_else_can_write_is_not_believed(tmp_path, root, spec):
    places = places_in(tmp_path / "one")
    seal(places, root, spec)
    for kind in (caches.STATES, caches.LAST):
        cache = cache_file(places, kind)
        assert caches.read(places, root, kind) == cache.read_bytes()
        cache.chmod(0o622)
        assert caches.read(places, root, kind) is None
        cache.unlink()
        cache.symlink_to("/dev/zero")
        assert caches.read(places, root, kind) is None


@pytest.mark.usefixtures("_old_files")
def test_a_cache_that_lies_is_found_out_when_the_file_is_read(tmp_path, root, spec):
    """It can only lie about files whose bytes are not needed; here they are."""
    places = places_in(tmp_path / "one")
    seal(places, root, spec)
    cache_file(places, caches.LAST).unlink()
    cache = cache_file(places, caches.STATES)
    known = statcache.decode(cache.read_bytes())._known
    lying = StatCache()
    for path, item in known.items():
        lying.record(path, Known(item.state, "0" * 64) if path in {b"srv/a", b"srv/name"} else item)
    cache.write_bytes(lying.encode(settled()))
    with pytest.raises(SteleError) as raised:
        seal(places, root, spec)
    assert raised.value.code == "seal.source-changed"
