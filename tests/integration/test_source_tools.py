"""Images as real tools make them: podman, skopeo and umoci; and what a folder says only to root."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from stele.seal import sources
from stele.seal.sources.source import Source
from stele.trust.errors import SteleError

pytestmark = pytest.mark.root
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep


def run(*argv: str | Path) -> bytes:
    return subprocess.run([str(part) for part in argv], check=True, capture_output=True, timeout=120).stdout


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root folder with what usually goes lost: owners, odd modes, hard links, capabilities, names that are not UTF-8."""
    folder = tmp_path_factory.mktemp("tools") / "root"
    folder.mkdir(mode=0o755)
    for name in ("usr", "usr/bin", "usr/lib", "var", "var/lib", "var/lib/postgres", "tmp", "dev", "etc"):
        (folder / name).mkdir(mode=0o755)
    (folder / "bin").symlink_to("usr/bin")
    (folder / "usr" / "bin" / "tool").write_bytes(os.urandom(200_000))
    (folder / "usr" / "bin" / "tool").chmod(0o4755)
    (folder / "usr" / "bin" / "again").hardlink_to(folder / "usr" / "bin" / "tool")
    (folder / "usr" / "lib" / ("deep" * 40)).write_text("long name")
    Path(os.fsdecode(os.fsencode(folder) + b"/etc/caf\xe9")).write_text("latin")
    (folder / "var" / "lib" / "postgres" / "data").write_text("1")
    for path in (folder / "var" / "lib" / "postgres", folder / "var" / "lib" / "postgres" / "data"):
        os.chown(path, 999, 998)
        path.chmod(0o700)
    (folder / "tmp").chmod(0o1777)
    (folder / "usr" / "bin" / "ping").write_text("ping")
    os.setxattr(folder / "usr" / "bin" / "ping", "security.capability", CAPABILITY)
    os.mknod(folder / "dev" / "null", 0o20666, os.makedev(1, 3))
    return folder


def load(path: Path, **options: str) -> Source:
    with sources.load(path, **options) as source:  # type: ignore[arg-type]
        for node in source.tree.files():
            source.contents.read(node.sha256)
        return source


def tar_of(root: Path, target: Path) -> Path:
    run("tar", "--xattrs", "--xattrs-include=*", "-C", root, "-cf", target, ".")
    return target


@pytest.mark.needs("podman", "umoci", "skopeo", "tar")
def test_podman_umoci_and_skopeo_give_the_tree_that_the_folder_gives(root: Path, tmp_path: Path) -> None:
    expected = load(root)
    with tempfile.TemporaryDirectory(prefix="st", dir="/var/tmp") as store:  # podman's run folder must have a short path
        podman = ["podman", "--root", f"{store}/s", "--runroot", f"{store}/r", "--storage-driver", "vfs"]
        run(*podman, "import", "-q", tar_of(root, tmp_path / "root.tar"), "app:1")
        run(*podman, "save", "-q", "-o", tmp_path / "docker.tar", "app:1")
        run(*podman, "save", "-q", "--format", "oci-archive", "-o", tmp_path / "oci.tar", "app:1")
        run(*podman, "save", "-q", "--format", "oci-dir", "-o", tmp_path / "ocidir", "app:1")
    run("skopeo", "copy", "-q", f"docker-archive:{tmp_path / 'docker.tar'}", f"oci:{tmp_path / 'layout'}:v1")
    run("skopeo", "copy", "-q", f"docker-archive:{tmp_path / 'docker.tar'}", f"dir:{tmp_path / 'dir'}")
    with pytest.raises(SteleError) as raised:
        load(tmp_path / "dir")
    assert "oci:" in raised.value.reason
    assert load(tmp_path / "dir", kind="folder").tree.get(b"manifest.json") is not None
    run("umoci", "init", "--layout", tmp_path / "umoci")
    run("umoci", "new", "--image", f"{tmp_path / 'umoci'}:base")
    run("umoci", "insert", "--image", f"{tmp_path / 'umoci'}:base", root, "/")
    for name in ("docker.tar", "oci.tar", "ocidir", "layout", "umoci"):
        found = load(tmp_path / name)
        assert found.tree.encode().decode() == expected.tree.encode().decode(), name
        assert found.tree.digest() == expected.tree.digest(), name


@pytest.mark.needs("umoci")
def test_layers_that_umoci_made_of_changes_give_the_changed_tree(root: Path, tmp_path: Path) -> None:
    run("umoci", "init", "--layout", tmp_path / "umoci")
    run("umoci", "new", "--image", f"{tmp_path / 'umoci'}:v")
    run("umoci", "insert", "--image", f"{tmp_path / 'umoci'}:v", root, "/")
    run("umoci", "unpack", "--image", f"{tmp_path / 'umoci'}:v", tmp_path / "bundle")
    changed = tmp_path / "bundle" / "rootfs"
    (changed / "usr" / "bin" / "again").unlink()
    shutil.rmtree(changed / "var" / "lib" / "postgres")
    (changed / "bin").unlink()
    (changed / "bin").mkdir(mode=0o755)
    (changed / "bin" / "sh").write_text("new")
    (changed / "usr" / "lib" / "new").hardlink_to(changed / "usr" / "bin" / "ping")
    run("umoci", "repack", "--image", f"{tmp_path / 'umoci'}:v", tmp_path / "bundle")
    layered, plain = load(tmp_path / "umoci").tree, load(changed).tree
    # umoci writes a name that joins an inode as a file of its own: the same bytes, one link less
    for tree in (layered, plain):
        assert tree.get(b"usr/bin/again") is None
        assert not tree.below(b"var/lib")
        assert tree.get(b"bin/sh") is not None
    assert [node.path for node in layered] == [node.path for node in plain]
    assert [(node.sha256, node.mode, node.uid) for node in layered] == [(node.sha256, node.mode, node.uid) for node in plain]


def test_owners_modes_links_and_capabilities_of_a_folder_are_kept(root: Path) -> None:
    tree = load(root).tree
    found = {name: tree.get(name) for name in (b"var/lib/postgres", b"usr/bin/tool", b"usr/bin/ping", b"tmp", b"usr/bin/again")}
    assert all(found.values())
    postgres, tool, ping, tmp, again = (node for node in found.values() if node is not None)
    assert (postgres.uid, postgres.gid, postgres.mode) == (999, 998, 0o700)
    assert (tool.mode, tool.link, again.link, again.mode) == (0o4755, b"usr/bin/again", None, 0o4755)
    assert ping.xattrs == ((b"security.capability", CAPABILITY),)
    assert tmp.mode == 0o1777
    assert not tree.below(b"dev")


def test_who_seals_does_not_matter(root: Path, tmp_path: Path) -> None:
    run("cp", "-a", root, tmp_path / "copy")
    owned = [path for path in (tmp_path / "copy").rglob("*") if path.lstat().st_uid == 0]
    for path in [tmp_path / "copy", *owned]:
        mode = path.lstat().st_mode
        raw = None if path.is_symlink() or path.name != "ping" else os.getxattr(path, "security.capability")
        os.chown(path, 1234, 1235, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(mode & 0o7777)  # chown takes set-id bits and capabilities away
        if raw:
            os.setxattr(path, "security.capability", raw)
    assert load(tmp_path / "copy").tree.digest() == load(root).tree.digest()


@pytest.mark.parametrize(("kind", "device"), [(0o20000, (1, 3)), (0o60000, (8, 0)), (0o20000, (0, 0))])
def test_devices_outside_dev_are_refused(root: Path, tmp_path: Path, kind: int, device: tuple[int, int]) -> None:
    run("cp", "-a", root, tmp_path / "copy")
    os.mknod(tmp_path / "copy" / "etc" / "odd", kind | 0o600, os.makedev(*device))
    with pytest.raises(SteleError) as caught:
        load(tmp_path / "copy")
    assert caught.value.code == "seal.device-node"
    assert ("overlay" in caught.value.reason) == (device == (0, 0))


def test_what_the_user_may_not_read_is_named_with_a_remedy(root: Path, tmp_path: Path) -> None:
    """The child is another user; it answers through a socket pair, its exit status says that it got that far."""
    run("cp", "-a", root, tmp_path / "copy")
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and path != path.parent and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            load(tmp_path / "copy")
        except SteleError as error:
            theirs.send(f"{error.code} {error.reason}".encode())
        os._exit(0)
    theirs.close()
    assert os.waitpid(child, 0)[1] == 0
    with ours:
        said = ours.recv(1000).decode()
    assert said.startswith("seal.unreadable /var/lib/postgres cannot be read"), said
