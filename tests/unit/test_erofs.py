"""EROFS images: judged by fsck.erofs, dump.erofs and a strict reader; the kernel judges in tests/integration/test_erofs_mount.py."""

from __future__ import annotations

import os
import random
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stele.model.tree import Node, Tree
from stele.seal import erofs, erofs_layout
from stele.seal.forms import finish_image
from stele.trust.errors import SteleError
from tests import erofs_reader
from tests.trees import Held, file, folder, trees, varied


def image(tree: Tree, held: Held, target: Path) -> Path:
    with target.open("w+b") as out:
        erofs.write(out.fileno(), erofs_layout.plan(tree.nodes), erofs.image_uuid(tree.nodes), held)
    return target


def fsck(path: Path) -> None:
    done = subprocess.run(["fsck.erofs", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "error" not in (done.stdout + done.stderr).lower(), done.stdout + done.stderr


def same(found: dict[bytes, erofs_reader.Found], tree: Tree, held: Held) -> None:
    assert sorted(found) == [node.path for node in tree]
    for node in tree:
        have = found[node.path]
        assert (have.kind, have.mode, have.uid, have.gid, have.mtime) == (node.kind, node.mode, node.uid, node.gid, node.mtime), node.path
        assert have.rdev == node.rdev
        assert have.xattrs == dict(node.xattrs)
        if node.kind == "file":
            assert have.content == held.read(node.sha256)
        elif node.kind == "symlink":
            assert have.content == node.target
        if node.link is not None:
            assert have.nid == found[node.link].nid


def test_an_image_of_everything_is_read_back_the_same(tmp_path):
    tree, held = varied()
    path = image(tree, held, tmp_path / "image")
    fsck(path)
    same(erofs_reader.read(path), tree, held)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(trees())
def test_any_tree_makes_an_image_that_fsck_accepts_and_that_reads_back_the_same(made):
    tree, held = made
    with tempfile.TemporaryDirectory() as folder_name:
        path = image(tree, held, Path(folder_name) / "image")
        fsck(path)
        same(erofs_reader.read(path), tree, held)


def test_dump_erofs_agrees_on_the_superblock(tmp_path):
    tree, held = varied()
    path = image(tree, held, tmp_path / "image")
    said = subprocess.run(["dump.erofs", "-s", path], capture_output=True, text=True, check=True).stdout
    values = {key.strip(): value.strip() for key, value in re.findall(r"(.*?):\s{2,}(.*)", said)}
    assert values["Filesystem inode count"] == str(sum(node.link is None for node in tree))
    assert values["Filesystem blocks"] == str(path.stat().st_size // 4096)
    assert values["Filesystem features"].split() == ["sb_csum"]


def test_dump_erofs_agrees_on_an_inode(tmp_path):
    tree, held = varied()
    path = image(tree, held, tmp_path / "image")
    said = subprocess.run(["dump.erofs", "--path=/links/a", path], capture_output=True, text=True, check=True).stdout
    assert re.search(r"Links: 3\b", said)
    assert "Access: 0755/" in said  # it shows nine bits
    assert "Size: 22 " in said


def test_contents_may_be_placed_in_any_order_and_in_any_pieces(tmp_path):
    tree, held = varied()
    expected = image(tree, held, tmp_path / "image").read_bytes()
    layout = erofs_layout.plan(tree.nodes)
    places = [(digest, at) for digest in layout.pieces() for at in range(0, len(held.read(digest)), 777)]
    random.Random(1).shuffle(places)
    with (tmp_path / "other").open("w+b") as out:
        erofs.write_structure(out.fileno(), layout, erofs.image_uuid(tree.nodes))
        for digest, at in places:
            erofs.place(out.fileno(), layout.pieces()[digest], held.read(digest)[at : at + 777], at)
    assert (tmp_path / "other").read_bytes() == expected


@given(st.binary(max_size=200), st.integers(4, 300))
def test_the_checksum_of_zeros_behind_is_that_of_all_byte_by_byte(data, zeros):
    crc = 0xFFFF_FFFF
    for byte in data + bytes(zeros):
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F6_3B78 if crc & 1 else 0)
    assert erofs.crc32c(data, zeros) == crc


def test_equal_contents_are_stored_once(tmp_path):
    held = Held()
    one = Tree.build([folder(b""), file(b"a", b"x" * 200_000, held)])
    three = Tree.build([folder(b""), *(file(name, b"x" * 200_000, held) for name in (b"a", b"b", b"c"))])
    sizes = [image(tree, held, tmp_path / str(number)).stat().st_size for number, tree in enumerate((one, three))]
    assert sizes[0] == sizes[1]


def test_large_files_are_whole_blocks(tmp_path):
    held = Held()
    tree = Tree.build([folder(b""), file(b"library", b"x" * 65_637, held)])
    layout = erofs_layout.plan(tree.nodes)
    assert [inode.tail for inode in layout.inodes if inode.node.kind == "file"] == [0]


def test_a_content_of_another_length_is_refused(tmp_path):
    held = Held()
    node = file(b"a", b"12345", held)
    held.data[node.sha256] = b"123"
    with pytest.raises(SteleError) as raised:
        image(Tree.build([folder(b""), node]), held, tmp_path / "image")
    assert raised.value.code == "seal.source-changed"


@pytest.mark.parametrize(
    "xattrs",
    [((b"system.nfs4_acl", b"x"),), ((b"user.big", bytes(65_536)),), tuple((b"user.%02d" % n, bytes(60_000)) for n in range(5))],
)
def test_xattrs_that_erofs_cannot_hold_are_refused(xattrs, tmp_path):
    held = Held()
    with pytest.raises(SteleError) as raised:
        image(Tree.build([folder(b""), file(b"a", b"", held, xattrs=xattrs)]), held, tmp_path / "image")
    assert raised.value.code == "seal.xattr-not-supported"


def test_a_file_larger_than_four_gib_is_laid_out_and_fsck_accepts_it(tmp_path):
    size = (5 << 30) + 3
    nodes = (folder(b""), Node(path=b"big", kind="file", mode=0o644, uid=0, gid=0, mtime=0, size=size, sha256="0" * 64))
    layout = erofs_layout.plan(nodes)
    path = tmp_path / "image"
    with path.open("w+b") as out:  # sparse: its content is zeros
        erofs.write_structure(out.fileno(), layout, erofs.image_uuid(nodes))
    assert os.stat(path).st_blocks < 1000
    said = subprocess.run(["dump.erofs", "--path=/big", path], capture_output=True, text=True, check=True).stdout
    assert f"Size: {size} " in said


def test_zeros_are_holes_in_the_file_and_the_same_bytes(tmp_path, monkeypatch):
    held = Held()
    content = os.urandom(5000) + bytes(8 << 20) + os.urandom(5000)
    tree = Tree.build([folder(b""), file(b"zeros", bytes(8 << 20), held), file(b"some", content, held)])

    def made(name: str) -> Path:
        path = image(tree, held, tmp_path / name)
        with path.open("r+b") as out:
            finish_image(out.fileno(), erofs_layout.plan(tree.nodes).data_size, bytes(16))
        return path

    sparse = made("sparse")
    monkeypatch.setattr("stele.host.durable.is_hole", lambda _: False)
    full = made("full")
    assert sparse.read_bytes() == full.read_bytes()
    assert sparse.stat().st_blocks * 512 < (3 << 20)
    assert full.stat().st_blocks * 512 > (16 << 20)
    fsck(sparse)
