"""Push and pull with real registries, and what others make of what is there.

Debian's and the one of crane's command have no referrers API. crane's own package has it, and names the config's media type as
the artifact's: `referring`.
"""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from stele.flow import distribution, initialise, opening, pruning, repairing, sealing, storecheck
from stele.flow.places import Places
from stele.host import immutable, registry_transfer
from stele.host.http_registry import Connections
from stele.host.registry import Repository
from stele.model import reference as references
from stele.seal.delta import short
from tests.refusals import code


def quiet(*_: object, **__: object) -> None:
    """Neither tells nor records."""


@pytest.fixture(params=["crane", "debian", "referring"])
def registry(request) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def places(tmp_path) -> Iterator[Places]:
    made = Places(tmp_path / "one")
    initialise.make_keys(made)
    yield made
    for path in tmp_path.glob("*/store/erofs/*"):
        immutable.make_mutable(path)


def other(tmp_path: Path, name: str, keys: Places | None) -> Places:
    """Another data folder, which has the trust policy of `keys`."""
    made = Places(tmp_path / name)
    initialise.make_keys(made)
    if keys is not None:
        shutil.copy(keys.policy, made.policy)
    return made


def seal(places: Places, version: str, *, compression: str = "zstd") -> str:
    root = places.data.parent / "root"
    (root / "bin").mkdir(parents=True, exist_ok=True)
    shutil.copy("/bin/busybox", root / "bin" / "busybox")
    (root / "bin" / "sh").unlink(missing_ok=True)
    (root / "bin" / "sh").symlink_to("busybox")
    (root / "version").write_text(version)
    spec = places.data.parent / "stele.yaml"
    spec.write_text('{"stele": 0, "name": "app", "command": ["/bin/busybox", "cat", "/version"]}')
    found = sealing.seal(places, root, spec, options=sealing.Options(compression=compression), say=quiet, record=quiet)
    return str(found["release"])


def push(places: Places, name: str, target: str, *, delta: bool = False) -> dict:
    return distribution.push(places, name, target, plain_http=False, delta=delta, say=quiet, record=quiet)


def pull(places: Places, source: str, *, whole: bool = False) -> dict:
    return distribution.pull(places, source, plain_http=False, whole=whole, say=quiet, record=quiet)


def test_there_and_back_and_only_what_is_missing_moves(places, registry, tmp_path):
    digest = seal(places, "1")
    target = f"{registry}/{tmp_path.name.replace('_', '-').lower()}/app:v1"
    first = push(places, "app", target)
    assert first["sent"] > 500_000
    assert push(places, "app", target)["sent"] < 30_000  # manifests, which are small, are always written
    to = other(tmp_path, "two", places)
    got = pull(to, target)
    assert (got["release"], got["way"]) == (digest, "strata")
    store = opening.open_store(to)
    release = store.release(digest)
    assert store.verify(release)["blobs"] > 2
    assert store.tree(digest) == opening.open_store(places).tree(digest)
    kinds = {"https://slsa.dev/provenance/v1", "https://cyclonedx.org/bom"}
    assert all(store.attestations(digest, kind) for kind in kinds)
    assert {item.descriptor for item in store.referrers(digest)} == {
        item.descriptor for item in opening.open_store(places).referrers(digest)
    }
    assert store.evidence(digest).signatures[0]
    again = pull(to, target)
    assert again["way"] == "nothing"
    assert again["received"] < got["received"] / 2
    assert pull(to, f"{target.rpartition(':')[0]}@{digest}")["release"] == digest


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
        found = distribution.pull(folder, target + "v2", plain_http=False, whole=False, say=said.append, record=quiet)
        assert (found["release"], found["way"]) == (two, "deltas")
        assert any("the update was refused" in line for line in said)
    assert opening.open_store(to).verify(opening.open_store(to).release(two))


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


def test_an_ordinary_image_is_no_release(places, registry, tmp_path):
    target = f"{registry}/plain-{tmp_path.name.replace('_', '-').lower()}:v1"
    layout = tmp_path / "plain"
    subprocess.run(["umoci", "init", "--layout", str(layout)], check=True)
    subprocess.run(["umoci", "new", "--image", f"{layout}:base"], check=True)
    subprocess.run(["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:base", f"docker://{target}"], check=True)
    assert code(pull, places, target) == "release.malformed"


@pytest.mark.root
def test_others_take_it(places, registry, tmp_path):
    """podman runs it, skopeo copies it, umoci unpacks one with gzip."""
    target = f"{registry}/others-{tmp_path.name.replace('_', '-').lower()}:v1"
    seal(places, "hello", compression="gzip")
    push(places, "app", target)
    near = Path(tempfile.mkdtemp(prefix="stele-"))  # podman wants at most 50 characters
    podman = ["podman", "--root", str(near / "root"), "--runroot", str(near / "run"), "--storage-driver", "vfs"]
    podman += ["--cgroup-manager", "cgroupfs", "--runtime", "runc"]
    try:
        subprocess.run([*podman, "pull", "-q", "--tls-verify=false", target], check=True, capture_output=True)
        limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
        ran = subprocess.run([*podman, "run", "--rm", "--network=none", *limits, target], capture_output=True, check=False)
        assert ran.stdout == b"hello", ran.stderr
    finally:
        subprocess.run([*podman, "rmi", "-af"], capture_output=True, check=False)
        shutil.rmtree(near, ignore_errors=True)
    layout = tmp_path / "copied"
    subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{target}", f"oci:{layout}:v1"], check=True)
    subprocess.run(["umoci", "raw", "unpack", "--rootless", "--image", f"{layout}:v1", str(tmp_path / "out")], check=True)
    assert (tmp_path / "out" / "version").read_text() == "hello"


class _Between(http.server.BaseHTTPRequestHandler):
    """A hostile middle: forwards to a registry, and does to blobs what `server.trick` says."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        headers = {key: value for key, value in self.headers.items() if key.lower() in {"accept", "range", "authorization"}}
        asked = urllib.request.Request(f"http://{self.server.behind}{self.path}", headers=headers, method=self.command)  # type: ignore[attr-defined]
        try:
            with urllib.request.urlopen(asked) as answer:
                status, sent, body = answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            status, sent, body = error.code, error.headers, error.read()
        trick = self.server.trick if "/blobs/" in self.path and len(body) > 100_000 else ""  # type: ignore[attr-defined]
        if self.server.trick == "throttled" and ("sha256-" in self.path or "update-" in self.path):  # type: ignore[attr-defined]
            status, body, trick = 429, b"", ""
        if self.server.trick.startswith("update ") and "/manifests/update-" in self.path and self.command == "GET":  # type: ignore[attr-defined]
            body = self.server.trick.encode()[7:]  # type: ignore[attr-defined]
        if trick == "altered":
            body = body[:-1] + bytes([body[-1] ^ 1])
        if trick == "longer":
            body += b"x" * 100
        if self.server.trick.startswith("sha256:") and self.command == "HEAD" and "/manifests/sha256:" in self.path:  # type: ignore[attr-defined]
            sent.replace_header("Docker-Content-Digest", self.server.trick)  # type: ignore[attr-defined]
        self.send_response(status)
        for key in ("Content-Type", "Docker-Content-Digest", "Content-Range", "Link"):
            if sent.get(key):
                self.send_header(key, sent[key])
        if status == 429:
            self.send_header("Retry-After", "600")
        self.send_header("Content-Length", sent.get("Content-Length", "0") if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2 + 1] if trick == "cut" else body)
        if trick == "cut":
            self.server.cuts += 1  # type: ignore[attr-defined]
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def between(registry) -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Between) as server:
        server.behind, server.trick, server.cuts = registry, "", 0  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


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


def test_while_a_release_is_pushed_nothing_is_removed(places, registry, tmp_path):
    seal(places, "1")
    push(places, seal(places, "2"), f"{registry}/first-{tmp_path.name.replace('_', '-').lower()}:v2")
    store, said = opening.open_store(places), []

    def prune(line: str) -> None:
        said.append((line.partition(" ")[0], code(pruning.prune, store, tuple, damaged=False, dry_run=False, record=quiet)))

    target = f"{registry}/second-{tmp_path.name.replace('_', '-').lower()}:v2"
    distribution.push(places, "app", target, plain_http=False, delta=True, say=prune, record=quiet)
    assert {"pushing"} <= {word for word, _ in said}
    assert {found for _, found in said} == {"store.busy"}


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


def test_the_command_line(places, crane, tmp_path):
    digest = seal(places, "1")
    target = f"{crane}/cli/app:v1"

    def stele(data: Path, *args: str) -> dict:
        argv = [os.sys.executable, "-m", "stele", "--data", str(data), "--json", *args]
        return json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)

    assert stele(places.data, "push", "app", target)["by_digest"].endswith(digest)
    to = other(tmp_path, "two", places)
    assert stele(to.data, "pull", target)["release"] == digest
    log = subprocess.run(
        [os.sys.executable, "-m", "stele", "--data", str(to.data), "--json", "log"], capture_output=True, check=True, text=True
    ).stdout
    assert "release.pulled" in log


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


def test_a_store_is_repaired_from_where_its_release_came(places, registry, tmp_path):
    """Each file of it lost in turn; the ledger says where to ask."""
    target = f"{registry}/repair-{tmp_path.name.replace('_', '-').lower()}"
    digest = seal(places, "1")
    push(places, digest, target + ":v1")
    to = other(tmp_path, "two", places)
    record = sealing.event_recorder(to, quiet)
    distribution.pull(to, target + ":v1", plain_http=False, whole=False, say=quiet, record=record)
    store = opening.open_store(to)
    for stratum in store.find(digest).strata:
        store.image(stratum)
    whole = {path: path.read_bytes() for folder in ("blobs/sha256", "erofs") for path in (store.root / folder).iterdir()}
    named = {store.root / part.path for _, part in storecheck.check(store, {}, quiet).taken.parts()}
    for number, path in enumerate(sorted(named)):
        immutable.make_mutable(path)
        path.chmod(0o644)
        if number % 2:
            path.unlink()
        else:
            path.write_bytes(whole[path][:-1] + bytes([whole[path][-1] ^ 1]))
        done = repairing.run(to, opening.open_store(to), (), local=False, plain_http=False, record=quiet, say=quiet)
        assert done.left == (), path
        assert path.exists() or number % 2  # a layer that is gone while its image is there is no loss
        assert not path.exists() or path.read_bytes() == whole[path]
    for path in named:  # all at once: index.json is what is left
        immutable.make_mutable(path)
        path.unlink(missing_ok=True)
    assert code(opening.open_store(to).release, digest) == "store.damaged"
    done = repairing.run(to, opening.open_store(to), (), local=True, plain_http=False, record=quiet, say=quiet)
    assert done.left
    done = repairing.run(to, opening.open_store(to), (target,), local=False, plain_http=False, record=quiet, say=quiet)
    assert done.left == ()
    assert opening.open_store(to).verify(opening.open_store(to).release(digest))["bytes"]
