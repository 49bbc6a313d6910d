"""The short way of sealing: it is taken where only the content of plain files changed, and makes the release that the whole way makes."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stele.flow import caches, initialise, reseal, sealing, whole_seal
from stele.flow.places import Places
from stele.host import immutable, lookers, states
from stele.host.lookers import Looking
from stele.host.states import of as state_of
from stele.host.states import packed
from stele.seal import strata
from stele.seal.again import last as last_seals
from stele.seal.again import splice
from stele.store.layout import Layout
from stele.trust.errors import SteleError
from stele.trust.release_key import PrivateKey

SPEC = "stele: 0\nname: app\ncommand: [/srv/a]\n"


@pytest.fixture(autouse=True)
def _old_files(monkeypatch):
    """The source's files count as settled, young as they are."""
    monkeypatch.setattr(states, "SETTLED_NS", -(1 << 50))


@pytest.fixture
def ways(monkeypatch) -> list[str]:
    """Which way each seal took."""
    taken: list[str] = []
    real, whole = reseal.Again.seal, whole_seal.seal

    def short(*given):
        found = real(*given)
        if found:
            taken.append("short")
        return found

    monkeypatch.setattr(reseal.Again, "seal", short)
    monkeypatch.setattr(whole_seal, "seal", lambda *given: taken.append("whole") or whole(*given))
    return taken


def places_in(folder: Path) -> Places:
    places = Places(folder)
    initialise.make_keys(places)
    return places


def seal(places: Places, root: Path, spec: Path, **options) -> dict:
    return sealing.seal(places, root, spec, options=sealing.Options(**options), say=lambda _: None, record=lambda _: None)


def same(one: dict, other: dict) -> bool:
    told = ("release", "tree", "config", "strata", "paths", "bytes", "sbom", "provenance", "notes", "warnings")
    return all(one[key] == other[key] for key in told)


def sbom(places: Places, digest: str) -> dict:
    from stele.flow import opening

    return opening.open_store(places).attestations(digest, "https://cyclonedx.org/bom")[-1]


def write(path: Path, data: bytes) -> None:
    """Other bytes, at another time than the last: the clock of files is coarse."""
    before = path.lstat().st_ctime_ns if path.exists() else 0
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    while path.lstat().st_ctime_ns == before:
        os.utime(path)


@pytest.fixture
def root(tmp_path) -> Path:
    made = tmp_path / "root"
    dpkg = made / "var/lib/dpkg"
    files = {
        "srv/a": b"one", "srv/deep/er/b": b"two", "srv/large": os.urandom(300_000), "srv/empty": b"",
        "usr/bin/tool": b"#!/bin/sh\necho something\n",
        "usr/share/tool/data": b"data", "var/lib/dpkg/status":
            b"Package: tool\nStatus: install ok installed\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n",
        "var/lib/dpkg/info/tool.list": b"/.\n/usr\n/usr/bin\n/usr/bin/tool\n/usr/share/tool/data\n",
        "srv/m.py": b"x = 1\n", "srv/n.py": b"y = 1\n", "var/cache/x": b"cached",
    }  # fmt: skip
    for name, data in files.items():
        write(made / name, data)
    write(made / "usr/bin/elf", b"\x7fELF\2\1\1" + bytes(11) + b"\x3e\0" + bytes(8))
    (made / "usr/bin/elf").chmod(0o755)
    (made / "usr/bin/tool").chmod(0o755)
    os.link(made / "srv/a", made / "srv/name")
    (made / "srv/link").symlink_to("a")
    (made / "run").mkdir()
    info = (made / "srv/m.py").stat()
    header = b"\xa7\r\r\n" + bytes(4) + int(info.st_mtime).to_bytes(4, "little") + info.st_size.to_bytes(4, "little")
    write(made / "srv/__pycache__/m.cpython-311.pyc", header + b"code")
    assert dpkg.is_dir()
    return made


@pytest.fixture
def spec(tmp_path) -> Path:
    path = tmp_path / "stele.yaml"
    path.write_text(SPEC)
    return path


def plain(name: str, data: bytes):
    return lambda root: write(root / name, data)


def rename_over(root: Path) -> None:
    (root / "srv" / "new").write_bytes(b"two, anew")
    (root / "srv" / "new").rename(root / "srv/deep/er/b")


def moved_out(root: Path) -> None:
    (root / "srv/deep").rename(root.parent / "elsewhere")
    (root / "srv/deep").symlink_to(root.parent / "elsewhere")


SHORT = {
    "nothing": lambda root: None,
    "a file": plain("srv/deep/er/b", b"changed"),
    "a large file": plain("srv/large", os.urandom(400_000)),
    "a packaged file": plain("usr/share/tool/data", b"other data"),
    "a packaged program": plain("usr/bin/tool", b"#!/bin/sh\necho other\n"),
    "a source without byte code": plain("srv/n.py", b"y = 22\n"),
    "a file of the cache": plain("var/cache/x", b"cached anew"),
    "replaced by renaming": rename_over,
    "touched": lambda root: os.utime(root / "srv/n.py", (1, 1)),
    "the same bytes written": plain("srv/n.py", b"y = 1\n"),
}  # fmt: skip
WHOLE = {
    "a program without package": plain("usr/bin/elf", b"#!/bin/sh\necho other\n"),
    "a new file": plain("srv/new", b"new"),
    "a file gone": lambda root: (root / "srv/n.py").unlink(),
    "another mode": lambda root: (root / "srv/n.py").chmod(0o600),
    "a folder's mode": lambda root: (root / "srv/deep").chmod(0o700),
    "a hard link": plain("srv/a", b"another"),
    "one more name": lambda root: os.link(root / "srv/n.py", root / "srv/z"),
    "emptied": plain("srv/n.py", b""),
    "filled": plain("srv/empty", b"no longer"),
    "a source with byte code": plain("srv/m.py", b"x = 22\n"),
    "byte code": plain("srv/__pycache__/m.cpython-311.pyc", b"none"),
    "a package's record": plain("var/lib/dpkg/status", b"Package: tool\nStatus: install ok installed\nVersion: 2\nArchitecture: all\n"),
    "a symlink": lambda root: ((root / "srv/link").unlink(), (root / "srv/link").symlink_to("large")),
    "a folder for a file": lambda root: ((root / "srv/n.py").unlink(), (root / "srv/n.py").mkdir()),
    "a symlink for a folder": lambda root: ((root / "srv/deep").rename(root / "srv/deeper"), (root / "srv/deep").symlink_to("deeper")),
    "a link for a folder, which is elsewhere": moved_out,
    "the root's owner": lambda root: os.chown(root, 4321, 4321),
    "an owner": lambda root: os.chown(root / "srv/n.py", 4321, 4321),
    "a folder's attribute": lambda root: os.setxattr(root / "srv/deep", "user.note", b"x"),
    "a file's attribute": lambda root: os.setxattr(root / "srv/n.py", "user.note", b"x"),
    "too large for its part": plain("srv/deep/er/b", bytes(strata.TARGET + 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", [*SHORT, *WHOLE])
def test_what_comes_out_is_what_a_first_seal_makes(tmp_path, root, spec, ways, name):
    places = places_in(tmp_path / "one")
    seal(places, root, spec)
    assert ways == ["whole"]
    try:
        (SHORT | WHOLE)[name](root)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOTSUP}:
            raise
        # not for root on ext4, as in CI: only root sets capabilities and owners, and some file systems keep no attributes
        pytest.skip(f"this user or file system cannot do that: {error.strerror}")
    again = seal(places, root, spec)
    assert ways[1:] == ["short" if name in SHORT else "whole"]
    other = places_in(tmp_path / "two")
    fresh = seal(other, root, spec)
    assert same(again, fresh)
    assert sbom(places, again["release"]) == sbom(other, fresh["release"])
    assert seal(places, root, spec)["release"] == again["release"]
    assert ways[-1] == "short"


paths = st.sampled_from(["a", "b", "c/d", "c/e", "f/g/h", "i.py"])
edits = st.lists(st.tuples(paths, st.sampled_from(["write", "new", "gone", "mode"]), st.binary(max_size=40)), max_size=6)


@given(st.lists(edits, min_size=1, max_size=3))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_edits_give_the_release_of_a_first_seal(steps):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        for path in ("srv/a", "srv/b", "srv/c/d", "srv/c/e", "srv/f/g/h", "srv/i.py"):
            write(root / path, path.encode())
        (Path(name) / "stele.yaml").write_text(SPEC)
        places = places_in(Path(name) / "one")
        seal(places, root, Path(name) / "stele.yaml")
        for number, step in enumerate(steps):
            for path, kind, data in step:
                file = root / "srv" / (path if kind != "new" else f"{path}-{number}")
                if kind in {"write", "new"}:
                    write(file, data)
                elif kind == "gone":
                    file.unlink(missing_ok=True)
                elif file.exists():
                    file.chmod(0o600 + len(data) % 8)
            again = seal(places, root, Path(name) / "stele.yaml")
            fresh = seal(places_in(Path(name) / f"fresh-{number}"), root, Path(name) / "stele.yaml", paranoid=True)
            assert same(again, fresh)


def test_what_is_as_young_as_the_clock_is_coarse_is_read_again(tmp_path, root, spec, monkeypatch, ways):
    places = places_in(tmp_path / "one")
    monkeypatch.setattr(states, "SETTLED_NS", 1 << 60)
    seal(places, root, spec)
    found = last_seals.decode(caches.read(places, root, caches.LAST))
    assert not any(found.states)
    seal(places, root, spec)
    assert ways == ["whole", "whole"]  # of what is particular nothing is believed


def test_a_credential_that_came_is_refused_as_ever(tmp_path, root, spec):
    places = places_in(tmp_path / "one")
    seal(places, root, spec)
    key = PrivateKey.generate().pem()
    write(root / "srv/n.py", key)
    with pytest.raises(SteleError) as raised:
        seal(places, root, spec)
    assert raised.value.code == "seal.secret-found"


@pytest.mark.parametrize("what", ["spec", "setting", "short layer", "image", "tree", "paranoid", "compression", "damaged"])
def test_the_whole_way_is_taken_where_more_than_files_changed(tmp_path, root, spec, ways, what):
    (tmp_path / "app.conf").write_text("a = 1\n")
    spec.write_text(SPEC + "settings: [{path: /etc/app.conf, source: app.conf}]\n")
    places = places_in(tmp_path / "one")
    first = seal(places, root, spec)
    write(root / "srv/n.py", b"y = 3\n")
    options = {}
    store = Layout(places.store, judge=None)
    release = store.find(first["release"])
    if what == "spec":
        spec.write_text(spec.read_text() + "stop: {signal: INT}\n")
    elif what == "setting":
        write(tmp_path / "app.conf", b"a = 2\n")
    elif what == "short layer":
        layer = store.root / "blobs/sha256" / release.strata[0].layer.digest[7:]
        layer.chmod(0o644)
        layer.write_bytes(layer.read_bytes()[:-1])
    elif what == "image":
        (store.root / "erofs" / f"{release.strata[0].image[7:]}.erofs").unlink()
    elif what == "tree":
        (store.root / "blobs/sha256" / release.tree_digest[7:]).write_bytes(b"x")
    elif what in {"paranoid", "compression"}:
        options = {"paranoid": True} if what == "paranoid" else {"compression": "none"}
    elif what == "damaged":
        file = next(path for path in places.stat_caches.iterdir() if path.suffix == caches.LAST)
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    again = seal(places, root, spec, **options)
    assert ways == ["whole", "whole"]
    assert same(again, seal(places_in(tmp_path / "two"), root, spec, **options))


def test_layers_that_are_not_kept_are_not_missed(tmp_path, root, spec, ways):
    """Packing takes them: only of what changes a layer is made."""
    places = places_in(tmp_path / "one")
    store = Layout(places.store, judge=None)
    for stratum in store.find(seal(places, root, spec)["release"]).strata:
        (store.root / "blobs/sha256" / stratum.layer.digest[7:]).unlink()
    write(root / "srv/n.py", b"y = 3\n")
    again = seal(places, root, spec)
    assert ways == ["whole", "short"]
    assert same(again, seal(places_in(tmp_path / "two"), root, spec))
    kept = {stratum.name for stratum in store.find(again["release"]).strata if store.has_blob(stratum.layer.digest)}
    assert kept == {"files"}
    ways.clear()
    assert seal(places, root, spec, paranoid=True)["release"] == again["release"]  # which makes all of them
    assert all(store.has_blob(stratum.layer.digest) for stratum in store.find(again["release"]).strata)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_last_seal_or_none(data):
    assert last_seals.decode(data) is None
    assert last_seals.decode(last_seals.HEADER + data) is None


@pytest.mark.parametrize("alone", [1, 20_000])
def test_looking_says_which_folders_are_not_what_they_were(tmp_path, monkeypatch, alone):
    monkeypatch.setattr(lookers, "_ALONE", alone)  # one process, or two
    for number in range(3):
        write(tmp_path / f"{number}/file", b"x")
    names = [b"0", b"1", b"2"]
    raw, folders = b"", []
    for name in names:
        path = os.fsencode(tmp_path) + b"/" + name
        folders.append(last_seals.Folder(name, b"file", len(raw)))
        raw += packed([state_of(os.lstat(path)), state_of(os.lstat(path + b"/file"))])

    def changed() -> list[int] | None:
        with Looking(os.fsencode(tmp_path), folders, raw) as looking:
            return looking.changed()

    assert changed() == []
    write(tmp_path / "1/file", b"y")
    assert changed() == [1]
    (tmp_path / "2/file").unlink()
    assert changed() == [1, 2]
    assert json.dumps(os.getcwd())  # the children's folder is not ours


def test_of_many_folders_just_those_that_differ_are_said(tmp_path):
    raw, folders = b"", []
    for number in range(700):
        name = b"%d" % number if number % 2 else b"deep/%d" % number
        write(tmp_path / os.fsdecode(name) / "file", b"x")
    for number in range(700):
        name = b"%d" % number if number % 2 else b"deep/%d" % number
        path = os.fsencode(tmp_path) + b"/" + name
        folders.append(last_seals.Folder(name, b"file", len(raw)))
        raw += packed([state_of(os.lstat(path)), state_of(os.lstat(path + b"/file"))])
    write(tmp_path / "deep/2/file", b"y")
    (tmp_path / "17").rename(tmp_path / "away")
    (tmp_path / "17").symlink_to("away")  # what it leads to is what it was
    (tmp_path / "deep/400/file").unlink()
    (tmp_path / "deep/400").rmdir()
    (tmp_path / "699/file").rename(tmp_path / "other")
    with Looking(os.fsencode(tmp_path), folders, raw) as looking:
        assert looking.changed() == [2, 17, 400, 699]
    with Looking(os.fsencode(tmp_path) + b"/gone", folders, raw) as looking:
        assert looking.changed() == list(range(700))


def test_names_are_seen_as_python_sees_them_however_many_there_are(tmp_path, monkeypatch):
    for number in range(2 * states._SLOTS + 1):
        (tmp_path / f"{number}").write_bytes(b"x" * number)
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    os.utime(tmp_path / "0", ns=(1, -1_500_000_001))
    monkeypatch.chdir(tmp_path)
    names = [os.fsencode(path.name) for path in tmp_path.iterdir()]
    look = states.quickest()
    assert look(names) == packed([state_of(os.lstat(name)) for name in names])
    assert look(names[:3]) == look(names)[: 3 * states.WIDTH]
    assert look([]) == b""
    with pytest.raises(OSError):
        look([*names, b"gone"])


@pytest.mark.parametrize(("name", "value"), [("_WORDS", ()), ("_WORDS", ((0,) * 13,)), ("_lstat", None)])
def test_where_the_librarys_record_is_another_python_looks(name, value, monkeypatch):
    monkeypatch.setattr(states, name, value)
    assert states.quickest() is states._look


CONTENTS = st.binary(min_size=1, max_size=60) | st.integers(1, 70_000).map(lambda size: b"x" * size) | st.just(b"same")


@given(st.lists(st.tuples(st.integers(0, 5), CONTENTS), min_size=1, max_size=4), st.sampled_from(["zstd", "gzip", "none"]))
@settings(max_examples=12, deadline=None)
def test_a_spliced_stratum_is_the_one_that_is_made_anew(edits, compression):
    with tempfile.TemporaryDirectory() as name:
        root, spec = Path(name) / "root", Path(name) / "stele.yaml"
        for number in range(6):
            write(root / "srv" / ("long-" * 30 + str(number)), b"%d" % number * (9_000 if number % 2 else 9))
        spec.write_text(SPEC)
        places = places_in(Path(name) / "one")
        seal(places, root, spec, compression=compression)
        for number, data in edits:
            write(root / "srv" / ("long-" * 30 + str(number)), data)
        again = seal(places, root, spec, compression=compression)
        assert same(again, seal(places_in(Path(name) / "two"), root, spec, compression=compression))


@pytest.mark.parametrize("compression", ["zstd", "gzip", "none"])
@pytest.mark.parametrize("form", ["image", "layer", "cut layer", "no layer"])
def test_a_small_change_is_spliced_and_a_damaged_old_form_is_not_used(tmp_path, root, spec, monkeypatch, form, compression):
    made = []
    real = splice.stratum

    def told(*given):
        try:
            found = real(*given)
        except splice.NotAlikeError:
            made.append("anew")
            raise
        made.append("spliced")
        return found

    monkeypatch.setattr(splice, "stratum", told)
    places = places_in(tmp_path / "one")
    seal(places, root, spec, compression=compression)
    write(root / "srv/n.py", b"y = 2\n")
    again = seal(places, root, spec, compression=compression)
    assert made == ["spliced"]
    layers = {stratum.layer.digest for stratum in Layout(places.store).find(again["release"]).strata}
    damaged = [places.store / "blobs/sha256" / digest[7:] for digest in layers] if form != "image" else (places.store / "erofs").iterdir()
    for path in damaged:
        data = bytearray(path.read_bytes())
        data[5000 if form == "image" else len(data) // 2] ^= 1  # one bit of each; of an image, behind the superblock
        immutable.make_mutable(path)
        path.chmod(0o600)
        path.write_bytes(data[:-20] + bytes(20) if form == "cut layer" else data)
    monkeypatch.setattr(Layout, "open_layer", (lambda *_: None) if form == "no layer" else Layout.open_layer)
    write(root / "srv/n.py", b"y = 3\n")
    again = seal(places, root, spec, compression=compression)
    assert made == ["spliced", "anew"]
    assert same(again, seal(places_in(tmp_path / "two"), root, spec, compression=compression))


def test_a_state_that_is_too_young_or_too_large_is_not_kept_and_its_neighbours_are():
    old, young, large = (1, 2, 3, 4, 5, 0), (1, 2, 3, 4, 5, 1 << 60), (1, 1 << 64, 3, 4, 5, 0)
    nothing = bytes(len(packed([old])))
    assert last_seals._settled([old, young, old], 0) == packed([old]) + nothing + packed([old])
    assert last_seals._settled([old, large, young, old], 0) == packed([old]) + 2 * nothing + packed([old])
