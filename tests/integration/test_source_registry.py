"""An image in a registry as source: the same tree and release as of a copy that skopeo made of it."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from stele.flow import initialise, opening, packing, sealing
from stele.flow.places import Places
from stele.host import immutable
from stele.model import reference as references
from stele.seal.sources import registry as registry_source
from stele.seal.sources.image import this_platform
from stele.seal.sources.source import Limits
from stele.trust.errors import SteleError

SPEC = '{"stele": 0, "name": "app", "command": ["/app"]}'
OTHER = "linux/s390x"


def quiet(*_: object, **__: object) -> None:
    """Neither tells nor records."""


def run(*argv: str | Path) -> None:
    subprocess.run([str(part) for part in argv], check=True, capture_output=True, timeout=120)


@pytest.fixture
def places(tmp_path) -> Iterator[Places]:
    made = Places(tmp_path / "data")
    initialise.make_keys(made)
    (tmp_path / "stele.yaml").write_text(SPEC)
    yield made
    for path in tmp_path.glob("*/store/erofs/*"):
        immutable.make_mutable(path)


@pytest.fixture(scope="module")
def layouts(tmp_path_factory) -> dict[str, Path]:
    """A layout per platform, of two layers with a link, a deletion and a name that is not UTF-8."""
    made = {}
    for platform in (this_platform(), OTHER):
        folder = tmp_path_factory.mktemp("image")
        (folder / "root" / "gone").mkdir(parents=True)
        (folder / "root" / "app").write_bytes(os.urandom(300_000) + platform.encode())
        (folder / "root" / "again").hardlink_to(folder / "root" / "app")
        (folder / "root" / "gone" / "file").write_text("gone")
        Path(os.fsdecode(os.fsencode(folder / "root") + b"/caf\xe9")).write_text("latin")
        layout = folder / "layout"
        run("umoci", "init", "--layout", layout)
        run("umoci", "new", "--image", f"{layout}:v1")
        run("umoci", "config", "--image", f"{layout}:v1", "--architecture", platform.partition("/")[2], "--config.cmd", "/app")
        run("umoci", "insert", "--rootless", "--image", f"{layout}:v1", folder / "root", "/")
        run("umoci", "insert", "--rootless", "--image", f"{layout}:v1", "--whiteout", "/gone/file")
        made[platform] = layout
    return made


@pytest.fixture(params=["crane", "debian"])
def image(request, layouts) -> str:
    """An image for two platforms in a registry, tagged `both`; each alone is tagged with its machine."""
    name = f"{request.getfixturevalue(request.param)}/team/image"
    entries = []
    for platform, layout in layouts.items():
        machine = platform.partition("/")[2]
        run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:v1", f"docker://{name}:{machine}")
        index = json.loads((layout / "index.json").read_bytes())["manifests"][0]
        plain = {key: index[key] for key in ("mediaType", "digest", "size")}
        entries.append({**plain, "platform": {"os": "linux", "architecture": machine}})
    kind = "application/vnd.oci.image.index.v1+json"
    body = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
    registry, _, repository = name.partition("/")
    put = urllib.request.Request(f"http://{registry}/v2/{repository}/manifests/both", body, {"Content-Type": kind}, method="PUT")
    urllib.request.urlopen(put).close()
    return name


def seal(places: Places, source: object, **options: object) -> dict:
    return sealing.seal(
        places,
        source,  # type: ignore[arg-type]
        places.data.parent / "stele.yaml",
        options=sealing.Options(**options),  # type: ignore[arg-type]
        say=quiet,
        record=quiet,
    )


@pytest.mark.parametrize("platform", ["", OTHER])
def test_it_is_the_release_that_sealing_skopeos_copy_gives(places, image, platform, tmp_path):
    machine = (platform or this_platform()).partition("/")[2]
    copy = tmp_path / "copy"
    run("skopeo", "copy", "--src-tls-verify=false", f"--override-arch={machine}", f"docker://{image}:both", f"oci:{copy}:v1")
    wanted = seal(places, copy)
    found = seal(places, references.parse(f"{image}:both"), platform=platform, paranoid=True)
    assert (found["tree"], found["release"]) == (wanted["tree"], wanted["release"])
    assert any(f"sealed is {platform or this_platform()}" in note for note in found["notes"])
    # provenance has the digest of the image, and of the index that it was chosen from
    [*_, told] = opening.open_store(places).attestations(found["release"], "https://slsa.dev/provenance/v1")
    digests = [item["digest"].get("sha256") for item in told["buildDefinition"]["resolvedDependencies"]]
    [manifest] = json.loads((copy / "index.json").read_bytes())["manifests"]
    registry, _, repository = image.partition("/")
    with urllib.request.urlopen(
        urllib.request.Request(
            f"http://{registry}/v2/{repository}/manifests/both", headers={"Accept": "application/vnd.oci.image.index.v1+json"}
        )
    ) as answer:
        index = hashlib.sha256(answer.read()).hexdigest()
    assert {manifest["digest"][7:], index} <= set(digests)
    assert told["buildDefinition"]["externalParameters"]["source"]["name"] == f"{image}:both"


def test_by_digest_on_the_command_line(places, image, tmp_path):
    [manifest] = json.loads(_raw(image, this_platform().partition("/")[2]))["layers"][:1]
    assert manifest["size"]
    digest = "sha256:" + hashlib.sha256(_raw(image, this_platform().partition("/")[2])).hexdigest()
    argv = [sys.executable, "-m", "stele", "--data", str(places.data), "--json", "seal", "-f", str(tmp_path / "stele.yaml")]
    ran = subprocess.run([*argv, f"{image}@{digest}"], capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["tree"] == seal(places, references.parse(f"{image}:{this_platform().partition('/')[2]}"))["tree"]
    ran = subprocess.run([*argv, f"docker://{image}:nowhere"], capture_output=True, check=False)
    assert json.loads(ran.stdout)["error"]["code"] == "registry.unknown"
    assert ran.returncode == 3
    ran = subprocess.run([*argv, f"{image}:both", "--platform", "linux/mips"], capture_output=True, check=False)
    assert json.loads(ran.stdout)["error"]["code"] == "seal.no-platform"


def _raw(image: str, tag: str) -> bytes:
    argv = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{image}:{tag}"]
    return subprocess.run(argv, capture_output=True, check=True).stdout


def test_layers_larger_than_the_limit_are_not_fetched(image):
    reference = references.parse(f"{image}:{this_platform().partition('/')[2]}")
    with pytest.raises(SteleError) as raised:
        registry_source.load(reference, plain_http=False, time=0, limits=Limits(max_bytes=1000), keep=packing.Nowhere().draft)
    assert raised.value.code == "registry.bad-answer"


def test_a_layer_for_which_there_is_no_room_is_said(image):
    reference = references.parse(f"{image}:{this_platform().partition('/')[2]}")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(SteleError) as raised:
            registry_source.load(reference, plain_http=False, time=0, limits=Limits(), keep=packing.Nowhere().draft)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.code == "seal.no-room"


def test_a_path_wins_over_a_registry_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "example.org" / "app").mkdir(parents=True)
    assert sealing.source_of("example.org/app", "auto") == Path("example.org/app")
    assert str(sealing.source_of("docker://example.org/app", "auto")) == "example.org/app:latest"
    assert str(sealing.source_of("example.net/app:1", "auto")) == "example.net/app:1"
    assert sealing.source_of("./example.net/app:1", "auto") == Path("example.net/app:1")
    assert sealing.source_of("app.tar", "auto") == Path("app.tar")
