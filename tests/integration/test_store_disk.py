"""The store on file systems with limits: full, without the immutable flag."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from stele.flow import mending, repairing, storecheck, usage
from stele.host import immutable
from stele.model import spec as specs
from stele.model.tree import Tree
from stele.seal import release as sealing
from stele.seal.rebuild import LayerRebuilder
from stele.seal.sign import sign
from stele.store.layout import Layout
from stele.trust.errors import SteleError
from stele.trust.release_key import PrivateKey
from tests import small_disk
from tests.trees import Held, file, folder
from tests.unit.test_packing import unrecorded

pytestmark = pytest.mark.root
KEY = PrivateKey.generate()


def opened(root: Path) -> Layout:
    return Layout(root, trusted=(KEY.public,), rebuild=LayerRebuilder())


def put(store: Layout, size: int):
    held = Held()
    tree = Tree.build([folder(b""), file(b"app", os.urandom(size), held)])
    sealed = sealing.seal(tree, held, specs.from_builtins({"stele": 0, "name": "shop", "command": ["/app"]}), store)
    store.publish(sign(sealed, KEY, store))
    return sealed.release


@pytest.fixture
def small(tmp_path):
    """A tmpfs of 2 MiB."""
    with small_disk.mounted(tmp_path / "small", "2m") as disk:
        yield disk


@pytest.mark.parametrize("size", [600_000, 1_000_000, 4_000_000])
def test_a_full_disk_is_named_and_leaves_everything_as_it_was(small, size):
    store = opened(small / "store")
    release = put(store, 100_000)
    before = os.statvfs(small).f_bavail
    error = None
    while error is None:
        try:
            release = put(store, size)
            before = os.statvfs(small).f_bavail
        except SteleError as raised:
            error = raised
    assert error.code == "store.full"
    assert list((small / "store" / "tmp").iterdir()) == []
    assert opened(small / "store").release("shop") == release
    store.verify(release)
    # blobs of the seal that failed are garbage at most, never half a file
    assert os.statvfs(small).f_bavail >= before - 2 * size // 4096


@pytest.fixture
def prepared(tmp_path):
    store = opened(tmp_path / "store")
    stratum = put(store, 100_000).strata[0]
    yield store, stratum, store.prepare_image(stratum)
    store.remove_image(stratum)


@pytest.mark.guest
def test_a_prepared_image_refuses_writers_also_those_who_opened_it_before(tmp_path):
    store = opened(tmp_path / "store")
    stratum = put(store, 100_000).strata[0]
    path = store.image(stratum)
    with path.open("r+b", buffering=0) as early:
        prepared = store.prepare_image(stratum)
        try:
            if not prepared.immutable:
                pytest.skip("this file system has no immutable files")
            with pytest.raises(PermissionError):
                early.write(b"x")
            with pytest.raises(PermissionError):
                path.open("r+b")
            with pytest.raises(PermissionError):
                path.unlink()
        finally:
            store.remove_image(stratum)
    assert not path.exists()


def test_an_image_that_is_sealed_again_stays_the_same_immutable_file(prepared):
    store, stratum, image = prepared
    before = os.stat(image.path).st_ino
    draft = store.draft("image")
    os.write(draft.fd, Path(image.path).read_bytes())
    draft.commit(stratum.image)
    assert (os.stat(image.path).st_ino == before) == image.immutable
    assert list((store.root / "tmp").iterdir()) == []


def test_a_file_system_without_the_flag_is_reported_and_still_verified(tmp_path):
    # proc has no inode flags at all: what the ioctl says there is what such file systems say
    fd = os.open("/proc/self/status", os.O_RDONLY)
    try:
        assert not immutable.change(fd, immutable=True)
        assert immutable.change(fd, immutable=False)
    finally:
        os.close(fd)


def test_a_repair_without_room_leaves_everything_as_it_was(small):
    store = opened(small / "store")
    release = put(store, 600_000)
    image = store.image(release.strata[0])
    immutable.make_mutable(image)
    image.chmod(0o644)
    data = image.read_bytes()
    image.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    storecheck.check(store, {}, lambda _: None)
    filler = small / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=4k"], check=False, capture_output=True)  # until it is full
    before = {path: path.read_bytes() for path in (small / "store").rglob("*") if path.is_file()}
    with mending.Registries({}, (), plain_http=False) as registries, pytest.raises(SteleError) as raised:
        repairing.repair(opened(small / "store"), {}, registries, (), record=unrecorded, say=lambda _: None)
    assert raised.value.code == "store.full"
    assert {path: path.read_bytes() for path in (small / "store").rglob("*") if path.is_file()} == before
    assert [item.path for item in storecheck.check(store, {}, lambda _: None).problems] == [str(image.relative_to(store.root))]
    filler.unlink()
    with mending.Registries({}, (), plain_http=False) as registries:
        assert repairing.repair(opened(small / "store"), {}, registries, (), record=unrecorded, say=lambda _: None).left == ()
    assert image.read_bytes() == data


def test_an_image_in_use_that_can_be_written_to_is_a_problem(tmp_path):
    store = opened(tmp_path / "store")
    release = put(store, 100_000)
    store.image(release.strata[0])
    running = {release.digest: "running"}
    found = storecheck.check(store, running, lambda _: None).problems
    assert {item.kind for item in found} == {"mutable"}
    with mending.Registries({}, (), plain_http=False) as registries:
        done = repairing.repair(store, running, registries, (), record=unrecorded, say=lambda _: None)
    assert done.left == ()
    assert {item.how for item in done.mended} == {"made immutable"}
    for stratum in release.strata:
        store.remove_image(stratum)


def test_a_store_that_is_mounted_read_only_is_checked_and_counted(small):
    store = opened(small / "store")
    release = put(store, 100_000)
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    try:
        found = storecheck.check(opened(small / "store"), {}, lambda _: None)
        assert (found.whole, found.problems) == ((release.digest,), [])
        assert [item.digest for item in usage.usage(opened(small / "store")).releases] == [release.digest]
        assert opened(small / "store").verify(release)["bytes"]
        with pytest.raises(SteleError, match="cannot be written"):
            put(opened(small / "store"), 1000)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", small], check=True)
