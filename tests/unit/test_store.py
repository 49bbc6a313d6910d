"""The store: what it gives out was checked; what was published is all there or not at all; nothing dead stays."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import stat
import tracemalloc
from pathlib import Path

import pytest

from stele.host import immutable
from stele.model import release as releases
from stele.model import spec as specs
from stele.model.tree import Tree
from stele.seal import release as sealing
from stele.seal.rebuild import LayerRebuilder
from stele.seal.sign import sign
from stele.store import index as indexes
from stele.store import together
from stele.store.layout import Layout
from stele.trust.digest import sha256
from stele.trust.errors import SteleError
from stele.trust.release_key import PrivateKey
from tests.refusals import code
from tests.trees import Held, MemorySink, file, folder

KEY = PrivateKey.generate()
STRANGER = PrivateKey.generate()


def put(store: Layout, *, name: str = "shop", content: bytes = b"v1", key: PrivateKey = KEY) -> releases.Release:
    """Seal, sign and publish a small release."""
    held = Held()
    tree = Tree.build([folder(b""), folder(b"etc"), file(b"etc/conf", b"setting", held), file(b"app", content * 3000, held)])
    spec = specs.from_builtins({"stele": 0, "name": name, "command": ["/app"], "settings": [{"path": "/etc/conf"}]})
    sealed = sealing.seal(tree, held, spec, store)
    store.publish(sign(sealed, key, store))
    return sealed.release


def opened(root: Path, *, trusted=(KEY,), rebuild=True) -> Layout:
    return Layout(root, trusted=[key.public for key in trusted], rebuild=LayerRebuilder() if rebuild else None)


@pytest.fixture
def root(tmp_path):
    yield tmp_path / "store"
    for path in (tmp_path / "store").glob("erofs/*"):  # pytest cannot remove what is immutable
        immutable.make_mutable(path)


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def blob(root: Path, digest: str) -> Path:
    return root / "blobs" / "sha256" / digest[7:]


# the port


@pytest.fixture(params=["layout", "memory"])
def sink(request, root):
    return opened(root) if request.param == "layout" else MemorySink()


def test_sink_put_gives_the_digest_and_may_be_repeated(sink):
    assert sink.put(b"data") == sink.put(b"data") == sha256(b"data")


def test_sink_drafts_are_committed_or_discarded_and_discard_is_always_fine(sink):
    for kind in ("blob", "image"):
        draft = sink.draft(kind)
        os.pwrite(draft.fd, b"end", 4)
        os.pwrite(draft.fd, b"half", 0)
        draft.commit(sha256(b"halfend"))
        draft.discard()
        dropped = sink.draft(kind)
        os.write(dropped.fd, b"x")
        dropped.discard()
        dropped.discard()


# reading


def test_a_published_release_is_found_by_digest_prefix_tag_and_workload(root):
    store = opened(root)
    release = put(store)
    hexed = release.digest[7:]
    for name in (release.digest, hexed, hexed[:12], hexed[:4], release.digest[:20], "shop", f"shop-{hexed[:12]}"):
        assert store.release(name) == release
    assert [found.digest for found in store.releases()] == [release.digest]


def test_a_workloads_name_means_its_newest_release_and_sealing_again_makes_it_the_newest(root):
    store = opened(root)
    first, second = put(store, content=b"v1"), put(store, content=b"v2")
    put(store, name="other")
    assert store.release("shop") == second
    assert put(store, content=b"v1") == first
    assert store.release("shop") == first
    assert len(store.releases()) == 3


def test_unknown_and_ambiguous_names_are_told_apart(root):
    store = opened(root)
    assert code(store.release, "shop") == "store.unknown-release"
    digests = set()
    for number in range(400):  # index entries are enough to be ambiguous
        digests.add(sha256(b"%d" % number))
    prefix = next(d[7:11] for d in digests if sum(other[7:11] == d[7:11] for other in digests) > 1)
    put(store)
    index = json.loads((root / "index.json").read_text())
    index["manifests"] += [{"mediaType": releases.MANIFEST_TYPE, "digest": digest, "size": 1} for digest in digests]
    (root / "index.json").write_text(json.dumps(index))
    assert code(store.release, prefix) == "store.ambiguous"


def test_reading_an_empty_store_creates_nothing(root):
    assert opened(root).releases() == []
    assert not root.exists()


# signatures


def test_unsigned_unknown_signer_and_bad_signature_are_told_apart(root):
    store = opened(root)
    release = put(store)
    assert store.check_signature(release.digest).hint == KEY.public.hint
    assert code(opened(root, trusted=[STRANGER]).release, "shop") == "store.unknown-signer"
    assert code(opened(root, trusted=[]).release, "shop") == "store.unknown-signer"
    index = json.loads((root / "index.json").read_text())
    bare = {**index, "manifests": [item for item in index["manifests"] if item["digest"] == release.digest]}
    (root / "index.json").write_text(json.dumps(bare))
    assert code(store.release, "shop") == "store.unsigned"


def test_a_signature_of_another_release_by_a_trusted_key_is_bad(root):
    store = opened(root)
    first, second = put(store, content=b"v1"), put(store, content=b"v2")
    index = json.loads((root / "index.json").read_text())
    tags = {item.get("annotations", {}).get("org.opencontainers.image.ref.name"): item for item in index["manifests"]}
    # the second release's tags now name the first one's signatures
    for ending in ("", ".sig"):
        tags[f"sha256-{second.digest[7:]}{ending}"]["digest"] = tags[f"sha256-{first.digest[7:]}{ending}"]["digest"]
    index["manifests"] = [item for item in tags.values() if item.get("annotations", {}).get("org.opencontainers.image.ref.name")]
    (root / "index.json").write_text(json.dumps(index))
    assert code(store.release, second.digest) == "store.bad-signature"
    assert store.release(first.digest) == first


def test_a_missing_signature_file_is_damage_not_absence(root):
    store = opened(root)
    release = put(store)
    index = json.loads((root / "index.json").read_text())
    index["manifests"] = [item for item in index["manifests"] if "artifactType" not in item]
    (root / "index.json").write_text(json.dumps(index))
    for item in index["manifests"]:
        if item["digest"] != release.digest:
            blob(root, item["digest"]).unlink()
    assert code(store.release, "shop") == "store.damaged"


def test_two_signers_of_one_release_are_both_kept(root):
    store = opened(root)
    put(store, key=KEY)
    put(store, key=STRANGER)
    for key in (KEY, STRANGER):
        assert opened(root, trusted=[key]).release("shop")
        assert opened(root, trusted=[key]).evidence(store.find("shop").digest).signatures[0]


def test_either_form_of_the_signature_is_enough(root):
    store = opened(root)
    release = put(store)
    text = (root / "index.json").read_text()
    for keep in (f"sha256-{release.digest[7:]}", f"sha256-{release.digest[7:]}.sig"):
        index = json.loads(text)
        index["manifests"] = [
            item
            for item in index["manifests"]
            if item.get("annotations", {}).get("org.opencontainers.image.ref.name") in {keep, f"shop-{release.digest[7:19]}"}
        ]
        (root / "index.json").write_text(json.dumps(index))
        assert store.check_signature(release.digest).form == ("sig" if keep.endswith("sig") else "bundle")
    assert code(store.evidence, release.digest) == "store.no-bundle"


def test_evidence_is_what_a_verifier_needs(root):
    from stele.trust import dsse

    store = opened(root)
    release = put(store)
    found = store.evidence(release.digest)
    assert sha256(found.manifest) == release.digest
    assert sha256(found.config) == release.config_digest
    assert KEY.public.verify(dsse.pae("application/vnd.in-toto+json", found.payload), found.signatures[0])


# damage


@pytest.mark.parametrize("part", ["manifest", "config", "layer", "tree", "image"])
def test_one_flipped_bit_anywhere_is_found(root, part):
    store = opened(root)
    release = put(store)
    base = release.strata[0]
    assert store.verify(release)["images"] == 2
    path = {
        "manifest": blob(root, release.digest),
        "config": blob(root, release.config_digest),
        "layer": blob(root, base.layer.digest),
        "tree": blob(root, release.tree_digest),
        "image": root / "erofs" / f"{base.image[7:]}.erofs",
    }[part]
    spoil(path)
    assert code(store.verify, release) == "store.damaged"
    assert len(store.releases()) == (0 if part in {"manifest", "config"} else 1)
    if part == "image":
        assert code(store.prepare_image, base) == "store.damaged"


def test_sealing_again_repairs_damaged_blobs_and_images(root):
    store = opened(root)
    release = put(store)
    for path in [*(root / "blobs" / "sha256").iterdir(), *(root / "erofs").iterdir()]:
        spoil(path)
    assert put(store) == release
    store.verify(store.release("shop"))


def test_a_lost_tree_is_made_again_from_the_layers(root):
    store = opened(root)
    release = put(store)
    tree = store.tree(release.digest)
    blob(root, release.tree_digest).unlink()
    assert code(opened(root, rebuild=False).tree, release.digest) == "store.damaged"
    assert store.tree(release.digest) == tree
    assert blob(root, release.tree_digest).exists()


def test_lost_images_are_made_again_from_the_layers(root):
    store = opened(root)
    release = put(store)
    before = {stratum.name: store.image(stratum).read_bytes() for stratum in release.strata}
    for stratum in release.strata:
        store.remove_image(stratum)
    assert code(opened(root, rebuild=False).image, release.strata[0]) == "store.image-missing"
    assert {stratum.name: Path(store.prepare_image(stratum).path).read_bytes() for stratum in release.strata} == before


def test_an_image_is_not_made_from_a_damaged_layer(root):
    store = opened(root)
    base = put(store).strata[0]
    store.remove_image(base)
    spoil(blob(root, base.layer.digest))
    assert code(store.prepare_image, base) == "store.damaged"
    assert not (root / "erofs" / f"{base.image[7:]}.erofs").exists()
    assert list((root / "tmp").iterdir()) == []


def test_prepare_checks_again_after_a_change(root):
    store = opened(root)
    base = put(store).strata[0]
    prepared = store.prepare_image(base)
    assert store.prepare_image(base) == prepared
    immutable.make_mutable(Path(prepared.path))
    times = os.stat(prepared.path)
    spoil(Path(prepared.path))
    os.utime(prepared.path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert code(store.prepare_image, base) == "store.damaged"


def test_an_image_of_another_size_is_refused_without_reading_it(root):
    store = opened(root)
    base = put(store).strata[0]
    path = store.image(base)
    path.chmod(0o644)
    os.truncate(path, 4096)
    assert code(store.prepare_image, base) == "store.damaged"


def test_reading_a_small_blob_takes_no_room_for_a_large_one(root):
    store = Layout(root)
    digest = store.put(b"small")
    tracemalloc.start()
    try:
        assert store.blob(digest, 4 << 30) == b"small"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"manifests": 1}', f'{{"manifests": [{{"digest": "x", "size": 1, "mediaType": "{releases.MANIFEST_TYPE}"}}]}}']
)
def test_a_broken_index_is_damage(root, text):
    store = opened(root)
    put(store)
    (root / "index.json").write_text(text)
    assert code(store.releases) == "store.damaged"


def test_images_that_other_tools_put_here_are_left_out(root, caplog):
    store = opened(root)
    release = put(store)
    foreign = store.put(b'{"schemaVersion":2,"config":{},"layers":[]}')
    index = json.loads((root / "index.json").read_text())
    index["manifests"].append(
        {"mediaType": releases.MANIFEST_TYPE, "digest": foreign, "size": 1, "annotations": {"org.opencontainers.image.ref.name": "latest"}}
    )
    (root / "index.json").write_text(json.dumps(index))
    assert store.releases() == [release]
    assert not caplog.records
    put(store, content=b"v2")
    assert foreign in (root / "index.json").read_text()


# writing


def test_what_dead_writers_left_is_swept_and_live_ones_are_left_alone(root):
    store = opened(root)
    live = store.draft("blob")
    (root / "tmp" / "dead").write_bytes(b"half")
    opened(root)
    assert [path.name for path in (root / "tmp").iterdir()] == [live._path.name]
    live.commit(sha256(b""))
    assert list((root / "tmp").iterdir()) == []


def test_half_written_indexes_are_swept(root):
    store = opened(root)
    put(store)
    (root / ".index.json.0123.tmp").write_bytes(b"half")
    put(store, content=b"v2")
    assert not (root / ".index.json.0123.tmp").exists()


def test_files_are_readable_by_others_and_writable_by_nobody(root):
    put(opened(root))
    for path in [*(root / "blobs" / "sha256").iterdir(), *(root / "erofs").iterdir()]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o444


def _seal_many(root: Path, worker: int, count: int) -> None:
    store = opened(root)
    for number in range(count):
        put(store, name=f"w{worker}", content=b"%d" % number)


def test_concurrent_seals_lose_nothing(root):
    workers = [multiprocessing.get_context("fork").Process(target=_seal_many, args=(root, worker, 6)) for worker in range(3)]
    for process in workers:
        process.start()
    for process in workers:
        process.join()
        assert process.exitcode == 0
    store = opened(root)
    assert len(store.releases()) == 18
    for release in store.releases():
        store.verify(release)


@pytest.fixture
def closed(root):
    """A store in which nothing can be created, not even by root where the file system knows immutable folders."""
    put(opened(root))
    fd = os.open(root / "tmp", os.O_RDONLY)
    os.fchmod(fd, 0o500)
    immutable.change(fd, immutable=True)
    yield root
    immutable.change(fd, immutable=False)
    os.fchmod(fd, 0o755)
    os.close(fd)


def test_a_store_that_cannot_be_written_is_named_and_stays_readable(closed):
    if os.access(closed / "tmp", os.W_OK):
        pytest.skip("root on a file system without immutable folders may write everywhere")
    store = opened(closed)
    assert code(put, store) == "store.not-writable"
    assert store.release("shop")


def test_what_is_stored_together_is_read_before_it_has_its_name_and_gone_if_it_is_not_published(tmp_path):
    store = Layout(tmp_path / "store")
    with store.together():
        digest = store.put(b"some bytes")
        assert store.put(b"some bytes") == digest
        assert store.blob(digest) == b"some bytes"
        assert not store.has_blob(digest)
    assert not list((tmp_path / "store" / "tmp").iterdir())
    with pytest.raises(SteleError):
        store.blob(digest)


def test_more_files_than_are_kept_open_get_their_names_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(together, "MOST", 4)
    store = Layout(tmp_path / "store")
    with store.together():
        digests = [store.put(b"%d" % number) for number in range(10)]
        assert [store.has_blob(digest) for digest in digests] == [True] * 8 + [False] * 2
        assert all(store.blob(digest) for digest in digests)


def test_a_disk_that_does_not_take_one_of_several_files_gives_none_its_name(tmp_path, monkeypatch):
    store = Layout(tmp_path / "store")
    real = os.fsync
    failing: list[int] = []

    def fsync(fd):
        if fd in failing:
            raise OSError(errno.EIO, "it is broken")
        real(fd)

    with store.together():
        digests = [store.put(b"%d" % number) for number in range(20)]
        failing += [waiting.fd for waiting in store._together._files.values()][7:8]
        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="it is broken"):
            store._together.settle()
    assert not any(map(store.has_blob, digests))


def test_the_index_is_spelled_as_json_with_one_space_for_each_depth(tmp_path):
    entries = [{"digest": "sha256:x", "size": 2**63, "annotations": {"a": '\u20ac"\\\n', "empty": {}}, "list": []}, {}]
    whole = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}
    assert indexes.encoded(entries) == json.dumps(whole, indent=1, sort_keys=True).encode() + b"\n"
