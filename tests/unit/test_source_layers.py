"""Layers applied in memory: deletions, replacements, hard links; every way out of the tree is refused."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stele.model.tree import Tree
from stele.seal.inode import Inode, Notes
from stele.seal.normalise import tree_of
from stele.seal.sources.layers import apply_layer, read_layer
from stele.seal.sources.source import Limits
from stele.seal.sources.spool import Spool
from stele.seal.sources.stream import Budget, Reader
from stele.seal.sources.tar import TarReader
from stele.trust.errors import SteleError
from tests.archives import END, file, folder, header, link, pax, symlink

SHARE = b"SCHILY.xattr."


def flatten(*layers: bytes, notes: Notes | None = None) -> Tree:
    notes = notes or Notes()
    root = Inode(kind="dir")
    spool = Spool()
    try:
        for number, data in enumerate(layers, 1):
            tar = TarReader(Reader(iter([data + END]), f"layer {number}"), Budget(Limits()))
            apply_layer(root, number, *read_layer(tar, spool, notes))
        return tree_of(root, time=0, notes=notes)
    finally:
        spool.close()


def paths(*layers: bytes) -> list[bytes]:
    return [node.path for node in flatten(*layers).nodes[1:]]


def kinds(*layers: bytes) -> dict[bytes, str]:
    return {node.path: node.kind for node in flatten(*layers).nodes[1:]}


def refused(code: str, *layers: bytes) -> None:
    with pytest.raises(SteleError) as caught:
        flatten(*layers)
    assert caught.value.code == code


BASE = folder(b"etc/") + file(b"etc/a", b"old") + folder(b"etc/d/") + file(b"etc/d/x") + file(b"top")


# --- what layers mean


def test_a_whiteout_deletes_what_lies_below_and_nothing_else() -> None:
    assert paths(BASE, file(b"etc/.wh.a", b"")) == [b"etc", b"etc/d", b"etc/d/x", b"top"]
    assert paths(BASE, file(b"etc/.wh.d", b"")) == [b"etc", b"etc/a", b"top"]
    assert paths(BASE, file(b".wh.etc", b"")) == [b"top"]
    assert paths(BASE, file(b"etc/.wh.nothing", b"")) == paths(BASE)
    assert paths(BASE, file(b"nowhere/.wh.a", b"")) == paths(BASE)


def test_a_link_target_of_a_whiteout_means_nothing_and_is_refused_of_a_file() -> None:
    """Of an overlay, whose deleted entries share an inode, archives have the first one's path as that of the others."""
    target = pax([(b"linkpath", b"caf\xe9")])
    assert paths(BASE, file(b"etc/.wh.a", b"") + target + file(b"etc/.wh.d", b"")) == [b"etc", b"top"]
    assert paths(BASE, target + file(b"etc/.wh..wh..opq", b"")) == [b"etc", b"top"]
    refused("seal.bad-archive", BASE, target + file(b"etc/wh.a", b""))
    refused("seal.bad-archive", target + folder(b".wh.etc"))


def test_a_whiteout_beside_an_addition_deletes_only_the_old_one_in_either_order() -> None:
    parts = [file(b"etc/.wh.d", b""), folder(b"etc/d"), file(b"etc/d/new")]
    for order in itertools.permutations(parts):
        assert paths(BASE, b"".join(order)) == [b"etc", b"etc/a", b"etc/d", b"etc/d/new", b"top"]


def test_an_opaque_folder_hides_what_lies_below_and_keeps_what_is_new() -> None:
    parts = [folder(b"etc"), file(b"etc/.wh..wh..opq", b""), file(b"etc/new")]
    for order in itertools.permutations(parts):
        assert paths(BASE, b"".join(order)) == [b"etc", b"etc/new", b"top"]
    assert paths(BASE, file(b".wh..wh..opq", b"")) == []


def test_an_opaque_folder_in_the_place_of_a_symlink_is_a_new_folder() -> None:
    assert kinds(BASE + symlink(b"l", b"etc"), folder(b"l") + file(b"l/.wh..wh..opq", b"") + file(b"l/n")) == {
        **kinds(BASE),
        b"l": "dir",
        b"l/n": "file",
    }


def test_the_later_layer_replaces_whatever_the_kind() -> None:
    assert kinds(BASE, symlink(b"etc", b"/elsewhere")) == {b"etc": "symlink", b"top": "file"}
    assert kinds(BASE, file(b"etc")) == {b"etc": "file", b"top": "file"}
    assert kinds(BASE, folder(b"top") + file(b"top/in"))[b"top"] == "dir"
    assert flatten(BASE, file(b"etc/a", b"newer")).get(b"etc/a").size == 5  # type: ignore[union-attr]


def test_a_folder_named_again_keeps_its_children_and_takes_the_new_owner() -> None:
    tree = flatten(BASE, folder(b"etc", mode=0o700, uid=33, gid=34))
    etc = tree.get(b"etc")
    assert etc is not None
    assert (etc.mode, etc.uid, etc.gid) == (0o700, 33, 34)
    assert tree.get(b"etc/d/x") is not None


def test_parents_that_no_layer_names_are_plain_folders_of_root() -> None:
    node = flatten(file(b"a/b/c", uid=5)).get(b"a/b")
    assert node is not None
    assert (node.kind, node.mode, node.uid, node.gid) == ("dir", 0o755, 0, 0)


def test_a_parent_named_after_its_children_counts() -> None:
    node = flatten(file(b"a/b") + folder(b"a", mode=0o711)).get(b"a")
    assert node is not None
    assert node.mode == 0o711


def test_hard_links_within_a_layer_and_to_lower_ones_share_one_inode() -> None:
    tree = flatten(BASE, file(b"z", b"data") + link(b"y", b"z") + link(b"x", b"y") + link(b"m", b"./etc/a"))
    links = {node.path: node.link for node in tree.nodes if node.kind == "file"}
    assert links == {b"etc/a": None, b"etc/d/x": None, b"m": b"etc/a", b"top": None, b"x": None, b"y": b"x", b"z": b"x"}


def test_a_replaced_name_of_a_hard_link_leaves_the_others_as_they_were() -> None:
    tree = flatten(file(b"a", b"old") + link(b"b", b"a"), file(b"a", b"newer"))
    a, b = tree.nodes[1:]
    assert (a.size, b.size, a.link, b.link) == (5, 3, None, None)


def test_a_hard_link_to_a_symlink_is_one_symlink_with_two_names() -> None:
    tree = flatten(symlink(b"a", b"to") + link(b"b", b"a"))
    assert [(node.kind, node.link) for node in tree.nodes[1:]] == [("symlink", None), ("symlink", b"a")]


def test_identical_folders_twice_in_a_layer_are_one() -> None:
    assert paths(folder(b"a") + file(b"a/b") + folder(b"a/")) == [b"a", b"a/b"]


def test_the_order_within_a_layer_does_not_matter() -> None:
    parts = [folder(b"a", mode=0o700), file(b"a/b"), symlink(b"c", b"a"), file(b".wh.top", b"")]
    trees = {flatten(BASE, b"".join(order)).digest() for order in itertools.permutations(parts)}
    assert len(trees) == 1


def test_aufs_bookkeeping_means_nothing() -> None:
    assert paths(BASE, folder(b".wh..wh.plnk") + file(b".wh..wh.plnk/1.2") + file(b".wh..wh.aufs", b"")) == paths(BASE)


def test_capabilities_and_user_xattrs_are_kept_and_others_noted() -> None:
    notes = Notes()
    v2 = bytes.fromhex("0100000200040000000000000000000000000000")
    v3 = bytes.fromhex("0100000300040000000000000000000000000000e8030000")
    said = [
        (SHARE + b"security.capability", v3),
        (SHARE + b"user.a", b"1"),
        (SHARE + b"trusted.overlay.opaque", b"y"),
        (SHARE + b"security.selinux", b"system_u"),
        (SHARE + b"system.posix_acl_access", b"\2"),
    ]
    tree = flatten(pax(said) + file(b"a") + pax([(SHARE + b"security.capability", b"junk")]) + file(b"b"), notes=notes)
    assert tree.nodes[1].xattrs == ((b"security.capability", v2), (b"user.a", b"1"))
    assert tree.nodes[2].xattrs == ()
    assert len(notes.lines()) == 4


def test_devices_below_dev_are_left_out_and_elsewhere_refused() -> None:
    null = {"rdev": (1, 3)}
    assert paths(folder(b"dev") + header(b"dev/null", b"3", **null)) == [b"dev"]  # type: ignore[arg-type]
    for flag in (b"3", b"4"):
        refused("seal.device-node", header(b"etc/disk", flag, rdev=(8, 0)))
    refused("seal.device-node", header(b"gone", b"3"))


# --- attacks


def test_an_entry_below_a_symlink_is_refused() -> None:
    refused("seal.symlink-ancestor", symlink(b"out", b"/etc"), file(b"out/passwd"))
    refused("seal.symlink-ancestor", symlink(b"out", b"/etc") + file(b"out/passwd"))
    refused("seal.symlink-ancestor", file(b"out/passwd") + symlink(b"out", b"/etc"))
    refused("seal.symlink-ancestor", symlink(b"a", b"."), folder(b"a/b/c"))
    refused("seal.symlink-ancestor", symlink(b"a", b"."), symlink(b"a/b", b"c"))


def test_an_entry_below_a_file_is_refused() -> None:
    refused("seal.symlink-ancestor", BASE, file(b"top/in"))
    refused("seal.symlink-ancestor", BASE, file(b"etc/d") + file(b"etc/d/y"))


def test_an_entry_below_a_hard_link_that_replaces_a_folder_is_refused() -> None:
    refused("seal.symlink-ancestor", BASE, file(b"etc/d/deep/y") + link(b"etc/d", b"top"))


def test_a_deletion_through_a_symlink_is_refused() -> None:
    refused("seal.symlink-ancestor", BASE + symlink(b"l", b"etc"), file(b"l/.wh.a", b""))
    refused("seal.symlink-ancestor", BASE + symlink(b"l", b"/etc"), file(b"l/.wh..wh..opq", b""))
    refused("seal.symlink-ancestor", BASE + symlink(b"l", b"etc"), symlink(b"l", b"etc/d") + file(b"l/.wh.a", b""))


@pytest.mark.parametrize("name", [b".wh.", b".wh..", b".wh...", b"etc/.wh..", b"etc/.wh..."])
def test_a_deletion_of_the_folder_itself_or_its_parent_is_refused(name: bytes) -> None:
    refused("seal.path-escapes", BASE, file(name, b""))


def test_a_deletion_that_is_a_folder_or_has_children_is_refused() -> None:
    refused("seal.reserved-name", BASE, folder(b"etc/.wh.a"))
    refused("seal.reserved-name", BASE, file(b".wh.etc/a"))
    refused("seal.reserved-name", BASE, symlink(b".wh.etc", b"a"))


@pytest.mark.parametrize("target", [b"missing", b"etc", b"etc/a/b", b"new", b"self", b"later", b"etc/link/a", b"etc/.wh.a"])
def test_a_hard_link_to_nothing_a_folder_itself_or_something_later_is_refused(target: bytes) -> None:
    layer = folder(b"new") + link(b"self", b"self") if target == b"self" else folder(b"new") + link(b"h", target) + file(b"later")
    refused("seal.bad-link", BASE + symlink(b"etc/link", b"d"), layer)


def test_a_hard_link_through_a_symlink_is_refused() -> None:
    refused("seal.bad-link", BASE + symlink(b"l", b"etc"), link(b"h", b"l/a"))


def test_a_hard_link_to_what_the_same_layer_deletes_is_refused() -> None:
    refused("seal.bad-link", BASE, link(b"h", b"etc/a") + file(b"etc/.wh.a", b""))


def test_hard_links_in_a_ring_are_refused() -> None:
    refused("seal.bad-link", link(b"a", b"b") + link(b"b", b"a"))


def test_a_long_chain_of_hard_links_is_one_inode() -> None:
    chain = file(b"0") + b"".join(link(b"%d" % (n + 1), b"%d" % n) for n in range(3000))
    assert len({node.link for node in flatten(chain).nodes[1:]}) == 2


def test_a_path_twice_in_a_layer_is_refused() -> None:
    refused("seal.duplicate-entry", file(b"a", b"1") + file(b"a", b"2"))
    refused("seal.duplicate-entry", file(b"a", b"1") + file(b"./a", b"1"))
    refused("seal.duplicate-entry", folder(b"a") + folder(b"a", mode=0o700))
    refused("seal.duplicate-entry", folder(b"a") + symlink(b"a", b"b"))
    refused("seal.duplicate-entry", symlink(b"a", b"b") + link(b"a", b"c"))


def test_a_very_deep_tree_is_walked_without_recursion() -> None:
    assert len(paths(pax([(b"path", b"/".join([b"d"] * 2000))]) + file(b"x"))) == 2000


names = st.sampled_from([b"a", b"b", b"a/b", b"b/a", b"a/b/c", b"c", b".wh.a", b"a/.wh.b", b"a/.wh..wh..opq", b"b/a/c"])
members = st.one_of(
    names.map(lambda name: file(name, b"" if b".wh." in name else name)),
    names.map(folder),
    st.tuples(names, names).map(lambda pair: symlink(*pair)),
    st.tuples(names, names).map(lambda pair: link(*pair)),
)


@settings(max_examples=400)
@given(st.lists(st.lists(members, max_size=5).map(b"".join), min_size=1, max_size=4))
def test_any_layers_give_a_valid_tree_or_a_refusal(layers: list[bytes]) -> None:
    try:
        flatten(*layers)
    except SteleError as error:
        assert error.code in {
            "seal.symlink-ancestor",
            "seal.bad-link",
            "seal.duplicate-entry",
            "seal.reserved-name",
        }
