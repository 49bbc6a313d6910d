"""Whoever seals is warned where the program that the spec names is not in the tree; by whichever way the release is sealed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from stele.flow import initialise
from stele.flow.places import Places
from stele.model import spec as specs
from stele.model.tree import Node, Tree
from stele.seal import command
from tests.trees import TIME, Held, file, with_folders

LINKS = {
    "sbin": "usr/sbin", "bin": "/usr/bin", "usr/bin/sh": "../../usr/./bin/busybox", "loop": "loop2/x", "loop2": "loop", "app": "/data/app",
    "out": "../../usr/bin/busybox", "gone": "nowhere", **{f"l{at}": f"l{at + 1}" for at in range(60)}, "l60": "usr",
}  # fmt: skip


def tree() -> Tree:
    held = Held()
    nodes = {b"usr/bin/busybox": file(b"usr/bin/busybox", b"x", held), b"usr/sbin/d": file(b"usr/sbin/d", b"y", held)}
    for path, target in LINKS.items():
        link = Node(path=path.encode(), kind="symlink", mode=0o777, uid=0, gid=0, mtime=TIME, target=target.encode())
        nodes[link.path] = link
    return Tree.build(with_folders(nodes))


def spec(program: str) -> bytes:
    return json.dumps(
        {"stele": 0, "name": "app", "command": [program, "x"], "writable": [{"path": "/data", "kind": "volume", "volume": "d"}]}
    ).encode()


@pytest.mark.parametrize(
    "program",
    ["/usr/bin/busybox", "/bin/busybox", "/sbin/d", "/bin/sh", "//bin//sh", "/out", "/data/x", "/app", "/app/y", "/proc/self/exe",
     "/l30/bin/sh"],
)  # fmt: skip
def test_of_a_program_that_is_there_or_may_come_to_be_nothing_is_said(program):
    assert command.warnings(tree(), specs.parse_yaml(spec(program))) == []


@pytest.mark.parametrize("program", ["/usr/bin/other", "/bin/busybox/x", "/gone", "/loop", "/l0/bin/sh", "/database/x", "/b\u00e4r"])
def test_a_program_that_is_not_there_is_named(program):
    (said,) = command.warnings(tree(), specs.parse_yaml(spec(program)))
    assert program in said


@pytest.mark.parametrize("short", [False, True])
def test_it_is_said_on_standard_error_and_as_json(tmp_path, short):
    initialise.make_keys(Places(tmp_path / "data"))
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "one").write_bytes(b"one")
    (tmp_path / "stele.yaml").write_bytes(spec("/two"))

    def stele(*more: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "stele", "--data", "data", *more, "seal", "root"]
        return subprocess.run(argv, capture_output=True, text=True, check=True, cwd=tmp_path, stdin=subprocess.DEVNULL)

    if short:
        stele()
        (tmp_path / "root" / "one").write_bytes(b"changed")
    done = stele("--json")
    assert json.loads(done.stdout)["warnings"] == ["the program /two of `command` is not in the release"]
    assert "warning: the program /two of `command` is not in the release\n" in done.stderr
    (tmp_path / "stele.yaml").write_bytes(spec("/one"))
    done = stele("--json")
    assert json.loads(done.stdout)["warnings"] == []
    assert "warning" not in done.stderr
