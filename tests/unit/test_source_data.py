"""Data sets: nothing is mounted in one, so folders named as an instance's mount points are content like others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stele.model import spec as specs
from stele.model.tree import Tree
from stele.seal import settings, sources
from stele.seal.normalise import MOUNT_POINTS
from stele.trust.errors import SteleError
from tests.archives import END, docker_save_old, file, folder, header, oci_layout

SPLITS = ("train", "dev", "test", "run", "proc", "sys")
LAYER = b"".join(folder(b"%s" % os.fsencode(name)) + file(b"%s/part" % os.fsencode(name), os.fsencode(name)) for name in SPLITS) + END
DATA = {"stele": 0, "name": "words", "kind": "dataset"}


def tree_of(path: Path, **options: object) -> Tree:
    with sources.load(path, **options) as source:  # type: ignore[arg-type]
        return source.tree


@pytest.fixture
def split(tmp_path: Path) -> Path:
    top = tmp_path / "split"
    top.mkdir()
    for name in SPLITS:
        (top / name).mkdir(mode=0o755)
        (top / name / "part").write_text(name)
        (top / name / "part").chmod(0o644)
    return top


def test_splits_named_dev_and_folders_named_run_are_kept_whatever_carries_them(tmp_path: Path, split: Path) -> None:
    (tmp_path / "root.tar").write_bytes(LAYER)
    forms: list[tuple[Path, dict[str, object]]] = [
        (split, {}),
        (tmp_path / "root.tar", {"kind": "root-tar"}),
        (docker_save_old(tmp_path / "saved.tar", [LAYER]), {}),
        (oci_layout(tmp_path / "layout", [LAYER]), {}),
    ]
    trees = [tree_of(path, data=True, **options) for path, options in forms]
    assert {node.path for node in trees[0].files()} == {os.fsencode(f"{name}/part") for name in SPLITS}
    assert all(tree == trees[0] for tree in trees)
    for path, options in forms:
        assert {node.path for node in tree_of(path, **options).files()} == {b"train/part", b"test/part"}


def test_no_directories_are_added_and_settings_may_lie_anywhere(split: Path, tmp_path: Path) -> None:
    for name in MOUNT_POINTS:
        (split / name.decode() / "part").unlink()
        (split / name.decode()).rmdir()
    (split / "dev").write_text("a file")  # of a workload it would be refused
    spec = specs.from_builtins({**DATA, "settings": [{"path": "/run/README", "content": "words"}]})
    with sources.load(split, data=True) as source:
        applied = settings.apply_settings(source.tree, source.contents, spec, tmp_path)
    assert {node.path for node in applied.tree} == {b"", b"dev", b"run", b"run/README", b"test", b"test/part", b"train", b"train/part"}
    assert applied.paths == {b"run", b"run/README"}


def test_a_device_node_is_refused_wherever_it_lies(tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(folder(b"dev") + header(b"dev/null", b"3", rdev=(1, 3)) + END)
    with pytest.raises(SteleError) as raised:
        tree_of(tmp_path / "root.tar", kind="root-tar", data=True)
    assert raised.value.code == "seal.device-node"
    assert "outside" not in raised.value.reason
    assert tree_of(tmp_path / "root.tar", kind="root-tar").get(b"dev/null") is None
