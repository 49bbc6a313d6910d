"""Reading a release: one spelling, every part checked, and nothing but SteleError for anything else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.model import release as releases
from stele.model import spec as specs
from stele.model.release import Descriptor, Stratum
from stele.model.tree import Tree
from stele.seal import release as sealing
from stele.trust import canonical
from stele.trust.digest import sha256
from stele.trust.errors import SteleError
from tests.trees import Held, MemorySink, file, folder


def _sealed() -> sealing.Sealed:
    held = Held()
    tree = Tree.build([folder(b""), file(b"app", b"x", held), file(b"conf", b"y", held)])
    spec = specs.from_builtins(
        {"stele": 0, "name": "shop", "command": ["/app"], "settings": [{"path": "/conf"}], "ports": [{"container": 80}]}
    )
    return sealing.seal(tree, held, spec, MemorySink(), compression="none")


SEALED = _sealed()


def read(manifest: bytes, config: bytes) -> releases.Release:
    return releases.parse(sha256(manifest), manifest, config)


def code(manifest: bytes, config: bytes) -> str:
    with pytest.raises(SteleError) as raised:
        read(manifest, config)
    return raised.value.code


def rewritten(change_config, change_manifest=lambda manifest: None) -> tuple[bytes, bytes]:
    """Manifest and config with changes, consistent in their digests again."""
    config = json.loads(SEALED.config)
    change_config(config)
    config_bytes = canonical.encode(config)
    manifest = json.loads(SEALED.manifest)
    manifest["config"].update(digest=sha256(config_bytes), size=len(config_bytes))
    change_manifest(manifest)
    return canonical.encode(manifest), config_bytes


def test_a_release_reads_back():
    assert read(SEALED.manifest, SEALED.config) == SEALED.release
    assert releases.config_digest(SEALED.manifest) == SEALED.release.config_digest


def test_a_manifest_is_believed_only_by_its_digest():
    with pytest.raises(SteleError) as raised:
        releases.parse("sha256:" + "0" * 64, SEALED.manifest, SEALED.config)
    assert raised.value.code == "release.wrong-bytes"


def test_a_config_is_believed_only_as_the_manifest_names_it():
    assert code(SEALED.manifest, SEALED.config.replace(b"/app", b"/bad")) == "release.wrong-bytes"


def test_another_spelling_of_the_same_manifest_is_refused():
    assert code(json.dumps(json.loads(SEALED.manifest)).encode(), SEALED.config) == "release.malformed"


CHANGES = {
    "unknown field": lambda c: c.update(history=[]),
    "another format": lambda c: c["config"]["Labels"].update({"dev.stele.format": "2"}),
    "no tree": lambda c: c["config"]["Labels"].pop("dev.stele.tree"),
    "a tree that is no digest": lambda c: c["config"]["Labels"].update({"dev.stele.tree": "x"}),
    "a spec that is none": lambda c: c["config"]["Labels"].update({"dev.stele.spec": "{}"}),
    "a spec in another spelling": lambda c: c["config"]["Labels"].update({"dev.stele.spec": c["config"]["Labels"]["dev.stele.spec"] + " "}),
    "a stratum less": lambda c: c["config"]["Labels"].update({"dev.stele.strata": "[]"}),
    "a diff_id less": lambda c: c["rootfs"]["diff_ids"].pop(),
    "another workload": lambda c: c["config"]["Labels"].update(
        {"dev.stele.spec": c["config"]["Labels"]["dev.stele.spec"].replace("shop", "shoq")}
    ),
    "a size of nothing": lambda c: c["config"]["Labels"].update(
        {"dev.stele.strata": c["config"]["Labels"]["dev.stele.strata"].replace('"data_size":', '"data_size":-')}
    ),
    "text that is not ASCII": lambda c: c["config"]["Labels"].update({"dev.stele.strata": "\u00e9"}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_release_that_contradicts_itself_is_refused(change):
    assert code(*rewritten(change)) == "release.malformed"


LAYERS = {
    "layers in another order": lambda m: m["layers"].reverse(),
    "a layer more": lambda m: m["layers"].append(m["layers"][0]),
    "a layer of another kind": lambda m: m["layers"][0].update(mediaType="text/plain"),
    "a layer with a negative size": lambda m: m["layers"][0].update(size=-1),
}


@pytest.mark.parametrize("change", LAYERS.values(), ids=LAYERS)
def test_layers_that_are_not_those_of_the_strata_are_refused(change):
    assert code(*rewritten(lambda config: None, change)) == "release.malformed"


@given(st.data())
def test_any_change_is_refused_with_an_error_or_reads_as_something_else(data):
    parts = [bytearray(SEALED.manifest), bytearray(SEALED.config)]
    which = data.draw(st.integers(0, 1))
    at = data.draw(st.integers(0, len(parts[which]) - 1))
    parts[which][at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    manifest, config = bytes(parts[0]), bytes(parts[1])
    try:
        if which == 1:  # let the change of the config pass the digest
            plain = json.loads(manifest)
            plain["config"].update(digest=sha256(config), size=len(config))
            manifest = canonical.encode(plain)
        found = read(manifest, config)
    except SteleError:
        return
    assert (manifest, config) == (SEALED.manifest, SEALED.config) or found != SEALED.release


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_anything_else_is_no_release(manifest, config):
    with pytest.raises(SteleError):
        read(manifest, config)


def test_more_strata_than_can_be_stacked_are_refused():
    layer = Descriptor(media_type=releases.LAYER_TYPES["none"], digest="sha256:" + "0" * 64, size=1)
    one = Stratum(
        name="x",
        diff_id="sha256:" + "1" * 64,
        layer=layer,
        image="sha256:" + "2" * 64,
        image_size=16384,
        data_size=8192,
        verity_root="3" * 64,
    )
    for count, refused in ((40, False), (41, True)):
        spec = SEALED.release.spec
        config = releases.encode_config(spec, SEALED.release.tree_digest, (one,) * count, "linux/amd64")
        manifest = releases.encode_manifest(spec, (one,) * count, config, "none")
        if refused:
            assert code(manifest, config) == "release.malformed"
        else:
            assert len(read(manifest, config).strata) == 40
