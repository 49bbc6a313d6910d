"""The kernel judges the images: mounted, every path is compared with the tree; under dm-verity a flipped byte is an I/O error."""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import shutil
import stat
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from stele.host import loop, mounts, verity_device
from stele.model.tree import Node, Tree
from stele.seal import erofs, erofs_layout, forms
from tests.trees import TIME, Held, file, folder, link, trees, varied, with_folders

pytestmark = [pytest.mark.root, pytest.mark.guest]

TYPES = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
}


def made(tree: Tree, held: Held, path: Path) -> forms.Image:
    layout = erofs_layout.plan(tree.nodes)
    with path.open("w+b") as out:
        erofs.write(out.fileno(), layout, erofs.image_uuid(tree.nodes), held)
        return forms.finish_image(out.fileno(), layout.data_size, erofs.image_uuid(tree.nodes))


@contextmanager
def mounted(source: str, folder_name: Path):
    folder_name.mkdir(exist_ok=True)
    mounts.attach(mounts.mount_erofs(source), folder_name)
    try:
        yield folder_name
    finally:
        mounts.unmount_below(folder_name)


@contextmanager
def looped(path: Path):
    fd, device = loop.attach(path)
    try:
        yield device
    finally:
        os.close(fd)


def compare(top: Path, tree: Tree, held: Held) -> None:
    root = os.fsencode(top)
    found = {b""}
    for above, folders, files in os.walk(root):
        found.update(os.path.relpath(os.path.join(above, name), root) for name in (*folders, *files))
    assert found == {node.path for node in tree}
    names: dict[bytes, int] = {}
    for node in tree:
        names[node.link or node.path] = names.get(node.link or node.path, 0) + 1
    for node in tree:
        path = os.path.join(root, node.path) if node.path else root
        info = os.lstat(path)
        assert stat.S_IFMT(info.st_mode) == TYPES[node.kind], node.path
        assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns) == (
            node.mode,
            node.uid,
            node.gid,
            node.mtime * 10**9,
        ), node.path
        if node.kind == "dir":
            assert info.st_nlink == 2 + sum(child.kind == "dir" and child.path.rpartition(b"/")[0] == node.path for child in tree.nodes[1:])
        else:
            assert info.st_nlink == names[node.link or node.path]
        if node.link is not None:
            assert info.st_ino == os.lstat(os.path.join(root, node.link)).st_ino
        if node.kind in {"char", "block"}:
            assert (os.major(info.st_rdev), os.minor(info.st_rdev)) == node.rdev
        xattrs = {os.fsencode(name): os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}
        assert xattrs == dict(node.xattrs), node.path
        if node.kind == "symlink":
            assert os.readlink(path) == node.target
        elif node.kind == "file":
            with open(path, "rb") as opened:
                assert opened.read() == held.read(node.sha256), node.path
                if node.size:
                    with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as area:
                        assert area[-1:] == held.read(node.sha256)[-1:]


def test_a_mounted_image_is_the_tree(tmp_path):
    tree, held = varied()
    made(tree, held, tmp_path / "image")
    with looped(tmp_path / "image") as device, mounted(device, tmp_path / "mnt") as top:
        compare(top, tree, held)


def test_a_file_backed_mount_is_the_tree_where_the_kernel_has_it(tmp_path):
    tree, held = varied()
    made(tree, held, tmp_path / "image")
    try:
        with mounted(str(tmp_path / "image"), tmp_path / "mnt") as top:
            compare(top, tree, held)
    except OSError as error:
        assert error.errno == errno.ENOTBLK  # before 6.12, or on a file system that cannot back one


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(trees())
def test_any_mounted_image_is_its_tree(found):
    tree, held = found
    # the kernel checks what these say, and shows capabilities without a namespace's root only
    nodes = [node for node in tree if not any(name.startswith(b"security.") for name, _ in node.xattrs)]
    kept = {node.path for node in nodes}
    if len(kept) != len(tree) or b"" not in kept:
        return
    with tempfile.TemporaryDirectory() as name:
        made(tree, held, Path(name) / "image")
        with looped(Path(name) / "image") as device, mounted(device, Path(name) / "mnt") as top:
            compare(top, tree, held)


def test_what_is_as_long_as_linux_has_it_is_mounted_as_it_was(tmp_path):
    held = Held()
    nodes = {}
    for byte in {*range(1, 256)} - {ord("."), ord("/")}:
        for size in (1, 255):
            path = b"names/" + bytes([byte]) * size
            nodes[path] = file(path, bytes([byte]) * size, held)
    for size in (1, 2047, 2048, 2049, 4031, 4032, 4033, 4095):  # around the longest tail, a record of one block, and PATH_MAX
        path = b"symlink-%d" % size
        nodes[path] = Node(path=path, kind="symlink", mode=0o777, uid=0, gid=0, mtime=TIME, target=b"t" * size)
        nodes[b"file-%d" % size] = file(b"file-%d" % size, secrets.token_bytes(size), held)
    deep = b"/".join(b"%x" % (number % 16) * 255 for number in range(14))
    nodes[deep + b"/leaf"] = file(deep + b"/leaf", b"leaf", held)
    nodes[b"/".join([b"d"] * 300)] = folder(b"/".join([b"d"] * 300))
    for count, size in ((1, 0), (1, 65_535), (3, 65_000), (200, 100)):
        xattrs = tuple((b"user." + (b"%03d" % number).ljust(250, b"n"), secrets.token_bytes(size)) for number in range(count))
        for kind, node in ((b"file", file), (b"dir", None)):
            path = b"xattrs-%s-%d-%d" % (kind, count, size)
            nodes[path] = node(path, b"content" * 300, held, xattrs=xattrs) if node else folder(path, xattrs=xattrs)
    for owner in (65_536, 2**31, 2**32 - 2):
        nodes[b"owner-%d" % owner] = file(b"owner-%d" % owner, b"", held, uid=owner, gid=owner)
    tree = Tree.build(with_folders(nodes))
    made(tree, held, tmp_path / "image")
    if shutil.which("fsck.erofs"):  # guests have none
        subprocess.run(["fsck.erofs", tmp_path / "image"], capture_output=True, check=True)
    with looped(tmp_path / "image") as device, mounted(device, tmp_path / "mnt") as top:
        compare(top, tree, held)


def test_more_names_of_one_file_than_16_bits_count(tmp_path):
    held = Held()
    first = file(b"a", b"one", held)
    tree = Tree.build([folder(b""), folder(b"links"), first, *(link(b"links/%d" % number, first) for number in range(66_000))])
    made(tree, held, tmp_path / "image")
    with looped(tmp_path / "image") as device, mounted(device, tmp_path / "mnt") as top:
        info = (top / "a").stat()
        assert info.st_nlink == 66_001
        with os.scandir(top / "links") as entries:
            assert sorted(int(entry.name) for entry in entries if entry.inode() == info.st_ino) == list(range(66_000))
        assert os.path.samestat((top / "links" / "65999").stat(), info)


@pytest.fixture
def verity(tmp_path):
    """An image with one large file, and how to open it under dm-verity."""
    if not verity_device.available():
        pytest.skip("this kernel has no device-mapper with dm-verity; the guests do")
    held = Held()
    content = b"".join(number.to_bytes(4, "big") * 1024 for number in range(300))
    tree = Tree.build([folder(b""), file(b"big", content, held)])
    image = made(tree, held, tmp_path / "image")
    name = f"stele-test-{secrets.token_hex(4)}"
    yield tmp_path / "image", image, name, content
    verity_device.close_device(name)


def test_the_kernel_opens_an_image_under_dm_verity(verity, tmp_path):
    path, image, name, content = verity
    device = verity_device.open_device(path, name, data_size=image.data_size, root_hash=image.verity_root)
    with mounted(device, tmp_path / "mnt") as top:
        assert (top / "big").read_bytes() == content


def test_a_flipped_byte_under_dm_verity_is_an_io_error(verity, tmp_path):
    path, image, name, content = verity
    raw = bytearray(path.read_bytes())
    raw[raw.index(content[200 * 4096 : 201 * 4096]) + 5] ^= 1
    path.write_bytes(raw)
    device = verity_device.open_device(path, name, data_size=image.data_size, root_hash=image.verity_root)
    with mounted(device, tmp_path / "mnt") as top, (top / "big").open("rb", buffering=0) as opened:
        assert os.pread(opened.fileno(), 4096, 0) == content[:4096]
        with pytest.raises(OSError, match=os.strerror(errno.EIO)) as raised:
            os.pread(opened.fileno(), 4096, 200 * 4096)
        assert raised.value.errno == errno.EIO


def test_another_root_hash_is_refused_by_the_kernel(verity):
    path, image, name, _ = verity
    from stele.trust.errors import SteleError

    try:
        device = verity_device.open_device(path, name, data_size=image.data_size, root_hash="0" * 64)
    except SteleError as error:
        assert error.code == "run.verity-refused"
        return
    with pytest.raises(OSError):
        Path(device).read_bytes()
