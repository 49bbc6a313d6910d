"""Images of layers as overlayfs makes them: buildah commits what changed on a mounted container, with real deletion and opaque marks.

What is sealed is compared with what the container itself sees of its root, and with what `umoci unpack` makes of the image.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from stele.flow import packing
from stele.model import reference as references
from stele.model.tree import Tree
from stele.seal import sources
from stele.seal.sources import registry
from stele.seal.sources.source import Limits

pytestmark = [pytest.mark.root, pytest.mark.needs("buildah", "umoci"), pytest.mark.timeout(600)]

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep
LATIN = b"srv/caf\xe9"
LONG = "srv/" + "long" * 30  # too long for the header of a tar
OPAQUE = ".wh..wh..opq"


class Seen(NamedTuple):
    """A path as a file system has it, or as a tree does. `joined`: all names of its inode."""

    kind: str
    mode: int
    owner: tuple[int, int]
    content: str
    xattrs: dict[str, bytes]
    joined: frozenset[bytes]


def run(*argv: str | Path) -> str:
    return subprocess.run([str(part) for part in argv], check=True, capture_output=True, text=True, timeout=300).stdout.strip()


def put(path: Path | bytes, content: str, mode: int = 0o644) -> None:
    Path(os.fsdecode(path)).write_text(content)
    os.chmod(path, mode)


def new(path: Path, content: str = "") -> None:
    """A folder in the place of whatever was there, with a file `new` in it where there is content: opaque on an overlay."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.is_symlink() or path.exists():
        path.unlink()
    path.mkdir(mode=0o755)
    if content:
        put(path / "new", content)


def first(root: Path) -> None:
    for name in (
        "srv",
        "srv/d",
        "srv/d/deep",
        "srv/d/deep/er",
        "srv/gone",
        "srv/turn",
        "srv/kept",
        "srv/empty",
        "srv/moved",
        "usr",
        "usr/bin",
    ):
        (root / name).mkdir(mode=0o755)
    for name in ("d/old", "d/deep/x", "d/deep/er/y", "gone/c", "turn/b", "kept/k", "kept/deleted", "empty/e", "moved/m", "f", "back"):
        put(root / "srv" / name, name)
    latin = os.fsencode(root) + b"/" + LATIN
    os.mkdir(latin)
    put(latin + b"/\xff\xfe", "old")
    put(latin + b"/gone\x80", "old")
    (root / "srv/to-folder").symlink_to("d")
    (root / "srv/dangling").symlink_to("/nowhere/at/all")
    for name in ("1", "2"):
        put(root / (LONG + name), "deleted by the second layer")
    put(root / "srv/pair-a", "one inode")
    for name in ("pair-b", "pair-c"):
        (root / "srv" / name).hardlink_to(root / "srv/pair-a")
    put(root / "srv/lone", "linked to by a later layer")
    put(root / "usr/bin/tool", "tool", 0o4755)
    put(root / "usr/bin/ping", "ping", 0o755)
    put(root / "usr/bin/ping2", "ping2", 0o755)
    os.setxattr(root / "usr/bin/ping", "security.capability", CAPABILITY)
    os.setxattr(root / "srv/d", "user.folder", b"first")
    os.setxattr(root / "srv/kept", "user.folder", b"stays\0\xff")
    os.chown(root / "srv/kept", 999, 998)
    os.mkfifo(root / "srv/fifo", 0o620)


def second(root: Path) -> None:
    new(root / "srv/d", "2")
    (root / "srv/d/deep").mkdir(mode=0o750)  # a name that was there, without what was in it
    put(root / "srv/d/deep/z", "z")
    shutil.rmtree(root / "srv/gone")
    for name in ("1", "2"):
        (root / (LONG + name)).unlink()
    (root / "srv/kept/deleted").unlink()
    new(root / "srv/empty")
    new(root / "srv/f", "in the place of a file")
    new(root / "srv/back", "for one layer")
    shutil.rmtree(root / "srv/turn")
    put(root / "srv/turn", "in the place of a folder")
    new(root / "srv/to-folder", "in the place of a symlink")
    (root / "srv/fifo").unlink()
    (root / "srv/fifo").symlink_to("f")
    shutil.move(root / "srv/moved", root / "srv/there")
    os.unlink(os.fsencode(root) + b"/" + LATIN + b"/gone\x80")
    (root / "srv/lone-2").hardlink_to(root / "srv/lone")
    (root / "srv/pair-b").chmod(0o600)  # copied up alone: no longer the same inode
    os.removexattr(root / "usr/bin/ping", "security.capability")
    os.setxattr(root / "usr/bin/ping2", "security.capability", CAPABILITY)
    os.setxattr(root / "srv/kept/k", "user.later", b"2")


def third(root: Path) -> None:
    new(root / "srv/d", "3")  # opaque over opaque
    put(root / "srv/d/old", "of the third layer")
    shutil.rmtree(root / "srv/back")
    put(root / "srv/back", "a file again")
    latin = os.fsencode(root) + b"/" + LATIN
    shutil.rmtree(latin)
    os.mkdir(latin, 0o711)
    put(latin + b"/\xff\xfe", "new")
    (root / "srv/pair-c").unlink()
    (root / "srv/lone-3").hardlink_to(root / "srv/lone-2")
    os.chown(root / "srv/kept", 0, 0)
    (root / "srv/kept").chmod(0o1770)
    (root / "usr/bin/tool").chmod(0o755)


class Image(NamedTuple):
    """An image of three layers: what its container sees, and where buildah has put it."""

    seen: dict[bytes, Seen]
    archive: Path
    layout: Path
    push: Callable[[str], None]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    out = tmp_path_factory.mktemp("overlay")
    with tempfile.TemporaryDirectory(prefix="st", dir="/var/tmp") as work:  # no overlay lies on an overlay, and options must be short
        buildah = ("buildah", "--root", f"{work}/s", "--runroot", f"{work}/r", "--storage-driver", "overlay")
        base = "scratch"
        try:
            for change in (first, second, third):
                container = run(*buildah, "from", base)
                change(Path(run(*buildah, "mount", container)))
                run(*buildah, "umount", container)
                base = run(*buildah, "commit", "--quiet", "--rm", container)
            seen = walked(Path(run(*buildah, "mount", run(*buildah, "from", base))))
            run(*buildah, "push", "--quiet", base, f"docker-archive:{out}/docker.tar:app:1")
            run(*buildah, "push", "--quiet", base, f"oci:{out}/layout:v1")
            push = ("push", "--quiet", "--tls-verify=false", base)
            yield Image(seen, out / "docker.tar", out / "layout", lambda target: run(*buildah, *push, f"docker://{target}") and None)
        finally:
            run(*buildah, "umount", "--all")
            run(*buildah, "rm", "--all")
            subprocess.run(["umount", f"{work}/s/overlay"], check=False, capture_output=True)  # buildah's own bind mount of it


def walked(root: Path) -> dict[bytes, Seen]:
    """What the kernel says of all below a folder."""
    top = os.fsencode(root)
    names: dict[tuple[int, int], set[bytes]] = {}
    found = []
    for folder, folders, files in os.walk(top):
        for path in (os.path.join(folder, name) for name in (*folders, *files)):
            state, name = os.lstat(path), os.path.relpath(path, top)
            found.append((name, path, state))
            names.setdefault((state.st_dev, state.st_ino), set()).add(name)
    return {name: one(path, state, frozenset(names[state.st_dev, state.st_ino])) for name, path, state in found}


def one(path: bytes, state: os.stat_result, joined: frozenset[bytes]) -> Seen:
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo"}
    kind = kinds[stat.S_IFMT(state.st_mode)]
    content = {"file": lambda: hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest(), "symlink": lambda: repr(os.readlink(path))}
    xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}
    return Seen(kind, stat.S_IMODE(state.st_mode), (state.st_uid, state.st_gid), content.get(kind, str)(), xattrs, joined)


def as_seen(tree: Tree) -> dict[bytes, Seen]:
    joined: dict[bytes, set[bytes]] = {}
    for node in tree.nodes:
        joined.setdefault(node.link or node.path, set()).add(node.path)
    return {
        node.path: Seen(
            node.kind,
            node.mode,
            (node.uid, node.gid),
            repr(node.target) if node.kind == "symlink" else node.sha256,
            {os.fsdecode(name): value for name, value in node.xattrs},
            frozenset(joined[node.link or node.path]),
        )
        for node in tree.nodes
        if node.path
    }


def members(layout: Path) -> list[dict[str, str]]:
    """The names in each layer of a layout, lowest first, and the link target in the header of each."""
    blobs = layout / "blobs" / "sha256"
    [described] = json.loads((layout / "index.json").read_bytes())["manifests"]
    layers = json.loads((blobs / described["digest"][7:]).read_bytes())["layers"]
    found = []
    for layer in layers:
        with tarfile.open(blobs / layer["digest"][7:]) as tar:
            found.append({member.name: member.linkname for member in tar})
    return found


def test_the_layers_have_the_marks_that_this_is_about(image: Image) -> None:
    one, two, three = members(image.layout)
    assert not [name for name in one if ".wh." in name]
    assert {f"srv/{name}/{OPAQUE}" for name in ("d", "empty", "f", "to-folder")} <= set(two)
    assert {"srv/.wh.gone", "srv/kept/.wh.deleted"} <= set(two)
    assert {two[f"srv/.wh.{LONG[4:]}{name}"] for name in "12"} - {""}  # no link: the deleted entries of an overlay are one inode
    assert {f"srv/d/{OPAQUE}", os.fsdecode(LATIN) + f"/{OPAQUE}", "srv/.wh.pair-c"} <= set(three)


def test_an_archive_a_layout_and_a_registry_give_what_the_container_sees(image: Image, debian: str) -> None:
    image.push(f"{debian}/team/app:v1")
    found = {}
    for carrier in (image.archive, image.layout):
        with sources.load(carrier, time=0) as source:
            found[carrier.name] = source.tree
    reference = references.parse(f"{debian}/team/app:v1")
    with registry.load(reference, plain_http=True, time=0, limits=Limits(), keep=packing.Nowhere().draft) as source:
        found["registry"] = source.tree
    assert image.seen[b"srv/d/old"].content == hashlib.sha256(b"of the third layer").hexdigest()
    for name, tree in found.items():
        assert as_seen(tree) == image.seen, name
    assert len({tree.digest() for tree in found.values()}) == 1


def test_umoci_unpacks_what_is_sealed(image: Image, tmp_path: Path) -> None:
    run("umoci", "unpack", "--image", f"{image.layout}:v1", tmp_path / "bundle")
    unpacked = walked(tmp_path / "bundle" / "rootfs")
    with sources.load(image.layout) as source:
        assert as_seen(source.tree) == unpacked
