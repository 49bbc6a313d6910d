"""Hostile and failing registries: what is not signed, what others put beside a release, and what breaks on the way."""

from __future__ import annotations

import hashlib
import json
import subprocess
import urllib.request

import pytest

from stele.flow import opening
from tests.between import Company
from tests.distributed import other, pull, push, quiet, seal
from tests.refusals import code


def test_what_is_not_signed_by_a_trusted_key_does_not_come_in(places, registry, tmp_path):
    target = f"{registry}/signed-{tmp_path.name.replace('_', '-').lower()}:v1"
    digest = seal(places, "1")
    push(places, "app", target)
    stranger = other(tmp_path, "stranger", None)
    assert code(pull, stranger, target) == "store.unknown-signer"
    assert opening.open_store(stranger).releases() == []
    bare = f"{registry}/bare-{tmp_path.name.replace('_', '-').lower()}:v1"
    subprocess.run(
        ["skopeo", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", f"docker://{target}", f"docker://{bare}"], check=True
    )
    to = other(tmp_path, "two", places)
    assert code(pull, to, bare) == "store.unsigned"
    assert code(pull, to, f"{registry}/nothing/here:v1") == "registry.unknown"
    assert opening.open_store(to).releases() == []
    assert digest.startswith("sha256:")


@pytest.mark.parametrize("trick", ["altered", "longer", "cut", "throttled"])
def test_a_hostile_or_failing_way(places, registry, between, tmp_path, trick, monkeypatch, request):
    if trick == "cut" and between.behind != request.getfixturevalue("debian"):
        between.trick = trick = ""  # crane's knows no ranges: from it a blob comes in one piece, or not
    monkeypatch.setattr("stele.host.http_registry.Connections.pause", quiet)  # the pauses between tries, not the tries
    name = f"hostile-{tmp_path.name.replace('_', '-').replace('[', '').replace(']', '').lower()}"
    digest = seal(places, "1")
    push(places, "app", f"{registry}/{name}:v1")
    between.trick = trick
    to = other(tmp_path, "two", places)
    source = f"127.0.0.1:{between.server_address[1]}/{name}:v1"
    if trick in {"", "cut"}:
        assert pull(to, source)["release"] == digest  # each part of it goes on where the last one broke off
        assert between.cuts > 1 or not trick
    else:
        assert (
            code(pull, to, source)
            == {"altered": "registry.wrong-bytes", "longer": "registry.wrong-bytes", "throttled": "registry.throttled"}[trick]
        )
        assert opening.open_store(to).releases() == []
        between.trick = ""
        assert pull(to, source)["release"] == digest


def test_layers_are_asked_for_at_the_same_time(places, between, tmp_path):
    """The middle answers no layer before a second one is asked for beside it."""
    name = f"together-{tmp_path.name.replace('_', '-').lower()}"
    digest = seal(places, "1")
    push(places, "app", f"{between.behind}/{name}:v1")
    layers = [stratum.layer.digest for stratum in opening.open_store(places).release(digest).strata]
    between.company, between.trick = Company(layers), "together"
    assert pull(other(tmp_path, "two", places), f"127.0.0.1:{between.server_address[1]}/{name}:v1")["release"] == digest
    assert between.company.was_there


def test_a_push_keeps_what_others_attached_and_signed(places, registry, tmp_path):
    """A stranger's `.sig` and referrers stay, and neither they nor nonsense in the lists get into the way of a pull."""
    name = f"others-{tmp_path.name.replace('_', '-').lower()}/app"
    digest = seal(places, "1")
    push(places, "app", f"{registry}/{name}:v1")
    tag = f"sha256-{digest[7:]}"

    def call(method: str, target: str, body: bytes = b"", kind: str = "application/vnd.oci.image.manifest.v1+json") -> bytes:
        headers = {"Content-Type": kind, "Accept": f"{kind}, application/vnd.oci.image.index.v1+json"}
        asked = urllib.request.Request(f"http://{registry}/v2/{name}/{target}", body or None, headers, method=method)
        with urllib.request.urlopen(asked) as answer:
            return answer.read()

    signatures = json.loads(call("GET", f"manifests/{tag}.sig"))
    foreign = {**signatures["layers"][0], "annotations": {"dev.cosignproject.cosign/signature": "c3RyYW5nZXI="}}
    call("PUT", f"manifests/{tag}.sig", json.dumps({**signatures, "layers": [foreign]}).encode())
    strange = {**signatures, "layers": [], "subject": {"mediaType": "x/y", "digest": digest, "size": 1}, "artifactType": "text/strange"}
    stranger = json.dumps(strange).encode()
    stranger_digest = f"sha256:{hashlib.sha256(stranger).hexdigest()}"
    call("PUT", f"manifests/{stranger_digest}", stranger)
    index = json.loads(call("GET", f"manifests/{tag}"))
    listed = {"mediaType": signatures["mediaType"], "digest": stranger_digest, "size": len(stranger), "artifactType": "text/strange"}
    call("PUT", f"manifests/{tag}", json.dumps({**index, "manifests": [listed]}).encode(), index["mediaType"])

    push(places, "app", f"{registry}/{name}:v1")
    layers = json.loads(call("GET", f"manifests/{tag}.sig"))["layers"]
    assert {layer["annotations"]["dev.cosignproject.cosign/signature"] for layer in layers} >= {"c3RyYW5nZXI="}
    assert len(layers) == 2
    kept = json.loads(call("GET", f"manifests/{tag}"))["manifests"]
    assert [item["digest"] for item in kept] == [stranger_digest, *[item["digest"] for item in index["manifests"]]]
    to = other(tmp_path, "two", places)
    assert pull(to, f"{registry}/{name}:v1")["release"] == digest
    assert opening.open_store(to).evidence(digest).signatures[0]
