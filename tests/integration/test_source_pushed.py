"""Images as today's tools push and save them: zstd in chunks, lists of platforms, indexes that name none, several in one archive."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from stele.flow import packing
from stele.model import reference as references
from stele.model.tree import Tree
from stele.seal import sources
from stele.seal.sources import registry
from stele.seal.sources.image import this_platform
from stele.seal.sources.source import Limits
from tests import judges
from tests.refusals import code

pytestmark = [pytest.mark.root, pytest.mark.needs("buildah", "podman", "skopeo", "tar"), pytest.mark.timeout(600)]
OTHER = "s390x"


class Made(NamedTuple):
    """`folder`: what the image `localhost/app:1` holds. `archive`: of it and of another."""

    folder: Path
    archive: Path
    buildah: tuple[str, ...]


def run(*argv: str | Path) -> str:
    return subprocess.run([str(part) for part in argv], check=True, capture_output=True, text=True, timeout=300).stdout.strip()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    top = tmp_path_factory.mktemp("pushed")
    folder = top / "root"
    (folder / "srv").mkdir(parents=True)
    (folder / "srv" / "large").write_bytes(os.urandom(1 << 20) + bytes(1 << 20))
    (folder / "app").write_text("#!/bin/sh\n")
    (folder / "again").hardlink_to(folder / "app")
    (folder / "link").symlink_to("srv/large")
    with tempfile.TemporaryDirectory(prefix="st", dir="/var/tmp") as work:
        storage = ("--root", f"{work}/s", "--runroot", f"{work}/r", "--storage-driver", "vfs")
        buildah = ("buildah", *storage)
        for name, holds in (("app:1", folder), ("bare:1", None)):
            container = run(*buildah, "from", "scratch")
            if holds:
                run(*buildah, "copy", container, holds, "/")
            run(*buildah, "commit", "--rm", container, f"localhost/{name}")
        saved = ("podman", *storage, "save", "-q", "--multi-image-archive", "-o", top / "saved.tar")
        run(*saved, "localhost/app:1", "localhost/bare:1")
        yield Made(folder, top / "saved.tar", buildah)


def tree_of(source: Path, **options: str) -> Tree:
    with sources.load(source, **options) as found:  # type: ignore[arg-type]
        return found.tree


def at(reference: str, platform: str = "") -> Tree:
    parsed = references.parse(reference)
    with registry.load(
        parsed, plain_http=False, time=315_532_800, limits=Limits(), keep=packing.Nowhere().draft, platform=platform
    ) as found:
        return found.tree


@pytest.mark.parametrize("form", ["gzip", "zstd", "zstd:chunked"])
def test_layers_of_any_compression_give_the_tree_of_the_folder(made: Made, crane: str, form: str) -> None:
    target = f"{crane}/pushed/{form.replace(':', '-')}:1"
    run(*made.buildah, "push", "-q", "--tls-verify=false", "--compression-format", form, "localhost/app:1", f"docker://{target}")
    [layer] = json.loads(run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{target}"))["layers"]
    assert layer["mediaType"].endswith("+" + form.partition(":")[0])
    assert any("chunked" in key for key in layer.get("annotations", {})) == form.endswith("chunked")
    assert at(target) == tree_of(made.folder)


def test_of_a_list_that_buildah_made_the_platform_that_was_asked_for(made: Made, crane: str) -> None:
    target = f"{crane}/pushed/list:1"
    run(*made.buildah, "manifest", "create", "several")
    run(*made.buildah, "manifest", "add", "several", "localhost/app:1")
    run(*made.buildah, "manifest", "add", "--arch", OTHER, "several", "localhost/bare:1")
    run(*made.buildah, "manifest", "push", "-q", "--all", "--tls-verify=false", "several", f"docker://{target}")
    assert at(target) == at(target, this_platform()) == tree_of(made.folder)
    assert code(at, target, "linux/mips") == "seal.no-platform"


def test_an_index_of_cranes_that_names_no_platform(made: Made, crane: str, tmp_path: Path) -> None:
    program = judges.go_judge("github.com/google/go-containerregistry/cmd/crane@v0.20.6")
    one, index = f"{crane}/pushed/crane:one", f"{crane}/pushed/crane:index"
    run("tar", "-C", made.folder, "-cf", tmp_path / "root.tar", ".")
    run(program, "append", "-t", one, "-f", tmp_path / "root.tar")
    run(program, "index", "append", "-t", index, "-m", one)
    assert at(one) == at(index) == tree_of(made.folder)
    run(program, "pull", one, tmp_path / "docker.tar")
    run(program, "pull", "--format", "oci", index, tmp_path / "oci")
    assert tree_of(tmp_path / "docker.tar") == tree_of(tmp_path / "oci") == tree_of(made.folder)


def test_of_several_images_in_an_archive_of_podmans_the_one_that_was_named(made: Made) -> None:
    assert code(tree_of, made.archive) == "seal.ambiguous-image"
    assert tree_of(made.archive, reference="app:1") == tree_of(made.folder)
    assert [node.path for node in tree_of(made.archive, reference="localhost/bare:1")] == [b""]
