"""Old releases at rest: they take what changed, come back byte for byte, and nothing goes before that is proven."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from stele.flow import deltas, packing, unpacking
from stele.flow.unpacking import Unpacking
from stele.host import immutable
from stele.model import release as releases
from stele.model.tree import Tree
from stele.seal import codec
from stele.seal import release as sealing
from stele.seal.delta import cutting
from stele.seal.rebuild import LayerRebuilder
from stele.seal.sign import sign
from stele.seal.strata import Slice
from stele.store import reuse
from stele.store.layout import Layout
from stele.trust.errors import SteleError
from tests.trees import varied
from tests.unit.test_updates import KEY, seal

if TYPE_CHECKING:
    from collections.abc import Iterator

NOISE = os.urandom(200_000)


def unrecorded(*_: object, **__: object) -> None:
    """No ledger hears of it."""


def version(number: int) -> dict[bytes, bytes]:
    return {b"app": NOISE + b"%d" % number, b"etc/conf": b"%d\n" % number * 500, b"srv/same": NOISE[:50_000] + b"!"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Layout]:
    found = Layout(tmp_path / "store", trusted=[KEY.public], rebuild=LayerRebuilder())
    found.unpack = Unpacking(found)
    yield found
    for path in tmp_path.glob("*/erofs/*"):
        immutable.make_mutable(path)


def filled(store: Layout, count: int) -> tuple[list[releases.Release], dict[str, bytes]]:
    """Some releases, and the bytes of all their images."""
    found = [seal(store, version(number)) for number in range(count)]
    return found, {s.image: store.image(s).read_bytes() for release in found for s in release.strata}


def pack(store: Layout, *keep: releases.Release, keep_layers: bool = False) -> packing.Packed:
    return packing.pack(store, {release.digest for release in keep}, keep_layers=keep_layers, record=unrecorded, say=lambda _: None)


def size(store: Layout) -> int:
    return sum(path.stat().st_size for path in store.root.rglob("*") if path.is_file())


def test_packed_releases_come_back_whole_and_signed(store: Layout) -> None:
    found, images = filled(store, 5)
    trees = {release.digest: store.tree(release.digest) for release in found}
    before = size(store)
    done = pack(store)
    assert done.packed == tuple(release.digest for release in found[:-1])
    assert size(store) < before / 3
    assert not any(store.has_stratum(stratum) for stratum in found[0].strata)
    for release in found:
        assert store.release(release.digest) == release
        assert store.tree(release.digest) == trees[release.digest]
        for stratum in release.strata:
            assert store.prepare_image(stratum).stratum == stratum
            assert store.image(stratum).read_bytes() == images[stratum.image]
        assert store.verify(release)["images"] == len(release.strata)


def test_packing_again_packs_what_was_unpacked_and_what_is_new(store: Layout) -> None:
    found, images = filled(store, 3)
    pack(store)
    store.verify(found[0])
    assert deltas.is_whole(store, found[0])
    found.append(seal(store, version(3)))
    assert pack(store).packed == tuple(release.digest for release in found[:-1])
    assert not deltas.is_whole(store, found[0])
    assert store.image(found[0].strata[0]).read_bytes() == images[found[0].strata[0].image]


def test_long_series_stay_within_reach(store: Layout) -> None:
    found = []
    for number in range(packing.DEPTH * 2 + 3):
        found.append(seal(store, version(number)))
        pack(store)
    for release in found:
        assert len(deltas.way_here(store, release)) <= packing.DEPTH if release is not found[-1] else deltas.is_whole(store, release)
    for release in found:
        store.verify(release)
    assert len(list((store.root / "blobs" / "sha256").iterdir())) < 30 * len(found)


def layers(store: Layout, release: releases.Release) -> set[bool]:
    """Whether the layers of a release are there, each at its digest."""
    held = set()
    for stratum in release.strata:
        held.add(store.has_blob(stratum.layer.digest))
        if store.has_blob(stratum.layer.digest):
            with store.layer(stratum) as file:
                assert file.read()
    return held


def test_what_is_kept_stays_ready_and_its_content_is_packed(store: Layout) -> None:
    found, images = filled(store, 3)
    pack(store, found[0])
    for release in (found[0], found[2]):
        assert all(map(store.has_image, release.strata))
        assert layers(store, release) == {False}
    for release in found:  # and from what is packed alone everything comes back
        for stratum in release.strata:
            store.remove_image(stratum)
    for release in found:
        for stratum in release.strata:
            assert store.image(stratum).read_bytes() == images[stratum.image]


def test_layers_are_kept_where_they_are_wanted_and_come_back(store: Layout) -> None:
    found, _ = filled(store, 4)
    pack(store, found[1], keep_layers=True)
    for release, whole in zip(found, (False, True, False, True), strict=True):
        assert layers(store, release) == {whole}
        assert deltas.is_whole(store, release) == whole
    with_layers = size(store)
    pack(store, found[1])
    assert [layers(store, release) for release in found] == [{False}] * 4
    assert size(store) < with_layers
    pack(store, found[1], keep_layers=True)
    assert layers(store, found[1]) == layers(store, found[3]) == {True}
    assert size(store) <= with_layers + 2000  # the packed forms of both went again
    for release in found:
        store.verify(release)


def test_packing_what_is_packed_does_nothing(store: Layout) -> None:
    filled(store, 3)
    pack(store)
    said: list[str] = []
    done = packing.pack(store, (), keep_layers=False, record=unrecorded, say=said.append)
    assert (done.added, done.freed, done.left, said) == (0, 0, {}, [])


def test_layers_of_another_codec_stay(store: Layout) -> None:
    """They could not be made again: nobody could push the release any more."""
    [old], _ = filled(store, 1)
    table = []
    for stratum in old.strata:
        with store.layer(stratum) as file:
            layer = zstandard.ZstdCompressor(level=7).compress(zstandard.ZstdDecompressor().stream_reader(file).read())
        described = msgspec.structs.replace(stratum.layer, digest=store.put(layer), size=len(layer))
        table.append(msgspec.structs.replace(stratum, layer=described))
    kept = sealing.keep_tree(store, store.tree(old.digest).encode())
    sealed = sealing.assemble(old.spec, store, kept, tuple(table), compression="zstd", platform="linux/amd64")
    store.publish(sign(sealed, KEY, store))
    done = pack(store)
    assert list(done.left) == [sealed.release.digest]
    assert "codec" in done.left[sealed.release.digest]
    assert layers(store, sealed.release) == {True}
    assert deltas.offers(sealed.release.digest, store.referrers(sealed.release.digest)) == []
    assert layers(store, old) == {False}  # it is packed, and has the same images
    store.verify(old)


def test_a_seal_on_top_of_what_is_packed_makes_only_what_changed(store: Layout) -> None:
    files = {**version(1), b"etc/machine-id": b"one"}
    seal(store, files)
    pack(store)
    same = reuse.strata(store, "shop", codec.codec_name("zstd"))
    new = seal(store, {**files, b"etc/machine-id": b"two"}, same)
    assert {stratum.name: store.has_blob(stratum.layer.digest) for stratum in new.strata} == {"files": False, "database": True}
    unpacking.layers(store, new, [stratum for stratum in new.strata if not store.has_blob(stratum.layer.digest)])
    assert layers(store, new) == {True}
    store.verify(new)


def test_a_full_pack_goes_when_its_release_is_no_longer_the_newest(store: Layout) -> None:
    found, _ = filled(store, 2)
    pack(store)
    seal(store, version(9))
    pack(store)
    offers = [deltas.offers(r.digest, store.referrers(r.digest)) for r in (*found, *store.releases()[-1:])]
    assert [[offer.base == deltas.EMPTY for offer in its] for its in offers] == [[False], [False], [True]]
    for release in store.releases():
        store.verify(release)


def test_a_damaged_release_stays_as_it_is(store: Layout) -> None:
    found, _ = filled(store, 3)
    path = store.image(found[0].strata[0])
    data = bytearray(path.read_bytes())
    data[data.find(NOISE[:64])] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    done = pack(store)
    assert set(done.left) == {found[0].digest}
    assert all(store.has_blob(stratum.layer.digest) for stratum in found[0].strata)
    assert done.packed == (found[1].digest,)


def test_a_crash_before_the_removal_loses_nothing(store: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = filled(store, 3)

    def crash(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(packing, "_remove", crash)
        with pytest.raises(KeyboardInterrupt):
            pack(store)
    assert all(deltas.is_whole(store, release) for release in found)
    pack(store)
    for release in found:
        store.verify(release)


def test_a_damaged_delta_is_found_and_named(store: Layout) -> None:
    found, _ = filled(store, 2)
    pack(store)
    [offer] = deltas.way_here(store, found[0])
    path = store.root / "blobs" / "sha256" / deltas.artifact(store, offer).delta.digest[7:]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    for call in (lambda: store.verify(found[0]), lambda: store.tree(found[0].digest), lambda: store.image(found[0].strata[0])):
        with pytest.raises(SteleError) as refused:
            call()
        assert refused.value.code == "store.damaged"


def test_nothing_is_removed_while_somebody_adds(store: Layout) -> None:
    found, _ = filled(store, 2)
    with store.adding(), pytest.raises(SteleError) as refused:
        pack(store)
    assert refused.value.code == "store.busy"
    assert all(deltas.is_whole(store, release) for release in found)


def test_packing_waits_for_those_who_add_and_comes_to_its_turn(store: Layout) -> None:
    found, _ = filled(store, 2)
    begun, done = threading.Event(), []

    def add() -> None:
        with store.adding():
            begun.set()
            with pytest.raises(SteleError):  # the packing waits for this very process's turn to end
                packing.pack(store, (), keep_layers=False, record=unrecorded, say=lambda _: None, wait=0.05)

    adder = threading.Thread(target=add)
    adder.start()
    begun.wait()
    done.append(packing.pack(store, (), keep_layers=False, record=unrecorded, say=lambda _: None, wait=300))
    adder.join()
    assert done[0].packed == (found[0].digest,)


@pytest.mark.parametrize("what", ["new", "again", "pinned"])
def test_what_is_added_or_pinned_while_others_are_packed_stays_whole(store: Layout, what: str) -> None:
    found, images = filled(store, 3)
    came: list[releases.Release] = []

    def meanwhile(_: str) -> None:
        if came:
            return
        if what == "pinned":
            packing.set_pin(store, found[0].digest, pinned=True)
            came.append(found[0])
        else:
            came.append(seal(store, version(0 if what == "again" else 3)))

    done = packing.pack(store, (), keep_layers=False, record=unrecorded, say=meanwhile)
    assert done.freed > 0
    for stratum in came[0].strata:
        assert store.has_image(stratum)
    assert store.has_blob(came[0].tree_digest)
    for release in found:
        store.verify(release)
        for stratum in release.strata:
            assert store.image(stratum).read_bytes() == images[stratum.image]


def test_two_packings_at_once_do_not_each_remove_what_the_other_made(store: Layout) -> None:
    """The second one knows of a newer release, and so would keep all of them by other deltas."""
    found, images = filled(store, 3)
    second: list[SteleError] = []

    def meanwhile() -> tuple[str, ...]:
        raise AssertionError("it did not come that far")

    def also(_: str) -> None:
        if not second:
            seal(store, version(3))
            with pytest.raises(SteleError) as refused:
                packing.pack(store, (), keep_layers=False, record=unrecorded, say=lambda _: None, wait=0.01, meanwhile=meanwhile)
            second.append(refused.value)

    packing.pack(store, (), keep_layers=False, record=unrecorded, say=also)
    assert [(error.code, error.retryable) for error in second] == [("store.busy", True)]
    pack(store)
    for release in store.releases():
        store.verify(release)
    assert all(store.image(s).read_bytes() == images[s.image] for release in found for s in release.strata)


@pytest.mark.parametrize("keep_layers", [False, True])
def test_what_is_in_use_when_something_is_to_be_removed_stays_whole(store: Layout, *, keep_layers: bool) -> None:
    found, _ = filled(store, 3)

    def begun() -> tuple[str, ...]:
        return (found[0].digest,)

    done = packing.pack(store, (), keep_layers=keep_layers, record=unrecorded, say=lambda _: None, meanwhile=begun)
    assert done.packed == (found[1].digest,)
    assert set(done.kept) == {found[0].digest, found[2].digest}
    assert all(map(store.has_image, found[0].strata))
    assert layers(store, found[0]) == {True}


def test_what_has_no_packed_form_any_more_stays_whole(store: Layout) -> None:
    """As after a repair, to which a delta of what is whole is one to let go of."""
    found, _ = filled(store, 3)

    def repaired() -> tuple[str, ...]:
        store.unrefer(
            found[0].digest, {offer.manifest.digest for offer in deltas.offers(found[0].digest, store.referrers(found[0].digest))}
        )
        return ()

    done = packing.pack(store, (), keep_layers=False, record=unrecorded, say=lambda _: None, meanwhile=repaired)
    assert done.packed == (found[1].digest,)
    assert set(done.left) == {found[0].digest}
    assert deltas.is_whole(store, found[0])
    for release in found:
        store.verify(release)


def test_layers_that_a_foreign_image_shares_stay(store: Layout) -> None:
    found, _ = filled(store, 2)
    layer = found[0].strata[0].layer
    foreign = json.dumps({"schemaVersion": 2, "mediaType": releases.MANIFEST_TYPE, "layers": [layer.plain()]}).encode()
    path = store.root / "index.json"
    index = json.loads(path.read_bytes())
    index["manifests"].append({"mediaType": releases.MANIFEST_TYPE, "digest": store.put(foreign), "size": len(foreign)})
    path.write_text(json.dumps(index))
    pack(store)
    assert store.has_blob(layer.digest)


def test_pins_are_kept_and_taken_away(store: Layout) -> None:
    [release], _ = filled(store, 1)
    assert packing.pins(store) == set()
    packing.set_pin(store, release.digest, pinned=True)
    assert packing.pins(store) == {release.digest}
    packing.set_pin(store, release.digest, pinned=False)
    assert packing.pins(store) == set()
    (store.root / "pins").write_text("nonsense")
    with pytest.raises(SteleError):
        packing.pins(store)


@given(st.integers(1, 30), st.sets(st.integers(0, 29)), st.dictionaries(st.integers(0, 29), st.integers(0, 29)))
def test_every_plan_leads_to_what_is_kept(count: int, kept: set[int], known: dict[int, int]) -> None:
    order = [str(number) for number in range(count)]
    was = {str(one): str(other) for one, other in known.items() if one < other < count}
    keep = {str(number) for number in kept} | {order[-1]}
    found = packing.plan(order, keep, was)
    assert set(found) == set(order) - keep
    for digest in found:
        steps, at = 0, digest
        while at not in keep:
            assert int(found[at]) > int(at)
            at, steps = found[at], steps + 1
        assert steps <= packing.DEPTH


# the record of the cut

TREE, _ = varied()


def _cut(count: int) -> tuple[Slice, ...]:
    above = {node.path.rpartition(b"/")[0] for node in TREE.nodes[1:]}
    single = [node for node in TREE.nodes[1:] if node.kind != "dir" or node.path not in above]
    found = []
    for at in range(count):
        own = {node.path for place, node in enumerate(single) if place % 7 % count == at}
        needed = {b""}
        for path in own:
            parts = path.split(b"/")
            needed |= {b"/".join(parts[:depth]) for depth in range(len(parts))}
        found.append(Slice(f"s-{at}", tuple(node for node in TREE.nodes if node.path in own or node.path in needed)))
    return tuple(found)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_cut_is_written_down_and_read(count: int) -> None:
    assert cutting.decode(TREE, cutting.encode(TREE, _cut(count))) == _cut(count)


@given(st.binary(max_size=100))
def test_noise_is_no_cut(noise: bytes) -> None:
    import zstandard

    for data in (noise, zstandard.compress(noise)):
        with pytest.raises(SteleError) as refused:
            cutting.decode(TREE, data)
        assert refused.value.code == "delta.damaged"


@pytest.mark.parametrize(
    "cut",
    [
        {"names": [], "runs": []},
        {"names": ["a"], "runs": [[0, 1]]},
        {"names": ["a"], "runs": [[0, 1 << 40]]},
        {"names": ["a"], "runs": [[1, 5]]},
        {"names": ["a"] * 41, "runs": []},
        {"names": ["a"], "runs": [[0, -1]]},
    ],
)
def test_hostile_cuts(cut: dict[str, object]) -> None:
    import zstandard

    from stele.trust import canonical

    tiny = Tree(TREE.nodes[:1])
    for tree in (TREE, tiny):
        if tree is tiny and cut == {"names": ["a"], "runs": []}:
            continue
        with pytest.raises(SteleError) as refused:
            cutting.decode(tree, zstandard.compress(canonical.encode(cut)))
        assert refused.value.code == "delta.damaged"


def test_no_pin_is_lost_where_several_are_set_at_once(store: Layout):
    digests = {f"sha256:{number:064x}" for number in range(16)}
    with ThreadPoolExecutor(len(digests)) as pool:
        list(pool.map(lambda digest: packing.set_pin(store, digest, pinned=True), digests))
    assert packing.pins(store) == digests
