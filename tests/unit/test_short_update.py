"""Updates in their shortest form: what comes of one is the release that was signed, byte for byte, or it is refused."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stele.flow import deltas, short_updates
from stele.host import immutable
from stele.model.release import BUNDLE_TYPE, DELTA_TYPE, Descriptor
from stele.seal.delta import codec, quick, short
from stele.seal.rebuild import LayerRebuilder
from stele.seal.release import attach
from stele.store import index as indexes
from stele.store.layout import Layout
from stele.trust.errors import SteleError
from stele.trust.release_key import PrivateKey
from tests.refusals import code
from tests.unit.test_updates import KEY, NOISE, V1, V2, seal
from tests.vectors.make_update import plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stele.model.release import Release

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "update.json").read_text())
EDITED = {**V1, b"app": NOISE[:1000] + b"other" + NOISE[1005:]}


@pytest.mark.parametrize("vector", VECTORS["updates"], ids=[item["name"] for item in VECTORS["updates"]])
def test_vectors(vector: dict[str, Any]) -> None:
    data, tree = bytes.fromhex(vector["update"]), VECTORS["base_tree"].encode("ascii")
    if "code" in vector:
        assert code(short.decode, data, VECTORS["base"], tree) == vector["code"]
        return
    update = short.decode(data, VECTORS["base"], tree)
    assert plain(update) == vector["expect"]
    assert update.lines or short.encode(update, tree) == data  # what zstd makes of lines may change


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_an_update_or_refused(data: bytes) -> None:
    tree = VECTORS["base_tree"].encode("ascii")
    for text in (data, short.MAGIC + short.short_of(VECTORS["base"]) + data):
        try:
            update = short.decode(text, VECTORS["base"], tree)
            patch = short.patch(update, quick.Lines(tree))
        except SteleError as error:
            assert error.code.startswith("delta.")
        else:
            assert update.lines or short.encode(update, tree) == text
            assert isinstance(patch, bytes)


class Pair:
    """A store with two releases and the delta between them, and one that has the first."""

    def __init__(self, tmp: Path, old: dict[bytes, bytes], new: dict[bytes, bytes], *, trusted: PrivateKey = KEY) -> None:
        self.here = Layout(tmp / "here", trusted=[KEY.public], rebuild=LayerRebuilder())
        self.there = Layout(tmp / "there", trusted=[trusted.public], rebuild=LayerRebuilder())
        self.base, self.new = seal(self.here, old), seal(self.here, new)
        assert seal(self.there, old) == self.base
        self.update = short_updates.made(self.here, self.new, deltas.attach_delta(self.here, self.base, self.new))

    def receive(self, data: bytes) -> Release:
        return short_updates.receive(self.there, self.base, self.new.digest, data, self.there.publish)

    def altered(self, **fields: Any) -> bytes:
        tree = self.here.tree(self.base.digest).encode()
        return short.encode(short.decode(self.update, self.base.digest, tree)._replace(**fields), tree)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    yield Pair(tmp_path, V1, EDITED)
    for path in tmp_path.glob("*/erofs/*"):
        immutable.make_mutable(path)


def test_what_comes_is_the_release_with_its_signatures(pair: Pair) -> None:
    assert pair.receive(pair.update) == pair.new
    assert pair.there.release(pair.new.digest) == pair.new
    assert pair.there.verify(pair.new)["images"] == len(pair.new.strata)
    for store in (pair.here, pair.there):
        kinds = [item.artifact_type for item in store.referrers(pair.new.digest)]
        assert kinds.count(BUNDLE_TYPE) == 1
    own = {item for item in map(repr, pair.here.referrers(pair.new.digest)) if "delta.v0" not in item}
    assert set(map(repr, pair.there.referrers(pair.new.digest))) == own
    tag = indexes.signatures_tag(pair.new.digest)
    assert pair.there.tagged(tag) == pair.here.tagged(tag)


def test_one_changed_file_costs_its_delta_and_less_than_half_a_kilobyte(pair: Pair) -> None:
    tree = pair.here.tree(pair.base.digest).encode()
    update = short.decode(pair.update, pair.base.digest, tree)
    assert len(pair.update) - len(update.content) < 400
    assert not update.lines
    assert len(update.edits) == len(update.rows) == 1


def test_a_base_whose_images_are_not_made_yet_will_do(pair: Pair) -> None:
    for stratum in pair.base.strata:
        pair.there.remove_image(stratum)
    assert pair.receive(pair.update) == pair.new


FILES = st.dictionaries(
    st.sampled_from([b"a", b"b", b"c/d", b'q"uo\\te', b"sp ace"]), st.sampled_from([b"", b"1", b"2" * 9000, b"3" * 70_000]), max_size=5
)


@settings(deadline=None, max_examples=15)
@given(FILES, FILES)
def test_any_two_releases(old: dict[bytes, bytes], new: dict[bytes, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(Path(folder), old, new)
        assert pair.update
        assert pair.receive(pair.update) == pair.new
        assert pair.there.tree(pair.new.digest) == pair.here.tree(pair.new.digest)


def test_new_and_removed_paths_travel_as_lines(tmp_path: Path) -> None:
    pair = Pair(tmp_path, V1, V2)
    assert short.decode(pair.update, pair.base.digest, pair.here.tree(pair.base.digest).encode()).lines
    assert pair.receive(pair.update) == pair.new


def visible(pair: Pair) -> list[str]:
    return [release.digest for release in pair.there.releases()]


def test_an_altered_byte_is_refused_or_changes_nothing(pair: Pair) -> None:
    for at in range(0, len(pair.update), 29):
        data = pair.update[:at] + bytes([pair.update[at] ^ 0x11]) + pair.update[at + 1 :]
        try:
            assert pair.receive(data) == pair.new  # an older signature that does not hold is left out
        except SteleError as error:
            assert error.code.startswith(short_updates.REFUSED)
            if pair.new.digest not in visible(pair):
                assert visible(pair) == [pair.base.digest]


@pytest.mark.parametrize("part", ["bundles", "base", "frames", "rows", "edits"])
def test_what_is_missing_or_other_is_refused(pair: Pair, part: str) -> None:
    update = short.decode(pair.update, pair.base.digest, pair.here.tree(pair.base.digest).encode())
    altered, expected = {
        "bundles": ({"bundles": ()}, "store.unsigned"),
        "base": ({"base": bytes(4)}, "delta.wrong-base"),
        "frames": ({"frames": (update.frames[0] + 1,)}, "delta.damaged"),
        "rows": ({"rows": ()}, "release.wrong-bytes"),
        "edits": ({"edits": ()}, "release.wrong-bytes"),
    }[part]
    assert code(pair.receive, pair.altered(**altered)) == expected
    assert visible(pair) == [pair.base.digest]


def test_another_base_whose_first_bytes_are_the_same(pair: Pair) -> None:
    other = seal(pair.there, {**V1, b"srv/same": b"other"})
    data = pair.altered(base=short.short_of(other.digest))
    assert code(short_updates.receive, pair.there, other, pair.new.digest, data, pair.there.publish) == "release.wrong-bytes"


def test_another_release_than_was_asked_for(pair: Pair) -> None:
    wrong = "sha256:" + "0" * 64
    assert code(short_updates.receive, pair.there, pair.base, wrong, pair.update, pair.there.publish) == "release.wrong-bytes"


def test_a_stranger_does_not_believe_it(tmp_path: Path) -> None:
    pair = Pair(tmp_path, V1, EDITED, trusted=PrivateKey.generate())
    assert code(pair.receive, pair.update) == "store.unsigned"


def test_bombs_are_refused(pair: Pair) -> None:
    bomb = codec.pack(bytes(256 << 20), b"")
    assert len(bomb) < 30_000
    assert code(pair.receive, pair.altered(frames=(len(bomb),), content=bomb)) == "delta.damaged"
    assert code(pair.receive, pair.altered(frames=(short.LIMIT,), content=bytes(short.LIMIT))) == "delta.damaged"
    tree = pair.here.tree(pair.base.digest).encode()
    data = short.encode(short.decode(pair.update, pair.base.digest, tree)._replace(lines=b"-x\n", rows=()), tree)
    packed = codec.pack(bytes(9 << 20), b"")
    at = data.index(b"\x03", 9)
    frame = data[at + 1]
    hostile = data[:at] + b"\x80\x80\x80\x04" + bytes([len(packed) & 0x7F | 0x80, len(packed) >> 7]) + packed + data[at + 2 + frame :]
    assert code(pair.receive, hostile) == "delta.damaged"


@pytest.mark.parametrize("data", [b"", b"junk", b"stele-delta v0\n{}\n"])
def test_a_delta_that_does_not_lead_there_makes_no_update(pair: Pair, data: bytes) -> None:
    blob = Descriptor(media_type=DELTA_TYPE, digest=pair.here.put(data), size=len(data))
    notes = {deltas.BASE: pair.base.digest, deltas.BASE_TREE: pair.base.tree_digest, deltas.SIZE: str(len(data))}
    forged = attach(pair.here, pair.new, DELTA_TYPE, blob, notes, ())
    offer = deltas.Offer(pair.base.digest, pair.new.digest, len(data), forged.descriptor)
    assert short_updates.made(pair.here, pair.new, offer) == b""
    good = next(iter(deltas.offers(pair.new.digest, pair.here.referrers(pair.new.digest))))
    assert short_updates.made(pair.here, pair.new, good) == pair.update
    assert short_updates.made(pair.here, pair.new, good._replace(base=pair.new.digest)) == b""


def test_another_spec_makes_no_update(pair: Pair) -> None:
    altered = pair.here.find(pair.new.digest)
    offer = next(iter(deltas.offers(altered.digest, pair.here.referrers(altered.digest))))
    other = short_updates.made(pair.here, altered, offer._replace(base="sha256:" + "0" * 64))
    assert other == b""  # its base is not here
