"""Sealing: the same content gives the same digests, whoever seals; what comes out is a release that reads back."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
from pathlib import Path

import pytest

from stele.model import release as releases
from stele.model import spec as specs
from stele.model import tree as trees_model
from stele.model.tree import Tree
from stele.seal import release as sealing
from stele.seal import strata
from stele.seal.rebuild import LayerRebuilder
from stele.seal.sign import sign
from stele.trust import cosign
from stele.trust.errors import SteleError
from stele.trust.release_key import PrivateKey
from tests.trees import Held, MemorySink, file, folder, link, varied

SPEC = specs.parse_yaml(
    b"stele: 0\nname: shop\ncommand: [/bin/serve, --port, '8080']\nenv: {B: b, A: a}\nports: [{container: 8080}]\nuser: '33:33'\n"
)
VECTOR = Path(__file__).parents[1] / "vectors" / "seal.json"


def with_settings(*paths: str) -> specs.Spec:
    return specs.from_builtins({"stele": 0, "name": "shop", "command": ["/bin/serve"], "settings": [{"path": path} for path in paths]})


def test_two_seals_agree_on_every_digest():
    tree, held = varied()
    one, two = MemorySink(), MemorySink()
    first, second = (sealing.seal(tree, held, SPEC, sink) for sink in (one, two))
    assert first == second
    assert one.blobs.keys() == two.blobs.keys()
    assert one.images.keys() == two.images.keys()


def test_compression_changes_the_manifest_and_nothing_else():
    tree, held = varied()
    made = {kind: sealing.seal(tree, held, SPEC, MemorySink(), compression=kind).release for kind in ("zstd", "gzip", "none")}
    assert len({release.digest for release in made.values()}) == 3
    assert len({release.config_digest for release in made.values()}) == 1
    assert len({tuple((s.diff_id, s.image, s.verity_root) for s in release.strata) for release in made.values()}) == 1


def test_what_a_seal_names_is_in_the_sink():
    tree, held = varied()
    sink = MemorySink()
    sealed = sealing.seal(tree, held, SPEC, sink)
    release = releases.parse(sealed.release.digest, sink.blobs[sealed.release.digest], sink.blobs[sealed.release.config_digest])
    assert release == sealed.release
    assert trees_model.decode(sink.blobs[release.tree_digest]) == tree
    for stratum in release.strata:
        assert len(sink.blobs[stratum.layer.digest]) == stratum.layer.size
        assert len(sink.images[stratum.image]) == stratum.image_size


@pytest.mark.parametrize("compression", ["zstd", "gzip", "none"])
def test_images_come_out_of_their_layers_bit_for_bit(compression, tmp_path):
    tree, held = varied()
    sink = MemorySink()
    sealed = sealing.seal(tree, held, with_settings("/sizes/4096", "/links/same-1"), sink, compression=compression)
    assert [stratum.name for stratum in sealed.release.strata] == ["files", "settings"]
    for stratum in sealed.release.strata:
        with (tmp_path / stratum.name).open("w+b") as out:
            LayerRebuilder().image(io.BytesIO(sink.blobs[stratum.layer.digest]), stratum, out.fileno())
        assert (tmp_path / stratum.name).read_bytes() == sink.images[stratum.image]


def test_an_image_that_would_differ_from_the_signed_one_is_refused(tmp_path):
    tree, held = varied()
    sink = MemorySink()
    (stratum,) = sealing.seal(tree, held, SPEC, sink).release.strata
    import msgspec

    forged = msgspec.structs.replace(stratum, image="sha256:" + "0" * 64)
    with (tmp_path / "image").open("w+b") as out, pytest.raises(SteleError) as raised:
        LayerRebuilder().image(io.BytesIO(sink.blobs[stratum.layer.digest]), forged, out.fileno())
    assert raised.value.code == "release.rebuild-differs"


def test_the_image_config_says_what_every_oci_runtime_understands():
    tree, held = varied()
    config = json.loads(sealing.seal(tree, held, SPEC, MemorySink(), platform="linux/arm64").config)
    assert (config["os"], config["architecture"], config["created"]) == ("linux", "arm64", "1980-01-01T00:00:00Z")
    inner = config["config"]
    assert inner["Cmd"] == ["/bin/serve", "--port", "8080"]
    assert inner["Env"] == ["A=a", "B=b"]
    assert (inner["User"], inner["WorkingDir"], inner["StopSignal"], inner["ExposedPorts"]) == ("33:33", "/", "SIGTERM", {"8080/tcp": {}})


def test_the_platform_is_that_of_the_programs():
    held = Held()
    elf = b"\x7fELF\x02\x01\x01" + bytes(9) + (2).to_bytes(2, "little") + (183).to_bytes(2, "little") + bytes(100)
    tree = Tree.build([folder(b""), file(b"a.sh", b"#!/bin/sh\n" * 9, held, mode=0o755), file(b"b", elf, held, mode=0o755)])
    assert sealing.platform_of(tree, held) == "linux/arm64"


# strata


def test_settings_are_their_own_stratum_with_the_directories_above():
    held = Held()
    tree = Tree.build(
        [
            folder(b""),
            folder(b"etc", mode=0o711),
            file(b"etc/app.conf", b"x", held),
            file(b"etc/other", b"y", held),
            file(b"app", b"z", held),
        ]
    )
    base, last = strata.cut(tree, with_settings("/etc/app.conf"))
    assert [node.path for node in base.nodes] == [b"", b"app", b"etc", b"etc/other"]
    assert [(node.path, node.mode) for node in last.nodes] == [(b"", 0o755), (b"etc", 0o711), (b"etc/app.conf", 0o644)]


def test_the_names_of_one_inode_stay_together():
    held = Held()
    first = file(b"a", b"x", held)
    tree = Tree.build([folder(b""), first, link(b"z", first)])
    for setting in ("/a", "/z"):
        for piece in strata.cut(tree, with_settings(setting)):
            Tree.build(piece.nodes)  # refuses a link without its first name


def test_strata_are_a_function_of_the_tree_not_of_how_it_came_about():
    held = Held()
    tree = Tree.build([folder(b""), folder(b"run"), file(b"app.conf", b"x", held)])
    assert strata.cut(tree, with_settings("/app.conf"))[0].nodes == tree.nodes[:1] + tree.nodes[2:]


# vectors


def test_vector_of_a_small_release():
    vector = json.loads(VECTOR.read_text())
    held = Held(*(base64.b64decode(item) for item in vector["contents"]))
    tree = trees_model.decode(vector["tree"].encode())
    sink = MemorySink()
    sealed = sealing.seal(tree, held, specs.parse_yaml(vector["spec"].encode()), sink, compression="none")
    expect = vector["expect"]
    assert tree.digest() == expect["tree"]
    assert sealed.config.decode() == expect["config"]
    assert sealed.manifest.decode() == expect["manifest"]
    assert sealed.release.digest == expect["release"]
    for stratum in sealed.release.strata:
        assert base64.b64encode(sink.images[stratum.image][:8192]).decode() == expect["image_beginnings"][stratum.name]


# signatures


def publication(key: PrivateKey):
    tree, held = varied()
    sink = MemorySink()
    return sink, sign(sealing.seal(tree, held, SPEC, sink, compression="none"), key, sink)


def blob_of(sink: MemorySink, referrer: releases.Referrer) -> bytes:
    return sink.blobs[json.loads(sink.blobs[referrer.descriptor.digest])["layers"][0]["digest"]]


def test_a_bundle_holds_by_its_key_and_by_no_other():
    key, other = PrivateKey.generate(), PrivateKey.generate()
    sink, item = publication(key)
    bundle = blob_of(sink, item.referrers[-1])
    digest = item.release.digest
    assert cosign.check_bundle(bundle, digest, (other.public, key.public)) == cosign.Checked("valid", key.public.hint)
    assert cosign.check_bundle(bundle, digest, (other.public,)).state == "unknown"
    assert cosign.check_bundle(bundle, "sha256:" + "0" * 64, (key.public,)).state == "bad"


def test_every_changed_byte_of_a_bundle_is_noticed():
    key = PrivateKey.generate()
    digest = "sha256:" + hashlib.sha256(b"manifest").hexdigest()
    bundle = cosign.make_bundle(digest, key)
    signed = json.loads(bundle)["dsseEnvelope"]
    inside = {*range(bundle.index(signed["payload"].encode()), bundle.index(signed["payload"].encode()) + len(signed["payload"]))}
    start = bundle.index(signed["signatures"][0]["sig"].encode())
    inside |= {*range(start, start + len(signed["signatures"][0]["sig"]))}
    for at in range(len(bundle)):
        changed = bytearray(bundle)
        changed[at] ^= 0x01
        checked = cosign.check_bundle(bytes(changed), digest, (key.public,))
        assert checked.state != "valid" or at not in inside, (at, checked)


def test_openssl_agrees_with_the_older_signature(tmp_path):
    key = PrivateKey.generate()
    sink, item = publication(key)
    (tmp_path / "key.pem").write_bytes(key.public.pem())
    (tmp_path / "signature").write_bytes(base64.b64decode(item.signatures[0].signature))
    done = subprocess.run(
        ["openssl", "dgst", "-sha256", "-verify", tmp_path / "key.pem", "-signature", tmp_path / "signature"],
        input=sink.blobs[item.signatures[0].payload.digest],
        capture_output=True,
        check=False,
    )
    assert done.stdout == b"Verified OK\n"


def test_an_older_signature_of_another_image_is_bad():
    key = PrivateKey.generate()
    payload = cosign.make_payload("sha256:" + "1" * 64, "shop")
    signature = base64.b64encode(key.sign(payload)).decode()
    assert cosign.check_payload(payload, signature, "sha256:" + "1" * 64, (key.public,)).state == "valid"
    assert cosign.check_payload(payload, signature, "sha256:" + "2" * 64, (key.public,)).state == "bad"
    assert cosign.check_payload(payload, signature, "sha256:" + "1" * 64, (PrivateKey.generate().public,)).state == "unknown"


def test_a_trusted_key_signing_something_else_is_not_a_signature_of_an_image():
    from stele.trust import canonical, dsse

    key = PrivateKey.generate()
    digest = "sha256:" + "1" * 64
    statement = {
        "_type": cosign.STATEMENT_TYPE,
        "subject": [{"digest": {"sha256": "1" * 64}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {},
    }
    envelope = dsse.sign(cosign.PAYLOAD_TYPE, canonical.encode(statement), key.public.hint, key.sign)
    bundle = {"mediaType": cosign.BUNDLE_TYPE, "verificationMaterial": {"publicKey": {"hint": key.public.hint}}, "dsseEnvelope": envelope}
    assert cosign.check_bundle(canonical.encode(bundle), digest, (key.public,)).state == "bad"
