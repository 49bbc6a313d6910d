"""Updates on their way through real registries: what moves, by which way, and what others may put there in their place."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import shutil
import subprocess
import sys

import pytest

from stele.flow import opening, pulling, pushing, registry_pruning
from stele.host import immutable, registry_transfer
from stele.host.http_registry import Connections
from stele.host.registry import Repository
from stele.model import reference as references
from stele.model.release import CONTENT_TYPE, DELTA_TYPE
from stele.seal.delta import short
from tests.distributed import other, pull, push, quiet, seal
from tests.refusals import code


def test_an_update_moves_little_more_than_what_changed(places, registry, tmp_path):
    target = f"{registry}/update-{tmp_path.name.replace('_', '-').lower()}:"
    one = seal(places, "1")
    push(places, one, target + "v1")
    to = other(tmp_path, "two", places)
    pull(to, target + "v1")
    two = seal(places, "2")
    assert push(places, two, target + "v2", delta=True)["deltas"] == 1
    updated = pull(to, target + "v2")
    assert (updated["release"], updated["way"]) == (two, "update")
    assert updated["received"] < 900
    store, here = opening.open_store(to), opening.open_store(places)
    assert store.tree(two) == here.tree(two)
    for stratum in store.release(two).strata:
        assert store.prepare_image(stratum).path
    assert store.evidence(two) == here.evidence(two)
    bom = "https://cyclonedx.org/bom"
    assert store.attestations(two, bom) == []  # an update leaves it out
    assert pull(to, target + "v2", whole=True)["way"] == "nothing"
    assert store.attestations(two, bom) == here.attestations(two, bom)
    fresh = other(tmp_path, "three", places)
    assert pull(fresh, target + "v2")["way"] == "strata"  # it has no base
    assert pull(other(tmp_path, "four", places), target + "v2", whole=True)["way"] == "strata"


def put_update(registry: str, target: str, blob: bytes, tag: str, what: str = "application/vnd.dev.stele.update.v0") -> None:
    """Somebody who may write there lets the tag of an update name other bytes."""
    with Repository(Connections(registry, plain_http=True), references.parse(target)) as repository:
        digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
        registry_transfer.upload(repository, digest, len(blob), io.BytesIO(blob))
        config = {"mediaType": what, "digest": digest, "size": len(blob)}
        kind = "application/vnd.oci.image.manifest.v1+json"
        repository.put_manifest(tag, kind, json.dumps({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": []}).encode())


def apart(registry: str, target: str, one: str, two: str) -> dict:
    """The manifest of an update whose content lies in a blob of its own, which the delta's artifact has, too."""
    with Repository(Connections(registry, plain_http=True), references.parse(target)) as repository:
        found = repository.manifest(short.tag(one, two))
        assert found is not None
        update = json.loads(found.data)
        [delta] = [item for item in repository.referrers(two) if item["artifactType"] == DELTA_TYPE]
        artifact = repository.manifest(delta["digest"])
        assert artifact is not None
        layers = json.loads(artifact.data)["layers"]
        assert [item["mediaType"] for item in layers] == [DELTA_TYPE, CONTENT_TYPE]
        assert layers[1:] == update["layers"]
        assert int(delta["annotations"]["dev.stele.delta.size"]) == sum(item["size"] for item in layers)
        return update


def test_content_of_an_update_and_of_its_delta_is_sent_once(places, registry, tmp_path):
    target = f"{registry}/apart-{tmp_path.name.replace('_', '-').lower()}:"
    one = seal(places, "1")
    push(places, one, target + "v1")
    to = [other(tmp_path, f"to{number}", places) for number in range(6)]
    for folder in to:
        pull(folder, target + "v1")
    noise = os.urandom(60_000)
    two = seal(places, "1", host=noise.hex())
    plain = pushing.push(places, two, target + "v2", plain_http=False, delta=False, say=quiet, record=quiet)["sent"]
    assert push(places, two, target + "v2", delta=True)["sent"] < plain + 5000  # the layer is there by now
    update = apart(registry, target + "v2", one, two)
    assert update["layers"][0]["size"] > 60_000
    found = pull(to[0], target + "v2")
    assert (found["release"], found["way"]) == (two, "update")
    assert found["received"] < 62_000
    assert opening.open_store(to[0]).verify(opening.open_store(to[0]).release(two))

    [content], head = update["layers"], update["config"]
    forged = (
        [content, content],
        [{**content, "mediaType": "text/strange"}],
        [{**content, "size": 1 << 40}],
        [{**content, "digest": head["digest"], "size": head["size"]}],
        [],
    )
    with Repository(Connections(registry, plain_http=True), references.parse(target + "v2")) as repository:
        for layers, folder in zip(forged, to[1:], strict=True):
            repository.put_manifest(short.tag(one, two), update["mediaType"], json.dumps({**update, "layers": layers}).encode())
            said: list[str] = []
            found = pulling.pull(folder, target + "v2", plain_http=False, whole=False, say=said.append, record=quiet)
            assert any("the update was refused" in line for line in said)
            assert (found["release"], found["way"]) == (two, "deltas")  # of the artifact in two blobs
            assert opening.open_store(folder).verify(opening.open_store(folder).release(two))


def test_a_forged_update_is_refused_and_a_delta_taken(places, registry, tmp_path):
    target = f"{registry}/forged-{tmp_path.name.replace('_', '-').lower()}:"
    one = seal(places, "1")
    push(places, one, target + "v1")
    to, again, stranger = (other(tmp_path, name, places) for name in ("two", "again", "stranger"))
    for folder in (to, again, stranger):
        pull(folder, target + "v1")
    strange = other(tmp_path, "strange", None).policy
    two = seal(places, "2")
    push(places, two, target + "v2", delta=True)
    shutil.copy(strange, stranger.policy)
    assert code(pull, stranger, target + "v2") == "store.unknown-signer"  # which the update cannot tell
    assert [release.digest for release in opening.open_store(stranger).releases()] == [one]
    for folder, what in ((to, "application/vnd.dev.stele.update.v0"), (again, "text/strange")):
        put_update(registry, target + "v2", b"stu\0nonsense", short.tag(one, two), what)
        said: list[str] = []
        found = pulling.pull(folder, target + "v2", plain_http=False, whole=False, say=said.append, record=quiet)
        assert (found["release"], found["way"]) == (two, "deltas")
        assert any("the update was refused" in line for line in said)
    assert opening.open_store(to).verify(opening.open_store(to).release(two))


@pytest.mark.parametrize("way", ["update", "deltas"])
def test_a_damaged_base_is_named_and_whole_strata_are_taken(places, debian, tmp_path, way):
    target = f"{debian}/damaged-{tmp_path.name.replace('_', '-').lower()}:"
    one = seal(places, "this is one")
    push(places, one, target + "v1")
    to = other(tmp_path, "two", places)
    pull(to, target + "v1")
    store = opening.open_store(to)
    for stratum in store.find(one).strata:
        store.prepare_image(stratum)
    [image] = [store.image(stratum) for stratum in store.find(one).strata if stratum.name == "files"]
    immutable.make_mutable(image)
    data = bytearray(image.read_bytes())
    data[data.index(b"this is one")] ^= 1
    image.chmod(0o644)
    image.write_bytes(data)
    two = seal(places, "this is two")
    push(places, two, target + "v2", delta=True)
    if way == "deltas":
        put_update(debian, target + "v2", b"stu\0nonsense", short.tag(one, two))

    argv = [sys.executable, "-m", "stele", "--data", str(to.data), "--json", "pull", target + "v2"]
    ran = subprocess.run(argv, capture_output=True, check=True, text=True)
    done = json.loads(ran.stdout)
    assert (done["release"], done["way"], list(done["damaged"])) == (two, "strata", [one])
    assert one[7:19] in ran.stderr
    assert "stele store repair" in ran.stderr
    store = opening.open_store(to)
    assert store.verify(store.release(two))
    assert image.read_bytes() == bytes(data)  # it is left as it is: it may be evidence
    assert code(store.prepare_image, next(stratum for stratum in store.find(one).strata if stratum.name == "files")) == "store.damaged"


def tags(registry: str, target: str) -> set[str]:
    with Repository(Connections(registry, plain_http=True), references.parse(target)) as repository:
        return set(repository.tags())


def test_updates_to_a_release_that_was_removed_are_pruned(places, registry, between, tmp_path):
    name = f"pruned-{tmp_path.name.replace('_', '-').lower()}"
    target = f"{registry}/{name}"
    sealed = []
    for number in range(3):
        sealed.append(seal(places, str(number)))
        push(places, sealed[-1], f"{target}:v{number}", delta=True)
    updates = [short.tag(one, two) for one, two in itertools.pairwise(sealed)]
    odd = "update-0123456789ab-0123456789ab"  # by its name one of ours
    with Repository(Connections(registry, plain_http=True), references.parse(target)) as repository:
        last = repository.manifest("v2")
        assert last is not None
        repository.put_manifest(odd, last.media_type, last.data)
        before = set(repository.tags())
        assert before >= {*updates, odd, "v0", "v1", "v2"}
        assert registry_pruning.prune(target, plain_http=True, dry_run=False, say=quiet).gone == ()
        repository.delete_manifest(sealed[1])
        repository.delete_manifest(sealed[1])  # nor is it an error
        if repository.find("v1"):
            repository.delete_manifest("v1")

    found = registry_pruning.prune(target, plain_http=True, dry_run=True, say=quiet)
    assert ([item.tag for item in found.gone], found.kept) == (updates[:1], 1)
    assert updates[0] in tags(registry, target)
    through = f"127.0.0.1:{between.server_address[1]}/{name}"
    for listed in ("junk", "[]", '{"tags": 1}', '{"tags": [1]}', "[" * 100_000):
        between.trick = f"tags {listed}"
        assert code(registry_pruning.prune, through, plain_http=True, dry_run=False, say=quiet) == "registry.bad-answer"
    between.trick = ""
    assert code(registry_pruning.prune, through, plain_http=True, dry_run=False, say=quiet) == "registry.refused"  # it removes nothing
    argv = [sys.executable, "-m", "stele", "--data", str(tmp_path / "no-folder"), "--json", "store", "prune", "--at", target]
    done = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
    assert ([item["tag"] for item in done["removed"]], done["kept"]) == (updates[:1], 1)
    assert before - tags(registry, target) >= {updates[0]}
    assert tags(registry, target) >= {updates[1], odd, "v0", "v2"}
    to = other(tmp_path, "to", places)
    assert pull(to, target + ":v2")["release"] == sealed[2]
    assert code(registry_pruning.prune, f"{registry}/nothing/here", plain_http=True, dry_run=True, say=quiet) == "registry.unknown"


def test_releases_that_were_left_out_are_passed_by_a_chain_of_deltas(places, registry, tmp_path):
    target = f"{registry}/chain-{tmp_path.name.replace('_', '-').lower()}:"
    push(places, seal(places, "1"), target + "v1")
    to = other(tmp_path, "two", places)
    pull(to, target + "v1")
    push(places, seal(places, "2"), target + "v2", delta=True)
    three = seal(places, "3")
    push(places, three, target + "v3", delta=True)
    found = pull(to, target + "v3")
    assert (found["release"], found["way"]) == (three, "deltas")


def test_an_update_that_cannot_be_looked_up_is_no_reason_to_go_on(places, registry, between, tmp_path, monkeypatch):
    monkeypatch.setattr("stele.host.http_registry.Connections.pause", quiet)
    name = f"looked-{tmp_path.name.replace('_', '-').lower()}"
    push(places, seal(places, "1"), f"{registry}/{name}:v1")
    to, source = other(tmp_path, "two", places), f"127.0.0.1:{between.server_address[1]}/{name}:"
    pull(to, source + "v1")
    two = seal(places, "2")
    push(places, two, f"{registry}/{name}:v2", delta=True)
    between.trick = "throttled"
    assert code(pull, to, source + "v2") == "registry.throttled"
    between.trick = ""
    assert pull(to, source + "v2")["way"] == "update"


def test_a_tag_of_an_update_that_names_something_else_is_passed_over(places, registry, between, tmp_path):
    name = f"odd-{tmp_path.name.replace('_', '-').lower()}"
    push(places, seal(places, "1"), f"{registry}/{name}:v1")
    source = f"127.0.0.1:{between.server_address[1]}/{name}:"
    push(places, seal(places, "2"), f"{registry}/{name}:v2", delta=True)
    for number, body in enumerate(("junk", "[]", '{"layers":1}', "[" * 100_000, '{"config":[]}', "x" * (5 << 20))):
        to = other(tmp_path, f"to{number}", places)
        between.trick = ""
        pull(to, source + "v1")
        between.trick = f"update {body}"
        assert pull(to, source + "v2")["way"] == "deltas", body[:20]


def test_a_registry_that_says_another_digest_cannot_bring_back_an_older_release(places, registry, between, tmp_path):
    name = f"said-{tmp_path.name.replace('_', '-').lower()}"
    one = seal(places, "1")
    push(places, one, f"{registry}/{name}:v1")
    two = seal(places, "2")
    push(places, two, f"{registry}/{name}:v2", delta=True)
    to, source = other(tmp_path, "two", places), f"127.0.0.1:{between.server_address[1]}/{name}"
    pull(to, f"{source}@{one}")
    pull(to, f"{source}@{two}")
    between.trick = one
    assert pull(to, f"{source}@{two}")["release"] == two
    assert opening.open_store(to).find("app").digest == two


def test_what_came_as_a_delta_is_pushed_on_with_its_layers(places, registry, tmp_path):
    target = f"{registry}/on-{tmp_path.name.replace('_', '-').lower()}"
    push(places, seal(places, "1"), target + ":v1")
    to = other(tmp_path, "two", places)
    pull(to, target + ":v1")
    two = seal(places, "2")
    push(places, two, target + ":v2", delta=True)
    assert pull(to, target + ":v2")["way"] == "update"
    release = opening.open_store(to).release(two)
    assert not all(opening.open_store(to).has_blob(stratum.layer.digest) for stratum in release.strata)
    push(to, two, f"{registry}/elsewhere-{tmp_path.name.replace('_', '-').lower()}:v2")
    third = other(tmp_path, "three", places)
    got = pull(third, f"{registry}/elsewhere-{tmp_path.name.replace('_', '-').lower()}:v2", whole=True)
    assert (got["release"], got["way"]) == (two, "strata")


def test_a_delta_that_is_hardly_shorter_than_the_layers_is_not_sent(places, debian, tmp_path):
    target = f"{debian}/hardly-shorter:"
    (places.data.parent / "root").mkdir()
    noise = places.data.parent / "root" / "noise"
    size = 12 << 20
    noise.write_bytes(os.urandom(size))
    push(places, seal(places, "1"), target + "v1")
    to = other(tmp_path, "two", places)
    pull(to, target + "v1")
    noise.write_bytes(os.urandom(size))
    two = seal(places, "2")
    assert push(places, two, target + "v2", delta=True)["sent"] < size + 1_500_000
    assert pull(to, target + "v2")["way"] == "strata"
    noise.write_bytes(noise.read_bytes()[:-1])
    three = seal(places, "3")
    push(places, three, target + "v3", delta=True)
    assert pull(to, target + "v3")["way"] == "update"
