"""The tar form of strata: read back by Python's tarfile, by GNU tar, and by the strict reader of sources."""

from __future__ import annotations

import io
import subprocess
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings

from stele.model.release import Descriptor, Stratum
from stele.model.tree import Tree
from stele.seal import tar
from stele.seal.rebuild import LayerRebuilder
from stele.trust.digest import sha256
from stele.trust.errors import SteleError
from tests.trees import Held, file, folder, trees, varied

KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.DIRTYPE: "dir",
    tarfile.SYMTYPE: "symlink",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
    tarfile.FIFOTYPE: "fifo",
}


def packed(tree: Tree, held: Held) -> bytes:
    return b"".join(tar.stream(tree.nodes, held))


def stratum_of(data: bytes) -> Stratum:
    layer = Descriptor(media_type="", digest=sha256(data), size=len(data))
    return Stratum(name="base", diff_id=sha256(data), layer=layer, image="", image_size=0, data_size=0, verity_root="")


def raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def test_pythons_tarfile_reads_what_was_written():
    tree, held = varied()
    with tarfile.open(fileobj=io.BytesIO(packed(tree, held)), errors="surrogateescape") as archive:
        members = archive.getmembers()
        assert [raw(member.name) for member in members] == [node.path or b"." for node in tree]
        for node, member in zip(tree, members, strict=True):
            assert (member.mode, member.uid, member.gid, member.mtime) == (node.mode, node.uid, node.gid, node.mtime)
            if node.link is not None:
                assert member.islnk()
                assert raw(member.linkname) == node.link
                continue
            assert KINDS[member.type] == node.kind
            assert raw(member.linkname) == node.target
            assert (member.devmajor, member.devminor) == node.rdev
            if node.kind == "file":
                assert archive.extractfile(member).read() == held.read(node.sha256)
            found = {key.removeprefix("SCHILY.xattr."): raw(value) for key, value in member.pax_headers.items() if key.startswith("SCHILY")}
            assert {raw(key): value for key, value in found.items()} == dict(node.xattrs)


def test_gnu_tar_lists_every_member_without_complaint(tmp_path):
    tree, held = varied()
    (tmp_path / "layer.tar").write_bytes(packed(tree, held))
    done = subprocess.run(
        ["tar", "--numeric-owner", "-tvf", "layer.tar"],
        cwd=tmp_path,
        capture_output=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
    )
    assert len(done.stdout.splitlines()) == len(tree)
    complaints = [line for line in done.stderr.decode().splitlines() if "SCHILY.xattr" not in line and "hdrcharset" not in line]
    assert complaints == []


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(trees())
def test_any_tree_comes_back_from_its_layer(made):
    tree, held = made
    data = packed(tree, held)
    assert LayerRebuilder().nodes(io.BytesIO(data), stratum_of(data)) == tree.nodes


def test_a_tree_of_everything_comes_back_from_its_layer():
    tree, held = varied()
    data = packed(tree, held)
    assert LayerRebuilder().nodes(io.BytesIO(data), stratum_of(data)) == tree.nodes


def test_a_layer_that_is_not_the_sealed_one_is_refused():
    tree, held = varied()
    data = packed(tree, held)
    with pytest.raises(SteleError) as raised:
        LayerRebuilder().nodes(io.BytesIO(data.replace(b"one inode", b"two inode")), stratum_of(data))
    assert raised.value.code == "release.rebuild-differs"


def test_an_attribute_name_that_tar_cannot_express_is_refused():
    held = Held()
    tree = Tree.build([folder(b""), file(b"a", b"", held, xattrs=((b"user.a=b", b"c"),))])
    with pytest.raises(SteleError) as raised:
        packed(tree, held)
    assert raised.value.code == "seal.xattr-not-supported"


@pytest.mark.parametrize("length", range(90, 110))
def test_names_around_the_limit_of_a_header_are_kept(length):
    held = Held()
    tree = Tree.build([folder(b""), file(b"n" * length, b"x", held)])
    data = packed(tree, held)
    assert LayerRebuilder().nodes(io.BytesIO(data), stratum_of(data)) == tree.nodes
