"""Push and pull with real registries, and what others make of what is there.

Debian's and the one of crane's command have no referrers API. crane's own package has it, and names the config's media type as
the artifact's: `referring`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stele.flow import opening, pruning, pulling, pushing, repairing, sealing, storecheck
from stele.flow.places import Places
from stele.host import immutable
from stele.host.http_registry import Connections
from stele.host.registry import Repository
from stele.model import reference as references
from tests.distributed import other, pull, push, quiet, seal
from tests.refusals import code


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


def test_the_tree_does_not_travel_and_is_made_of_what_is_here(places, registry, tmp_path):
    """A stratum that an update made has an image here and no layer: its part of the tree is in a tree that is here, else in its layer."""
    target = f"{registry}/tree-{tmp_path.name.replace('_', '-').lower()}:"
    push(places, seal(places, "1"), target + "v1")
    two, three = (other(tmp_path, name, places) for name in ("two", "three"))
    pull(two, target + "v1")
    pull(three, target + "v1")
    push(places, seal(places, "1", host="two"), target + "v2", delta=True)
    assert pull(two, target + "v2")["way"] == pull(three, target + "v2")["way"] == "update"
    last = seal(places, "3", host="two")
    push(places, last, target + "v3")
    tree = opening.open_store(places).tree(last)
    with Repository(Connections(registry, plain_http=True), references.parse(target + "v3")) as repository:
        assert not repository.has_blob(tree.digest())

    def fetched(to: Places) -> set[str]:
        said: list[str] = []
        found = pulling.pull(to, target + "v3", plain_http=False, whole=True, say=said.append, record=quiet)
        assert (found["release"], found["way"]) == (last, "strata")
        store = opening.open_store(to)
        assert (store.root / "blobs" / "sha256" / tree.digest()[7:]).read_bytes() == tree.encode()
        for stratum in store.find(last).strata:
            assert store.prepare_image(stratum).path
        return {line.split()[1] for line in said if line.startswith("pulling ")}

    assert fetched(two) == {"files"}
    store = opening.open_store(three)
    made = next(stratum for stratum in store.find("app").strata if stratum.name == "database")
    assert store.has_image(made)
    assert not store.has_blob(made.layer.digest)
    store.remove([release.tree_digest for release in store.releases()], [])
    assert fetched(three) == {"files", "database"}


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


def test_while_a_release_is_pushed_nothing_is_removed(places, registry, tmp_path):
    seal(places, "1")
    push(places, seal(places, "2"), f"{registry}/first-{tmp_path.name.replace('_', '-').lower()}:v2")
    store, said = opening.open_store(places), []

    def prune(line: str) -> None:
        said.append((line.partition(" ")[0], code(pruning.prune, store, tuple, damaged=False, dry_run=False, record=quiet)))

    target = f"{registry}/second-{tmp_path.name.replace('_', '-').lower()}:v2"
    pushing.push(places, "app", target, plain_http=False, delta=True, say=prune, record=quiet)
    assert {"pushing"} <= {word for word, _ in said}
    assert {found for _, found in said} == {"store.busy"}


def test_releases_that_are_pushed_to_one_tag_at_once_are_all_there(places, registry, tmp_path):
    digests = [seal(places, str(number)) for number in range(3)]
    where = f"{registry}/{tmp_path.name.replace('_', '-').lower()}/app"
    with ThreadPoolExecutor() as pool:
        pushed = list(pool.map(lambda digest: push(places, digest, f"{where}:v1")["release"], digests))
    assert pushed == digests
    to = other(tmp_path, "two", places)
    assert pull(to, f"{where}:v1")["release"] in digests
    for digest in digests:
        assert pull(to, f"{where}@{digest}", whole=True)["release"] == digest
        assert len(opening.open_store(to).attestations(digest, "https://slsa.dev/provenance/v1")) == 1


def test_the_command_line(places, crane, tmp_path):
    digest = seal(places, "1")
    target = f"{crane}/cli/app:v1"

    def stele(data: Path, *args: str) -> dict:
        argv = [os.sys.executable, "-m", "stele", "--data", str(data), "--json", *args]
        return json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)

    assert stele(places.data, "push", "app", target)["by_digest"].endswith(digest)
    for refused in (f"{crane}/cli/app@sha256:{64 * 'a'}", f"{target}@sha256:{64 * 'a'}"):  # what has that digest is another thing
        assert code(push, places, "app", refused) == "registry.bad-reference"
    assert stele(places.data, "push", "app", f"{target}@{digest}")["reference"] == target
    to = other(tmp_path, "two", places)
    assert stele(to.data, "pull", target)["release"] == digest
    log = subprocess.run(
        [os.sys.executable, "-m", "stele", "--data", str(to.data), "--json", "log"], capture_output=True, check=True, text=True
    ).stdout
    assert "release.pulled" in log


def test_a_tree_is_repaired_where_a_layer_is_gone_whose_image_is_whole(places, crane, tmp_path):
    """Nobody needs the layer, until the tree is to be made again."""
    target = f"{crane}/repair-a-tree"
    digest = seal(places, "1")
    push(places, digest, target + ":v1")
    to = other(tmp_path, "two", places)
    pulling.pull(to, target + ":v1", plain_http=False, whole=False, say=quiet, record=sealing.event_recorder(to, quiet))
    store = opening.open_store(to)
    release = store.find(digest)
    for stratum in release.strata:
        store.image(stratum)
    blobs = store.root / "blobs/sha256"
    (blobs / release.strata[0].layer.digest.partition(":")[2]).unlink()
    tree = blobs / release.tree_digest.partition(":")[2]
    whole = tree.read_bytes()
    tree.chmod(0o644)
    tree.write_bytes(whole[:-1])
    done = repairing.run(to, opening.open_store(to), (), local=True, plain_http=False, record=quiet, say=quiet)
    assert [finding.path for finding in done.left] == [str(tree.relative_to(store.root))]
    done = repairing.run(to, opening.open_store(to), (), local=False, plain_http=False, record=quiet, say=quiet)
    assert done.left == ()
    assert tree.read_bytes() == whole


def test_a_store_is_repaired_from_where_its_release_came(places, registry, tmp_path):
    """Each file of it lost in turn; the ledger says where to ask."""
    target = f"{registry}/repair-{tmp_path.name.replace('_', '-').lower()}"
    digest = seal(places, "1")
    push(places, digest, target + ":v1")
    to = other(tmp_path, "two", places)
    record = sealing.event_recorder(to, quiet)
    pulling.pull(to, target + ":v1", plain_http=False, whole=False, say=quiet, record=record)
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
