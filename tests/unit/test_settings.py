"""Settings in the tree: where they go, what they may come from, and what they may not go through."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from stele.model import spec as specs
from stele.model.tree import Node, Tree
from stele.seal.contents import Contents
from stele.seal.settings import Applied, apply_settings
from stele.trust.errors import SteleError

TIME = 1_700_000_000
SHA = "0" * 64


def node(path: bytes, kind: Any = "dir", **more: Any) -> Node:
    plain: dict[str, Any] = {"mode": 0o777 if kind == "symlink" else 0o750, "uid": 7, "gid": 7, "mtime": 1}
    plain |= {"sha256": SHA} if kind == "file" else {"target": b"etc"} if kind == "symlink" else {}
    return Node(path=path, kind=kind, **{**plain, **more})


TREE = Tree.build(
    [
        node(b""),
        node(b"etc"),
        node(b"etc/a", "file"),
        node(b"etc/b", "file", link=b"etc/a"),
        node(b"way", "symlink"),
        node(b"proc"),
        node(b"dev"),
        node(b"sys"),
        node(b"run"),
    ]
)


def apply(base: Path, *settings: dict[str, Any], **more: Any) -> Applied:
    raw = {"stele": 0, "name": "app", "command": ["/bin/app"], "time": TIME, "settings": list(settings), **more}
    return apply_settings(TREE, Contents({SHA: b""}), specs.from_builtins(raw), base)


def refused(base: Path, *settings: dict[str, Any], code: str = "seal.bad-setting", **more: Any) -> None:
    with pytest.raises(SteleError) as caught:
        apply(base, *settings, **more)
    assert caught.value.code == code


def test_a_setting_from_text_or_file_is_placed_with_its_parents(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "x.conf").write_bytes(b"\xff\0")
    done = apply(
        tmp_path,
        {"path": "/opt/app/new.conf", "content": "é\n", "mode": "0600", "owner": "33:34"},
        {"path": "/etc/x.conf", "source": "./conf.d/x.conf"},
    )
    new = done.tree.get(b"opt/app/new.conf")
    assert new is not None
    assert (new.mode, new.uid, new.gid, new.mtime, new.size) == (0o600, 33, 34, TIME, 3)
    assert done.contents.read(new.sha256) == "é\n".encode()
    parent = done.tree.get(b"opt")
    assert parent is not None
    assert (parent.kind, parent.mode, parent.uid, parent.mtime) == ("dir", 0o755, 0, TIME)
    other = done.tree.get(b"etc/x.conf")
    assert other is not None
    assert done.contents.read(other.sha256) == b"\xff\0"
    assert done.paths == {b"opt", b"opt/app", b"opt/app/new.conf", b"etc/x.conf"}
    assert done.contents.read(SHA) == b""


def test_a_replaced_file_leaves_its_other_names_alone(tmp_path: Path) -> None:
    done = apply(tmp_path, {"path": "/etc/a", "content": "new"})
    a, b = done.tree.get(b"etc/a"), done.tree.get(b"etc/b")
    assert a is not None
    assert b is not None
    assert (a.size, b.sha256, b.link, b.uid) == (3, SHA, None, 7)
    assert done.paths == {b"etc/a"}


def test_nothing_is_written_through_a_symlink_or_over_a_folder_of_the_tree(tmp_path: Path) -> None:
    for path in ("/way/x", "/way", "/etc", "/etc/a/x", "/way/deeper/x"):
        refused(tmp_path, {"path": path, "content": ""})


def test_what_a_mount_would_hide_is_refused(tmp_path: Path) -> None:
    for path in ("/proc/x", "/dev/x", "/sys/x", "/run/x/y"):
        refused(tmp_path, {"path": path, "content": ""})


def test_names_that_no_release_can_hold_are_refused(tmp_path: Path) -> None:
    for path in ("/etc/.wh.a", "/" + "n" * 256):
        refused(tmp_path, {"path": path, "content": ""})


def test_sources_outside_the_folder_of_the_spec_are_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (tmp_path / "secret").write_text("s")
    (base / "link").symlink_to("../secret")
    (base / "up").symlink_to("..")
    (base / "inner").mkdir()
    os.mkfifo(base / "fifo")
    for source in ("../secret", "/etc/hostname", "link", "up/secret", "inner/../../secret", "inner", ".", "missing", "fifo", "a\0b"):
        refused(base, {"path": "/etc/x", "source": source})


def test_a_setting_needs_one_origin(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("1")
    refused(tmp_path, {"path": "/etc/x"})
    refused(tmp_path, {"path": "/etc/x", "source": "x", "content": "1"})


def test_an_oversized_source_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.truncate((16 << 20) + 1)
    refused(tmp_path, {"path": "/etc/x", "source": "x"})


def test_everything_that_is_mounted_has_a_folder_to_be_mounted_on(tmp_path: Path) -> None:
    done = apply(tmp_path, writable=[{"path": "/var/lib/app"}, {"path": "/etc"}])
    assert done.paths == {b"var", b"var/lib", b"var/lib/app", b"etc"}
    modes = {path: found.mode for path in (b"var/lib", b"var/lib/app", b"etc") if (found := done.tree.get(path))}
    assert modes == {b"var/lib": 0o755, b"var/lib/app": 0o1777, b"etc": 0o1777}  # the spec's, since runc copies it to the tmpfs
    raw = {"stele": 0, "name": "app", "command": ["/app"], "time": TIME}
    bare = apply_settings(Tree.build([node(b"")]), Contents({}), specs.from_builtins(raw), tmp_path)
    assert bare.paths == {b"dev", b"proc", b"sys", b"run"}
    for path in ("/way", "/way/x", "/etc/a", "/etc/a/x"):
        refused(tmp_path, code="seal.bad-mount-point", writable=[{"path": path}])
