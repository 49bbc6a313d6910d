"""Updates by delta between two stores: what arrives is what was signed, byte for byte, or is refused and nothing stays of it."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stele.flow import deltas, updates
from stele.host import immutable
from stele.model import release as releases
from stele.model import spec as specs
from stele.model.release import Descriptor, Publication
from stele.model.tree import Tree
from stele.seal import release as sealing
from stele.seal.delta import codec, quick
from stele.seal.rebuild import LayerRebuilder
from stele.seal.sign import sign
from stele.seal.sources.spool import anonymous_file
from stele.seal.stored import StoredContents
from stele.store.layout import Layout
from stele.trust.digest import sha256
from stele.trust.errors import SteleError
from stele.trust.release_key import PrivateKey
from tests.trees import Held, file, folder, varied

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = PrivateKey.generate()
NOISE = os.urandom(300_000)


def seal(store: Layout, files: dict[bytes, bytes], reuse: dict[str, releases.Stratum] | None = None) -> releases.Release:
    held = Held()
    folders = {path[:at] for path in files for at in range(len(path)) if path[at : at + 1] == b"/"}
    nodes = [folder(b""), *map(folder, folders), *(file(path, data, held) for path, data in files.items())]
    spec = specs.from_builtins({"stele": 0, "name": "shop", "command": ["/app"]})
    sealed = sealing.seal(Tree.build(nodes), held, spec, store, reuse=reuse)
    store.publish(sign(sealed, KEY, store))
    return sealed.release


V1 = {b"app": NOISE, b"etc/conf": b"a = 1\n" * 999, b"srv/same": os.urandom(100_000), b"srv/gone": b"gone"}
V2 = {**V1, b"app": NOISE[:1000] + b"two" + NOISE[1000:], b"srv/new": b"new" * 50}
V3 = {**V2, b"etc/conf": b"a = 3\n" * 999}
del V2[b"srv/gone"], V3[b"srv/gone"]


class Two:
    """A store with three releases, and another with the first of them."""

    def __init__(self, tmp: Path) -> None:
        self.here, self.there = (Layout(tmp / name, trusted=[KEY.public], rebuild=LayerRebuilder()) for name in ("here", "there"))
        self.v1, self.v2, self.v3 = (seal(self.here, files) for files in (V1, V2, V3))
        assert seal(self.there, V1).digest == self.v1.digest

    def delta(self, base: releases.Release, release: releases.Release) -> io.BytesIO:
        out = io.BytesIO()
        deltas.make_delta(self.here, base, release, out)
        return out

    def pull(self, target: str, *chain: io.BytesIO) -> releases.Release:
        """What a pull does with deltas that it has fetched, the signature aside."""
        with deltas.whole(self.there, self.v1.digest) as base:
            built = updates.head(base, target, chain)
            self.there.put(built.manifest)
            self.there.put(built.config)
            updates.build(self.there, base, built.release, chain)
        self.there.publish(Publication(release=built.release))
        return built.release


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    yield Two(tmp_path)
    for path in tmp_path.glob("*/erofs/*"):
        immutable.make_mutable(path)


def same_images(two: Two, release: releases.Release) -> None:
    for stratum in release.strata:
        assert two.there.image(stratum).read_bytes() == two.here.image(stratum).read_bytes()
        assert two.there.prepare_image(stratum).stratum == stratum


def test_a_delta_between_stores_makes_the_release_byte_for_byte(two: Two) -> None:
    delta = two.delta(two.v1, two.v2)
    assert len(delta.getvalue()) < 6000
    pulled = two.pull(two.v2.digest, delta)
    assert pulled == two.v2
    assert two.there.tree(pulled.digest) == two.here.tree(pulled.digest)
    same_images(two, pulled)


def test_a_chain_of_deltas_needs_nothing_of_the_release_between(two: Two) -> None:
    pulled = two.pull(two.v3.digest, two.delta(two.v1, two.v2), two.delta(two.v2, two.v3))
    assert pulled == two.v3
    same_images(two, pulled)
    assert not two.there.has_stratum(two.v2.strata[0])


def test_a_base_without_images_is_read_from_its_layers(two: Two) -> None:
    for stratum in two.v1.strata:
        two.there.remove_image(stratum)
    same_images(two, two.pull(two.v2.digest, two.delta(two.v1, two.v2)))


def test_a_pulled_release_is_a_base_itself(two: Two) -> None:
    two.pull(two.v2.digest, two.delta(two.v1, two.v2))
    out = io.BytesIO()
    deltas.make_delta(two.there, two.v2, two.v1, out)
    assert out.tell() > 0


def test_a_delta_for_another_base_is_refused(two: Two) -> None:
    with pytest.raises(SteleError) as refused:
        two.pull(two.v3.digest, two.delta(two.v2, two.v3))
    assert refused.value.code == "delta.wrong-base"


def test_a_delta_to_another_release_is_refused(two: Two) -> None:
    with pytest.raises(SteleError) as refused:
        two.pull(two.v2.digest, two.delta(two.v1, two.v3))
    assert refused.value.code == "release.wrong-bytes"


def test_contents_that_were_not_signed_are_refused_and_leave_no_image(two: Two) -> None:
    before = sorted(path.name for path in (two.there.root / "erofs").iterdir())
    forged = two.delta(two.v1, two.v3)
    with deltas.whole(two.there, two.v1.digest) as base, pytest.raises(SteleError) as refused:
        updates.build(two.there, base, two.v2, [forged])
    assert refused.value.code == "delta.wrong-result"
    assert sorted(path.name for path in (two.there.root / "erofs").iterdir()) == before
    assert not list((two.there.root / "tmp").iterdir())


def test_a_damaged_base_is_named_as_such(two: Two) -> None:
    path = two.there.image(two.v1.strata[0])
    data = bytearray(path.read_bytes())
    at = data.find(NOISE[:64])
    data[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(SteleError) as refused:
        two.pull(two.v2.digest, two.delta(two.v1, two.v2))
    assert refused.value.code == "store.damaged"


def test_an_attached_delta_is_found_and_made_once(two: Two) -> None:
    offer = deltas.attach_delta(two.here, two.v1, two.v2)
    assert deltas.attach_delta(two.here, two.v1, two.v2) == offer
    assert deltas.offers(two.v2.digest, two.here.referrers(two.v2.digest)) == [offer]
    assert [release.digest for release in two.here.releases()] == [two.v1.digest, two.v2.digest, two.v3.digest]
    assert two.here.release(two.v2.digest) == two.v2  # its signature is still found


def test_the_cheapest_way_is_taken() -> None:
    def offer(base: str, target: str, size: int) -> deltas.Offer:
        return deltas.Offer(base, target, size, releases.Descriptor(media_type="", digest=base + target, size=1))

    ways = {"c": [offer("a", "c", 100), offer("b", "c", 10)], "b": [offer("a", "b", 20), offer("z", "b", 1)], "a": [offer("c", "a", 1)]}

    def cheapest(have: str, limit: int) -> list[str]:
        return [item.base for item in deltas.cheapest("c", lambda digest: ways.get(digest, []), have.__contains__, limit)]

    assert cheapest("a", 1000) == ["a", "b"]
    assert cheapest("b", 1000) == ["b"]
    assert cheapest("az", 1000) == ["z", "b"]
    assert cheapest("a", 30) == []  # the strata cost no more
    assert cheapest("", 1000) == []


def test_stored_contents_are_those_that_were_sealed(tmp_path: Path) -> None:
    tree, held = varied()
    store = Layout(tmp_path / "store", rebuild=LayerRebuilder())
    release = sealing.seal(tree, held, specs.from_builtins({"stele": 0, "name": "shop", "command": ["/app"]}), store).release
    store.publish(Publication(release=release))
    for images in (True, False):
        with StoredContents.of(release, tree, store) as contents:
            for node in tree.files():
                if node.size:
                    assert contents.read(node.sha256) == held.read(node.sha256)
        if images:
            for stratum in release.strata:
                store.remove_image(stratum)


def test_what_travels_besides_is_bounded(two: Two) -> None:
    delta = two.delta(two.v1, two.v2).getvalue()
    assert codec.read_carried(io.BytesIO(delta), deltas.carried(two.here, two.v1)) == deltas.carried(two.here, two.v2)
    with pytest.raises(SteleError):
        codec.read_carried(io.BytesIO(delta), b"another base")


def receive(two: Two, target: str, said: list[str] | None = None) -> updates.Received | None:
    found = updates.receive(two.there, target, two.here, limit=1 << 40, say=(said if said is not None else []).append, damaged={})
    if found is not None:
        two.there.publish(Publication(release=found.release))
    return found


def test_a_pull_takes_the_cheapest_deltas(two: Two) -> None:
    deltas.attach_delta(two.here, two.v1, two.v2)
    deltas.attach_delta(two.here, two.v2, two.v3)
    found = receive(two, two.v3.digest)
    assert found is not None
    assert [offer.base for offer in found.chain] == [two.v1.digest, two.v2.digest]
    same_images(two, found.release)
    assert receive(two, seal(two.here, {b"other": b"x"}).digest) is None


def test_an_update_in_place_needs_no_whole_tree(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick way and the other make the same."""
    files = {**V1, b"app": NOISE[:9] + b"!" + NOISE[10:], b"srv/gone": b"not gone", b"etc/conf": b""}
    release = seal(two.here, files)
    deltas.attach_delta(two.here, two.v1, release)
    with monkeypatch.context() as patched:
        patched.setattr(codec, "apply", None)
        found = receive(two, release.digest)
    assert found is not None
    same_images(two, release)
    assert two.there.tree(release.digest) == two.here.tree(release.digest)
    again = seal(two.here, {**files, b"etc/conf": b"from nothing"})  # an empty file's like: only the whole tree tells
    deltas.attach_delta(two.here, release, again)
    assert receive(two, again.digest) is not None
    same_images(two, again)


def test_a_refused_delta_is_said_and_another_way_is_taken(two: Two) -> None:
    for base, target in ((two.v1, two.v3), (two.v1, two.v2), (two.v2, two.v3)):
        deltas.attach_delta(two.here, base, target)
    [direct] = [offer for offer in deltas.offers(two.v3.digest, two.here.referrers(two.v3.digest)) if offer.base == two.v1.digest]
    _, forged = two.delta(two.v1, two.v2), two.delta(two.v1, two.v2).getvalue()

    class Hostile:
        """Serves another delta in place of one."""

        referrers = staticmethod(two.here.referrers)
        blob = staticmethod(two.here.blob)

        def __init__(self, *bad: str) -> None:
            self.bad = set(bad)

        def open_blob(self, descriptor: releases.Descriptor) -> object:
            if descriptor.digest in self.bad:
                return contextlib.nullcontext(io.BytesIO(forged))
            return two.here.open_blob(descriptor)

    said: list[str] = []
    hostile = Hostile(deltas.artifact(two.here, direct).delta.digest)
    found = updates.receive(two.there, two.v3.digest, hostile, limit=1 << 40, say=said.append, damaged={})  # type: ignore[arg-type]
    assert found is not None
    assert any("refused" in line for line in said) == (direct.size < sum(offer.size for offer in found.chain))
    hostile.bad |= {deltas.artifact(two.here, offer).delta.digest for offer in found.chain}
    fresh = Layout(two.there.root.parent / "fresh", trusted=[KEY.public], rebuild=LayerRebuilder())
    seal(fresh, V1)
    said.clear()
    assert updates.receive(fresh, two.v3.digest, hostile, limit=1 << 40, say=said.append, damaged={}) is None  # type: ignore[arg-type]
    assert any("refused" in line for line in said)
    assert not list((fresh.root / "tmp").iterdir())


class Parted:
    """Serves a delta in two blobs, of which a hostile registry says what it likes. `sizes`: of both; None: as they are."""

    def __init__(self, two: Two, offer: deltas.Offer, at: int, sizes: tuple[int, int] | None = None, tail: bytes | None = None) -> None:
        with two.here.open_blob(deltas.artifact(two.here, offer).delta) as file:
            data = file.read()
        blobs = data[:at], data[at:] if tail is None else tail
        kinds = releases.DELTA_TYPE, releases.CONTENT_TYPE
        lengths = sizes or tuple(map(len, blobs))
        self.blobs = {sha256(blob): blob for blob in blobs}
        self.asked = 0
        layers = [
            Descriptor(media_type=kind, digest=sha256(blob), size=size) for kind, blob, size in zip(kinds, blobs, lengths, strict=True)
        ]
        [item] = [item for item in two.here.referrers(offer.target) if item.descriptor == offer.manifest]
        notes = {**item.annotations, deltas.SIZE: str(sum(lengths))}
        self.item = sealing.attach(self, two.here.find(offer.target), releases.DELTA_TYPE, layers[0], notes, layers[1:])

    def put(self, data: bytes) -> str:
        self.blobs[sha256(data)] = data
        return sha256(data)

    def referrers(self, digest: str) -> list[releases.Referrer]:
        return [self.item] if self.item.annotations[deltas.BASE] != digest else []

    def blob(self, digest: str) -> bytes:
        return self.blobs[digest]

    def open_blob(self, descriptor: releases.Descriptor) -> object:
        self.asked += 1
        return contextlib.nullcontext(io.BytesIO(self.blobs[descriptor.digest]))


@pytest.mark.parametrize("at", [0, 1, 700, -1])
def test_a_delta_in_two_blobs_is_the_one_and_then_the_other(two: Two, at: int) -> None:
    offer = deltas.attach_delta(two.here, two.v1, two.v2)
    found = updates.receive(two.there, two.v2.digest, Parted(two, offer, at), limit=1 << 40, say=lambda _: None, damaged={})  # type: ignore[arg-type]
    assert found is not None
    assert found.moved > offer.size
    same_images(two, found.release)


def test_hostile_deltas_in_two_blobs(two: Two) -> None:
    offer = deltas.attach_delta(two.here, two.v1, two.v2)
    said: list[str] = []
    for origin, read in (
        (Parted(two, offer, 700, (700, 1 << 50)), False),  # nothing of it is fetched: it would have to be held
        (Parted(two, offer, 700, (deltas.PARTED_LIMIT, 1)), False),
        (Parted(two, offer, 700, tail=b""), True),
        (Parted(two, offer, 700, tail=os.urandom(5000)), True),
        (Parted(two, offer, 700, tail=bytes(1 << 20)), True),
    ):
        assert updates.receive(two.there, two.v2.digest, origin, limit=1 << 60, say=said.append, damaged={}) is None  # type: ignore[arg-type]
        assert "refused" in said[-1]
        assert bool(origin.asked) == read
    assert not list((two.there.root / "tmp").iterdir())


FILES = st.dictionaries(
    st.sampled_from([b"a", b"b", b"c/d", b'q"uo\\te', b"sp ace"]), st.sampled_from([b"", b"1", b"2" * 9000, b"3" * 70_000]), max_size=5
)


@settings(deadline=None, max_examples=100)
@given(FILES, FILES)
def test_the_quick_way_makes_what_the_other_makes(old: dict[bytes, bytes], new: dict[bytes, bytes]) -> None:
    held, out = Held(), io.BytesIO()

    def tree(files: dict[bytes, bytes]) -> Tree:
        return Tree.build([folder(b""), folder(b"c"), *(file(path, data, held) for path, data in files.items())])

    base, result = tree(old), tree(new)
    codec.make(codec.Side(base, held), codec.Side(result, held), out)
    out.seek(0)
    applied = quick.apply(quick.Lines(base.encode()), out, result.digest(), lambda _: held, anonymous_file)
    if applied is None:
        return
    assert applied.tree.data == result.encode()
    known = {node.sha256 for node in base.files()}
    for node in result.files():
        if node.size and node.sha256 not in known:
            assert applied.contents.read(node.sha256) == held.read(node.sha256)
        assert applied.tree.lines[applied.tree.at(node.path) or 0] + b"\n" == result.lines()[result.nodes.index(node)]
    applied.contents.close()
