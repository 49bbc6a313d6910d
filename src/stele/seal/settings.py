"""Settings and mount points: what the spec adds to a source's tree (docs/spec/sources.md, Settings)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import stat
from typing import TYPE_CHECKING

import msgspec

from stele.host.below import open_below
from stele.model.names import above, name_fault
from stele.model.spec import parse_mode, parse_owner
from stele.model.tree import Node, Tree, quote
from stele.seal.contents import Contents
from stele.seal.normalise import MOUNT_POINTS
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from pathlib import Path

    from stele.model.ports import ContentReader
    from stele.model.spec import Setting, Spec, Writable

MAX_SETTING = 16 << 20  # bytes


class Applied(msgspec.Struct, frozen=True):
    """A tree with settings. `paths`: every path that was added or replaced, which is the settings stratum."""

    tree: Tree
    paths: frozenset[bytes]
    contents: ContentReader


def _bad(setting: str, reason: str, remedy: str) -> SteleError:
    return SteleError(f"the setting {setting} cannot be sealed: {reason}", remedy=remedy, code="seal.bad-setting")


def apply_settings(tree: Tree, contents: ContentReader, spec: Spec, base_dir: Path) -> Applied:
    """Put the spec's settings files into the tree, and a directory wherever an instance mounts something (in a data set nowhere).

    Args:
        tree: of the source.
        contents: of the source; the result shares its descriptors and must not be closed by itself.
        spec: whose `settings`, `writable` and `time` are applied.
        base_dir: the spec's folder; sources of settings lie below it, reached through no symlink.

    Raises:
        SteleError: `seal.bad-setting`, `seal.bad-mount-point`.
    """
    new: dict[bytes, Node] = {}
    data: dict[str, bytes] = {}
    mounted = () if spec.kind == "dataset" else MOUNT_POINTS
    for name in mounted:
        if tree.get(name) is None:
            new[name] = _directory(name, spec.time)
    for item in spec.writable:
        _mount_point(tree, new, item, spec.time)
    for held in spec.data:
        _directories(tree, new, os.fsencode(held.path)[1:], "data", spec.time)
    with contextlib.ExitStack() as stack:
        base = -1
        if any(setting.source for setting in spec.settings):
            base = os.open(base_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, base)
        for setting in spec.settings:
            first, inner, _ = os.fsencode(setting.path)[1:].partition(b"/")
            if inner and first in mounted:
                raise _bad(setting.path, "what an instance mounts there would hide it", "put it at another path")
            content = _content(setting, base)
            node = _place(tree, new, setting, content, spec.time)
            data[node.sha256] = content
    return Applied(tree.with_nodes(new.values()), frozenset(new), _with(contents, data))


def _with(contents: ContentReader, data: dict[str, bytes]) -> ContentReader:
    if isinstance(contents, Contents):
        return contents.extended(data)
    from stele.seal.stored import Over

    return Over(Contents(data), contents)


def _directory(path: bytes, time: int) -> Node:
    return Node(path=path, kind="dir", mode=0o755, uid=0, gid=0, mtime=time)


def _mount_point(tree: Tree, new: dict[bytes, Node], item: Writable, time: int) -> None:
    path = os.fsencode(item.path)[1:]
    _directories(tree, new, path, "writable", time)
    # runc gives a tmpfs the mode of the directory that it covers, whatever the mount options say
    here = new.get(path) or tree.get(path)
    uid, gid = parse_owner(item.owner)
    if here is not None and (here.mode, here.uid, here.gid) != (parse_mode(item.mode), uid, gid):
        new[path] = msgspec.structs.replace(here, mode=parse_mode(item.mode), uid=uid, gid=gid)


def _directories(tree: Tree, new: dict[bytes, Node], path: bytes, field: str, time: int) -> None:
    """Make sure of a directory at `path`, which `field` of the spec names."""
    if name_fault(path):
        raise SteleError(
            f"the {field} path /{quote(path)[:300]} {name_fault(path)}",
            remedy=f"correct `{field}` in the spec",
            code="seal.bad-mount-point",
        )
    for folder in (*above(path)[1:], path):
        node = new.get(folder) or tree.get(folder)
        if node is None:
            new[folder] = _directory(folder, time)
        elif node.kind != "dir":
            leads = f" to {quote(node.target)[:200]}" if node.kind == "symlink" else ""
            raise SteleError(
                f"the {field} path /{quote(path)[:300]} cannot be mounted: /{quote(folder)[:300]} is a {node.kind}{leads} in the source",
                remedy=f"name a directory in `{field}`, and where a symlink leads elsewhere, the path that it leads to",
                code="seal.bad-mount-point",
            )


def _place(tree: Tree, new: dict[bytes, Node], setting: Setting, content: bytes, time: int) -> Node:
    path = os.fsencode(setting.path)[1:]
    if not path or name_fault(path) or path.rpartition(b"/")[2].startswith(b".wh."):
        raise _bad(setting.path, "the path is not one that a release can hold", "correct `path` in the spec")
    for folder in above(path)[1:]:
        node = new.get(folder) or tree.get(folder)
        if node is None:
            new[folder] = _directory(folder, time)
        elif node.kind != "dir":
            raise _bad(
                setting.path, f"/{quote(folder)[:300]} is a {node.kind} in the source, not a directory", "name the path that it leads to"
            )
    present = new.get(path) or tree.get(path)
    if present is not None and present.kind in {"dir", "symlink"}:
        raise _bad(setting.path, f"it is a {present.kind} in the source", "name a file; of a symlink, the path that it leads to")
    uid, gid = parse_owner(setting.owner)
    node = Node(
        path=path,
        kind="file",
        mode=parse_mode(setting.mode),
        uid=uid,
        gid=gid,
        mtime=time,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    new[path] = node
    return node


def _content(setting: Setting, base: int) -> bytes:
    if (setting.content is None) == (not setting.source):
        raise _bad(setting.path, "exactly one of `source` and `content` is needed", "give one of them")
    if setting.content is not None:
        try:
            return setting.content.encode("utf-8")
        except UnicodeEncodeError as error:
            raise _bad(setting.path, "its content is not valid text", "use `source` for what is not text") from error
    name = posixpath.normpath(setting.source)
    if name.startswith("/") or name == "." or name.split("/")[0] == ".." or "\0" in name:
        raise _bad(setting.path, f"its source {setting.source!r} is outside the spec's folder", "copy the file into the spec's folder")
    try:
        fd = open_below(base, os.fsencode(name), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise _bad(
            setting.path,
            f"its source {setting.source!r} cannot be opened below the spec's folder without following a symlink: {error.strerror}",
            "put a regular file there",
        ) from error
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size > MAX_SETTING:
            raise _bad(setting.path, f"its source {setting.source!r} is not a regular file of at most 16 MiB", "give such a file")
        with os.fdopen(fd, "rb", closefd=False) as file:
            data = file.read(MAX_SETTING + 1)
    finally:
        os.close(fd)
    if len(data) > MAX_SETTING:
        raise _bad(setting.path, f"its source {setting.source!r} grows beyond 16 MiB", "give a file that nothing writes to")
    return data
