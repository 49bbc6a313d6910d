"""Releases in the hands of other tools: skopeo, podman and umoci read what `seal` and `store` write."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from stele.host import immutable
from stele.model import spec as specs
from stele.model.tree import Node, Tree
from stele.seal import release as sealing
from stele.seal.rebuild import LayerRebuilder
from stele.seal.sign import sign
from stele.store.layout import Layout
from stele.trust.release_key import PrivateKey
from tests.trees import TIME, file, folder, varied

KEY = PrivateKey.generate()
BUSYBOX = Path("/bin/busybox")


def run(*argv: object, check: bool = True) -> str:
    done = subprocess.run([str(part) for part in argv], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0 or not check, f"{argv}: {done.stderr}"
    return done.stdout


def opened(root: Path) -> Layout:
    return Layout(root, trusted=(KEY.public,), rebuild=LayerRebuilder())


@pytest.fixture
def layout(tmp_path):
    """A store with one release: busybox, a setting, and one of everything that an ordinary runtime unpacks."""
    tree, held = varied()
    nodes = [node for node in tree if node.kind not in {"char", "block", "fifo"} and b"\xff" not in node.path and b"\n" not in node.path]
    nodes = [node for node in nodes if node.path != b"large-xattrs"]  # ext4 has one block for all of a file's attributes
    nodes += [folder(b"bin"), file(b"bin/busybox", BUSYBOX.read_bytes(), held, mode=0o755), folder(b"proc"), folder(b"sys"), folder(b"dev")]
    nodes.append(Node(path=b"bin/sh", kind="symlink", mode=0o777, uid=0, gid=0, mtime=TIME, target=b"busybox"))
    nodes += [folder(b"etc"), file(b"etc/greeting", b"hello", held), folder(b"owned", uid=33, gid=44, mode=0o2750)]
    text = {"stele": 0, "name": "shop", "command": ["/bin/sh", "-c", "cat /etc/greeting"], "settings": [{"path": "/etc/greeting"}]}

    def make(compression: str) -> tuple[Path, str, str]:
        store = opened(tmp_path / "store")
        sealed = sealing.seal(Tree.build(nodes), held, specs.from_builtins(text), store, compression=compression)
        store.publish(sign(sealed, KEY, store))
        return tmp_path / "store", f"shop-{sealed.release.digest[7:19]}", sealed.release.digest

    yield make
    for path in tmp_path.glob("*/erofs/*"):
        immutable.make_mutable(path)


def test_skopeo_inspects_a_release(layout):
    root, tag, digest = layout("zstd")
    said = json.loads(run("skopeo", "inspect", f"oci:{root}:{tag}"))
    assert said["Digest"] == digest
    assert (said["Os"], said["Architecture"]) == ("linux", "amd64")
    assert len(said["Layers"]) == 2


def test_a_release_that_skopeo_carried_there_and_back_verifies_and_its_images_are_made_again(layout, tmp_path):
    root, tag, digest = layout("zstd")
    before = {path.name: path.read_bytes() for path in (root / "erofs").iterdir()}
    tree = opened(root).tree(digest)
    there, back = tmp_path / "there", tmp_path / "back"
    for source, target in ((root, there), (there, back)):
        for name in (tag, f"sha256-{digest[7:]}.sig"):
            run("skopeo", "copy", "-q", f"oci:{source}:{name}", f"oci:{target}:{name}")
        run("skopeo", "copy", "-q", "--all", f"oci:{source}:sha256-{digest[7:]}", f"oci:{target}:sha256-{digest[7:]}")
    store = opened(back)
    release = store.release("shop")
    assert release.digest == digest
    assert store.evidence(digest).signatures[0]
    assert store.tree(digest) == tree
    prepared = [store.prepare_image(stratum) for stratum in release.strata]
    assert {Path(item.path).name: Path(item.path).read_bytes() for item in prepared} == before
    assert store.verify(release)["images"] == 2


def test_a_release_copied_without_its_tags_is_unsigned(layout, tmp_path):
    root, tag, _ = layout("zstd")
    run("skopeo", "copy", "-q", f"oci:{root}:{tag}", f"oci:{tmp_path / 'there'}:{tag}")
    store = opened(tmp_path / "there")
    assert store.find("shop")
    with pytest.raises(Exception, match=r"store\.unsigned"):
        store.release("shop")


@pytest.mark.root
def test_umoci_unpacks_a_release_sealed_with_gzip(layout, tmp_path):
    root, tag, digest = layout("gzip")
    run("umoci", "unpack", "--image", f"{root}:{tag}", tmp_path / "bundle")
    rootfs = tmp_path / "bundle" / "rootfs"
    store = opened(root)
    tree = store.tree(digest)
    found = {
        str(Path(above, name).relative_to(rootfs)).encode() for above, folders, files in os.walk(rootfs) for name in (*folders, *files)
    }
    assert found == {node.path for node in tree if node.path}
    for node in tree:
        info = (rootfs / node.path.decode()).lstat()
        assert (info.st_uid, info.st_gid) == (node.uid, node.gid), node.path
        if node.kind != "symlink":
            assert info.st_mode & 0o7777 == node.mode, node.path
        if node.kind == "file":
            assert info.st_size == node.size
    assert (rootfs / "links/a").lstat().st_ino == (rootfs / "links/c").lstat().st_ino
    shutil.rmtree(tmp_path / "bundle")


@pytest.mark.root
@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_podman_runs_a_release(layout, compression):
    root, tag, _ = layout(compression)
    short = Path(tempfile.mkdtemp(prefix="stele-"))  # podman wants at most 50 characters
    podman = ("podman", "--root", short / "root", "--runroot", short / "run", "--storage-driver", "vfs")
    podman += ("--cgroup-manager", "cgroupfs", "--runtime", "runc")  # crun, if it is there too, does not take hybrid cgroups
    try:
        image = run(*podman, "pull", "-q", f"oci:{root}:{tag}").strip()
        limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
        assert run(*podman, "run", "--rm", "--network", "none", *limits, image) == "hello"
        said = run(
            *podman, "run", "--rm", "--network", "none", *limits, image, "/bin/busybox", "stat", "-c", "%u:%g %a", "/owned", "/links/a"
        )
        assert said.split("\n")[:2] == ["33:44 2750", "0:0 4755"]
    finally:
        run(*podman, "rmi", "-a", "-f", check=False)
        run("umount", "-R", short / "root" / "vfs", check=False)
        shutil.rmtree(short)
