"""Every file of a store spoilt in every way: found, named, and mended byte for byte from what is beside it, or refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stele.flow import deltas, mending, packing, repairing, storecheck, usage
from stele.host import immutable
from stele.model import reference as references
from stele.store.layout import Layout
from stele.trust.errors import SteleError
from tests.stores import content, copy_of, opened
from tests.unit.test_packing import unrecorded, version
from tests.unit.test_store import put
from tests.unit.test_updates import seal

if TYPE_CHECKING:
    from collections.abc import Iterator

WAYS = ("flipped", "truncated", "removed")
# what nothing here can make again: signatures, and the documents that only a signer or a seal can write
ONLY_ELSEWHERE = frozenset({"referrer", "attached", "signatures"})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with three releases, the oldest of which is kept as a delta, and the newest offers one from the middle."""
    root = tmp_path_factory.mktemp("made") / "store"
    store = opened(root)
    one, two, three = (seal(store, version(number)) for number in range(3))
    packing.pack(store, {two.digest}, keep_layers=True, record=unrecorded, say=lambda _: None)
    deltas.attach_delta(store, two, three)
    packing.set_pin(store, two.digest, pinned=True)
    for path in root.glob("erofs/*"):
        immutable.make_mutable(path)
    assert not deltas.is_whole(store, one)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Iterator[Path]:
    with copy_of(made, tmp_path) as store:
        yield store


def check(root: Path) -> storecheck.Report:
    return storecheck.check(opened(root), {}, lambda _: None)


def repair(root: Path) -> repairing.Repaired:
    with mending.Registries({}, (), plain_http=False) as registries:
        return repairing.repair(opened(root), {}, registries, (), record=unrecorded, say=lambda _: None)


def spoil(path: Path, way: str) -> None:
    if way == "removed":
        path.unlink()
        return
    data = bytearray(path.read_bytes())
    path.chmod(0o644)
    if way == "flipped":
        data[len(data) // 2] ^= 1
    path.write_bytes(data if way == "flipped" else data[: len(data) // 2])


def test_a_whole_store_has_no_problems_and_a_check_changes_nothing(root: Path) -> None:
    before = content(root)
    report = check(root)
    assert report.problems == []
    assert (len(report.whole), len(report.packed)) == (2, 1)
    assert len(storecheck.check(opened(root), {}, lambda _: None, deep=True).proven) == 1
    assert content(root) == before
    assert repair(root).mended == ()
    assert content(root) == before


@pytest.mark.parametrize("way", WAYS)
def test_each_file_spoilt_is_found_named_and_mended_or_refused(made: Path, tmp_path: Path, way: str) -> None:
    """One after the other, in a copy each: `made` has every kind of file."""
    whole = content(made)
    report = check(made)
    roles = {part.path: part.role for _, part in report.taken.parts()}
    middle = opened(made).releases()[-2]
    of_middle = {f"blobs/sha256/{digest[7:]}" for digest in (middle.digest, middle.config_digest)}
    oldest = report.packed[0]  # of which there is nothing but its delta
    sole = {part.path for digest, part in report.taken.parts() if digest == oldest and part.role == "delta"}
    kinds = set()
    for number, path in enumerate(sorted(whole)):
        if path in {"lock", "removal", "removing", "packing"}:  # empty: only their locks matter
            continue
        root = tmp_path / str(number)
        shutil.copytree(made, root)
        spoil(root / path, way)
        spoilt = content(root)
        report = check(root)
        named = [item for item in report.findings if item.path == path]
        role = roles.get(path, path)
        no_loss = path == "pins" or (path.startswith("blobs") and path not in roles)  # nothing names it
        if no_loss and way == "removed":
            assert report.problems == []
            continue
        assert named, f"{path} ({role}) {way} was not found"
        assert content(root) == spoilt, "a check changed something"
        kinds.add(role)
        done = repair(root)
        after = content(root)
        no_delta = role in {"manifest", "config"} and path in of_middle  # a delta to a release carries both
        if (role in ONLY_ELSEWHERE or no_delta or path in sole) and whole[path] != after.get(path):
            assert any(item.path == path for item in done.left), path
            assert after == spoilt, "what could not be mended is not as it was"
        elif role == "index.json":
            assert_same_releases(root, made)
        elif path == "pins":
            assert done.left == ()
        elif role == "layer" and way == "removed":
            assert after == spoilt  # its image is whole: not even a problem
        else:
            assert done.left == (), (path, role, done.left)
            if whole[path] != after.get(path):
                assert role in {"layer", "delta"} or path not in roles, (path, role)
        if way != "removed":
            kept = [item.read_bytes() for item in (root / "damaged").glob("*")] if (root / "damaged").exists() else []
            assert spoilt[path] in kept or after.get(path) == spoilt[path], "damaged bytes were thrown away"
        for left in root.rglob("*"):
            if left.is_file():
                immutable.make_mutable(left)
        shutil.rmtree(root)
    assert {"manifest", "config", "tree", "image", "layer", "referrers", "referrer", "attached", "signatures", "delta"} <= kinds


def assert_same_releases(root: Path, made: Path) -> None:
    store, model = opened(root), opened(made)
    assert check(root).problems == []
    assert store.releases() == model.releases()
    for release in store.releases():
        assert store.check_signature(release.digest).digest == release.digest
        assert {item.descriptor for item in store.referrers(release.digest)} == {
            item.descriptor for item in model.referrers(release.digest)
        }


def test_all_images_or_all_layers_at_once(root: Path) -> None:
    whole = content(root)
    for path in root.glob("erofs/*"):
        spoil(path, "flipped")
    assert len([item for item in check(root).problems if item.role == "image"]) == len(list(root.glob("erofs/*")))
    assert repair(root).left == ()
    assert {path: data for path, data in content(root).items() if path.startswith("erofs/")} == {
        path: data for path, data in whole.items() if path.startswith("erofs/")
    }
    store = opened(root)
    layers = {stratum.layer.digest for release in store.releases() for stratum in release.strata if store.has_blob(stratum.layer.digest)}
    for digest in layers:
        spoil(root / "blobs" / "sha256" / digest[7:], "truncated")
    assert repair(root).left == ()
    for digest in layers:
        assert (root / "blobs" / "sha256" / digest[7:]).read_bytes() == whole[f"blobs/sha256/{digest[7:]}"]


def test_both_forms_of_a_stratum_come_back_out_of_a_delta(root: Path) -> None:
    store = opened(root)
    newest, middle = store.releases()[-1], store.releases()[-2]
    only = [stratum for stratum in newest.strata if stratum not in middle.strata]
    assert only
    whole = content(root)
    for stratum in only:
        spoil(root / "erofs" / f"{stratum.image[7:]}.erofs", "flipped")
        spoil(root / "blobs" / "sha256" / stratum.layer.digest[7:], "flipped")
    report = check(root)
    assert newest.digest not in report.whole
    assert newest.digest in report.packed  # the delta from the middle one leads to it
    done = repair(root)
    assert done.left == ()
    assert newest.digest in done.report.whole
    for stratum in only:
        name = f"erofs/{stratum.image[7:]}.erofs"
        assert content(root)[name] == whole[name]


@pytest.mark.parametrize("with_image", [False, True])
def test_a_tree_and_a_layer_of_it_both_damaged_are_said_to_be_and_no_byte_of_them_is_lost(root: Path, with_image: bool) -> None:
    """Each would be made with the other: what is left is where it was or aside, and the reason says what could not be done."""
    store = opened(root)
    middle = store.releases()[-2]
    stratum = next(stratum for stratum in middle.strata if stratum not in store.releases()[-1].strata)
    paths = [f"blobs/sha256/{digest[7:]}" for digest in (middle.tree_digest, stratum.layer.digest)]
    paths += [f"erofs/{stratum.image[7:]}.erofs"] if with_image else []
    for path in paths:
        spoil(root / path, "flipped")
    spoilt = {content(root)[path] for path in paths}
    done = repair(root)
    assert spoilt <= {path.read_bytes() for path in root.rglob("*") if path.is_file()}
    left = {item.path: item.reason for item in done.left}
    assert "; not made again: the store is damaged: " in left[paths[0]]
    assert middle.digest not in done.report.whole


def test_a_damaged_tree_is_set_aside_and_mended_beside_a_delta_that_is_lost(root: Path) -> None:
    report = check(root)
    middle = opened(root).releases()[-2]
    tree = root / "blobs" / "sha256" / middle.tree_digest[7:]
    [delta, *_] = [part for digest, part in report.taken.parts() if digest == report.packed[0] and part.role == "delta"]
    spoil(root / delta.path, "truncated")
    spoil(tree, "flipped")
    flipped = tree.read_bytes()
    done = repair(root)
    assert [item.role for item in done.mended] == ["tree"]
    assert (root / done.mended[0].aside).read_bytes() == flipped
    assert not any(item.path.endswith(tree.name) for item in done.left)


def test_a_tree_that_only_images_are_left_of_is_lost_with_what_is_unpacked_by_it(root: Path) -> None:
    store = opened(root)
    middle = store.releases()[-2]
    for digest in (middle.tree_digest, middle.strata[0].layer.digest):
        (root / "blobs" / "sha256" / digest[7:]).unlink()
    report = check(root)
    assert middle.digest not in report.whole
    assert any(item.role == "tree" and middle.digest in item.releases for item in report.problems)
    assert report.packed == ()  # the oldest comes out of a delta from the middle one
    assert any(item.role == "tree" and middle.digest in item.releases for item in repair(root).left)


def test_a_registry_that_says_a_config_is_endless_is_not_asked_for_it(root: Path) -> None:
    asked: list[str] = []

    class Endless(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(1 << 50))
            self.end_headers()

        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    newest = opened(root).releases()[0]
    (root / "blobs" / "sha256" / newest.config_digest[7:]).unlink()
    part = next(part for _, part in check(root).taken.parts() if part.digest == newest.config_digest)
    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = references.parse(f"127.0.0.1:{server.server_port}/app")
        with mending.Registries({}, [where], plain_http=True) as registries:
            assert not mending.from_registry(opened(root), registries, part._replace(size=-1), [])
        server.shutdown()
    assert not [path for path in asked if "/blobs/" in path]


def test_what_cannot_be_made_again_is_refused_and_stays(root: Path) -> None:
    store = opened(root)
    middle = store.releases()[-2]
    for stratum in middle.strata:
        spoil(root / "erofs" / f"{stratum.image[7:]}.erofs", "flipped")
        spoil(root / "blobs" / "sha256" / stratum.layer.digest[7:], "flipped")
    before = content(root)
    done = repair(root)
    lost = {item.path for item in done.left}
    assert {f"erofs/{stratum.image[7:]}.erofs" for stratum in middle.strata} <= lost
    assert {path: data for path, data in content(root).items() if path in lost} == {path: before[path] for path in lost if path in before}
    assert all("unpacked from deltas: " in item.reason for item in done.left if item.role == "image")  # why that way led nowhere


def test_bits_of_the_index(made: Path, root: Path) -> None:
    """Every 61st byte of it flipped in turn: harmless, or found and mended so that the same releases are there."""
    data = (made / "index.json").read_bytes()
    harmless = 0
    for at in range(0, len(data), 61):
        (root / "index.json").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        if not check(root).problems:
            harmless += 1
            assert_same_releases(root, made)
        elif at % 3 == 0:
            done = repair(root)
            assert done.left == (), (at, done.left)
            assert_same_releases(root, made)
    assert harmless < len(data) / 61 / 5


def test_an_index_that_is_gone_is_made_from_the_documents(root: Path, made: Path) -> None:
    (root / "index.json").unlink()
    assert opened(root).releases() == []
    [finding] = [item for item in check(root).problems if item.path == "index.json"]
    assert "missing" in finding.reason
    assert repair(root).left == ()
    assert_same_releases(root, made)


def test_a_release_whose_signature_does_not_hold_does_not_come_back_with_the_index(root: Path) -> None:
    stranger = Layout(root, trusted=[])
    (root / "index.json").unlink()
    with mending.Registries({}, (), plain_http=False) as registries:
        repairing.repair(stranger, {}, registries, (), record=unrecorded, say=lambda _: None)
    assert stranger.releases() == []


def test_what_other_tools_put_there_stays(root: Path, tmp_path: Path) -> None:
    subprocess.run(["umoci", "init", "--layout", str(tmp_path / "other")], check=True)
    subprocess.run(["umoci", "new", "--image", f"{tmp_path / 'other'}:base"], check=True)
    subprocess.run(["skopeo", "copy", "-q", f"oci:{tmp_path / 'other'}:base", f"oci:{root}:base"], check=True)
    assert check(root).problems == []
    index = (root / "index.json").read_text()
    (root / "index.json").write_text(
        index.replace('"application/vnd.oci.image.index.v1+json"', '"application/vnd.oci.image.indey.v1+json"')
    )
    assert [item.path for item in check(root).problems] == ["index.json"] * len(check(root).problems)
    assert check(root).problems
    assert repair(root).left == ()
    subprocess.run(["skopeo", "inspect", f"oci:{root}:base"], check=True, capture_output=True)


def test_strangers_and_leftovers_are_notes(root: Path) -> None:
    (root / "notes.txt").write_text("mine")
    opened(root).put(b"a seal that broke off")
    report = check(root)
    assert report.problems == []
    assert {item.kind for item in report.notes} >= {"stray", "unnamed"}
    stray = next((root / "blobs" / "sha256").glob("*"))
    assert stray.exists()
    name = "ab" * 32
    (root / "blobs" / "sha256" / name).write_text("not that")
    assert [item.path for item in check(root).problems] == [f"blobs/sha256/{name}"]
    assert repair(root).left == ()
    assert not (root / "blobs" / "sha256" / name).exists()


def test_usage_adds_up(root: Path) -> None:
    store = opened(root)
    found = usage.usage(store)
    on_disk = sum(path.stat().st_blocks * 512 for folder in ("blobs/sha256", "erofs") for path in (root / folder).iterdir())
    assert found.total == on_disk
    assert [item.form for item in found.releases] == ["as delta", "whole", "whole"]
    assert found.releases[0].deltas > 0
    assert all(stratum.form == "as delta" for stratum in found.releases[0].strata if not stratum.held)
    own = sum(item.own for item in found.releases)
    assert own + found.unnamed < found.total < own + found.unnamed + sum(item.shared for item in found.releases) + 1
    opened(root).put(os.urandom(10_000))
    assert usage.usage(store).unnamed == found.unnamed + 12_288


def test_what_releases_share_is_told_by_stratum(tmp_path: Path) -> None:
    store = opened(tmp_path / "store")
    put(store, name="one", content=b"v1")
    put(store, name="two", content=b"v2")
    one, two = usage.usage(store).releases
    assert [(item.name, item.shared_with) for item in one.strata if item.shared_with] == [("settings", 1)]
    assert one.shared == two.shared > 0
    assert min(one.own, two.own) > 0


def test_a_store_that_is_empty_or_not_there(tmp_path: Path) -> None:
    store = opened(tmp_path / "none")
    assert storecheck.check(store, {}, lambda _: None).findings == ()
    assert usage.usage(store).releases == ()
    assert repair(tmp_path / "none").left == ()


def test_an_unwritable_place_is_refused_before_anything_moves(root: Path) -> None:
    spoil(next(root.glob("erofs/*")), "flipped")
    (root / "damaged").write_text("in the way")
    before = content(root)
    with pytest.raises((SteleError, OSError)):
        repair(root)
    assert content(root) == before


@pytest.mark.parametrize("number", range(1, 8))
def test_a_repair_that_is_killed_is_finished_by_the_next(root: Path, number: int) -> None:
    """Killed at the n-th rename; what was damaged is then whole, missing, or as it was, and nothing else changed."""
    store = opened(root)
    newest = store.releases()[-1]
    whole = content(root)
    spoilt = [f"erofs/{stratum.image[7:]}.erofs" for stratum in newest.strata] + [f"blobs/sha256/{newest.tree_digest[7:]}", "oci-layout"]
    for path in spoilt:
        spoil(root / path, "flipped")
    child = os.fork()
    if not child:
        left, rename = [number], os.rename

        def killing(*args: object) -> None:
            left[0] -= 1
            if not left[0]:
                os._exit(9)
            rename(*args)  # type: ignore[arg-type]

        os.rename = killing  # type: ignore[assignment]
        try:
            repair(root)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    after = content(root)
    assert all(after[path] == data for path, data in whole.items() if path not in spoilt)
    assert repair(root).left == ()
    assert {path: content(root)[path] for path in whole} == whole


def test_a_check_while_others_seal_finds_nothing_wrong(root: Path) -> None:
    done = threading.Event()

    def sealing() -> None:
        for number in range(10, 16):
            seal(opened(root), version(number))
        done.set()

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(sealing) for _ in range(2)]
        while not done.is_set():
            assert check(root).problems == []
            assert usage.usage(opened(root)).total
        for item in running:
            item.result()
    assert check(root).problems == []
    assert len(check(root).whole) == 8


def test_a_first_seal_that_was_killed_leaves_no_problem(tmp_path: Path) -> None:
    store = opened(tmp_path / "store")
    store.put(b"the first blob, and then nothing")
    report = check(tmp_path / "store")
    assert report.problems == []
    assert [item.kind for item in report.notes] == ["unnamed"]
    (tmp_path / "store" / "index.json").unlink()
    (tmp_path / "store" / "oci-layout").unlink()
    opened(tmp_path / "store").put(b"somebody seals all the same")
    assert {item.path for item in check(tmp_path / "store").problems} == {"index.json"}
