"""The tree's canonical bytes: one spelling, every rule of docs/spec/tree.md enforced on reading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stele.model import tree
from stele.model.names import MAX_ID, MAX_SIZE, MAX_TIME, doubtful, name_fault
from stele.model.tree import Node, Tree
from stele.trust import canonical
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "tree.json").read_text())
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
ROOT = Node(path=b"", kind="dir", mode=0o755, uid=0, gid=0, mtime=0)


def node(path: bytes, kind: Any = "file", **more: Any) -> Node:
    plain: dict[str, Any] = {"mode": 0o777 if kind == "symlink" else 0o644, "uid": 0, "gid": 0, "mtime": 0}
    if kind == "file":
        plain["sha256"] = EMPTY
    if kind == "symlink":
        plain["target"] = b"to"
    return Node(path=path, kind=kind, **{**plain, **more})


names = st.binary(min_size=1, max_size=12).filter(lambda raw: b"/" not in raw and b"\0" not in raw and raw not in {b".", b".."})
xattrs = st.dictionaries(names, st.binary(max_size=9), max_size=3).map(lambda d: tuple(sorted(d.items())))


@st.composite
def trees(draw: Any) -> Tree:
    nodes = {b"": ROOT}
    folders = [b""]
    for name in draw(st.lists(names, max_size=12)):
        above = draw(st.sampled_from(folders))
        path = above + b"/" + name if above else name
        if path in nodes:
            continue
        kind = draw(st.sampled_from(["file", "dir", "symlink", "char", "fifo"]))
        more: dict[str, Any] = {
            "uid": draw(st.integers(0, MAX_ID)),
            "mtime": draw(st.integers(0, MAX_TIME)),
            "xattrs": draw(xattrs),
        }
        if kind == "file":
            more |= {"size": draw(st.integers(0, MAX_SIZE)), "sha256": draw(st.binary(min_size=32, max_size=32)).hex()}
        if kind == "symlink":
            more["target"] = draw(names)
        if kind == "char":
            more["rdev"] = (draw(st.integers(0, 4095)), draw(st.integers(0, 1048575)))
        if kind == "dir":
            folders.append(path)
        nodes[path] = node(path, kind, **more)
    files = sorted(path for path, each in nodes.items() if each.kind != "dir")
    if files and draw(st.booleans()):
        first = files[-1]
        nodes.setdefault(first + b"~", msgspec.structs.replace(nodes[first], path=first + b"~", link=first))
    return Tree.build(nodes.values())


@given(trees())
def test_decoding_gives_the_tree_back(one: Tree) -> None:
    data = one.encode()
    assert tree.decode(data) == one
    assert tree.decode(data).encode() == data


@given(trees(), names)
def test_a_line_is_found_where_it_lies(one: Tree, other: bytes) -> None:
    data = one.encode()
    for each in one.nodes:
        place = tree.found_in(data, each.path)
        assert place is not None
        assert tree.decode_line(data[slice(*place)]) == each
    for path in {other, *(each.path + b"!" for each in one.nodes)} - {each.path for each in one.nodes}:
        assert tree.found_in(data, path) is None


@given(trees())
def test_every_line_is_canonical_json(one: Tree) -> None:
    header, *lines = one.encode().splitlines()
    assert header + b"\n" == tree.TREE_HEADER
    for line, each in zip(lines, one.nodes, strict=True):
        record = canonical.decode(line)
        assert tree.unquote(record["path"]) == each.path


@settings(max_examples=300)
@given(trees(), st.data())
def test_no_changed_byte_decodes_to_the_same_tree(one: Tree, data: st.DataObject) -> None:
    raw = bytearray(one.encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    try:
        other = tree.decode(bytes(raw))
    except SteleError as error:
        assert error.code in {"tree.invalid", "tree.bad-path"}
    else:
        assert other != one
        assert other.encode() == bytes(raw)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_with_a_code(raw: bytes) -> None:
    for data in (raw, tree.TREE_HEADER + raw, tree.TREE_HEADER + raw + b"\n"):
        with pytest.raises(SteleError) as caught:
            tree.decode(data)
        assert caught.value.code in {"tree.invalid", "tree.bad-path"}


@given(st.binary())
def test_quoting_is_undone_by_unquoting(raw: bytes) -> None:
    assert tree.unquote(tree.quote(raw)) == raw


@pytest.mark.parametrize("text", ["%2f%", "%e9", "%41", "a b", "é", "%", "%4", "a\x7f", "%+1", "%0x"])
def test_a_second_spelling_of_a_path_is_refused(text: str) -> None:
    with pytest.raises(SteleError, match=r"tree\.bad-path"):
        tree.unquote(text)


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_vectors(vector: dict[str, str]) -> None:
    data = vector["tree"].encode("ascii")
    if vector["expect"] == "ok":
        assert sha256(data) == vector["digest"]
        assert tree.decode(data).digest() == vector["digest"]
    else:
        with pytest.raises(SteleError) as caught:
            tree.decode(data)
        assert caught.value.code == vector["expect"]


BAD: dict[str, list[Node]] = {
    "no root": [node(b"a")],
    "root is a file": [node(b"")],
    "no parent": [ROOT, node(b"a/b")],
    "parent is a file": [ROOT, node(b"a"), node(b"a/b")],
    "twice": [ROOT, node(b"a"), node(b"a")],
    "dot dot": [ROOT, node(b"..")],
    "dot": [ROOT, node(b".", "dir")],
    "NUL": [ROOT, node(b"a\0")],
    "absolute": [ROOT, node(b"/a")],
    "long component": [ROOT, node(b"a" * 256)],
    "mode of more than 12 bits": [ROOT, node(b"a", mode=0o100644)],
    "negative owner": [ROOT, node(b"a", uid=-1)],
    "owner minus one": [ROOT, node(b"a", gid=2**32 - 1)],
    "negative time": [ROOT, node(b"a", mtime=-1)],
    "no digest": [ROOT, node(b"a", sha256="")],
    "upper-case digest": [ROOT, node(b"a", sha256=EMPTY.upper())],
    "a directory with content": [ROOT, node(b"a", "dir", size=1)],
    "a file with a target": [ROOT, node(b"a", target=b"b")],
    "a symlink without target": [ROOT, node(b"a", "symlink", target=b"")],
    "a symlink with a mode": [ROOT, node(b"a", "symlink", mode=0o644)],
    "a link to nothing": [ROOT, node(b"a", link=b"0")],
    "a link to a later name": [ROOT, node(b"a", link=b"b"), node(b"b")],
    "a link to a link": [ROOT, node(b"a"), node(b"b", link=b"a"), node(b"c", link=b"b")],
    "a link that differs": [ROOT, node(b"a"), node(b"b", link=b"a", mode=0o600)],
    "a linked directory": [ROOT, node(b"a", "dir"), node(b"b", "dir", link=b"a")],
    "unsorted xattrs": [ROOT, node(b"a", xattrs=((b"b", b""), (b"a", b"")))],
    "repeated xattrs": [ROOT, node(b"a", xattrs=((b"a", b""), (b"a", b"")))],
    "device numbers of a file": [ROOT, node(b"a", rdev=(1, 1))],
}


@pytest.mark.parametrize("name", BAD)
def test_what_breaks_a_rule_is_no_tree(name: str) -> None:
    with pytest.raises(SteleError, match=r"tree\.invalid"):
        Tree.build(BAD[name])
    data = Tree(tuple(BAD[name])).encode()
    try:
        assert tree.decode(data).nodes != tuple(BAD[name])  # the offending field has no spelling
    except SteleError as error:
        assert error.code in {"tree.invalid", "tree.bad-path"}


@pytest.mark.parametrize("name", BAD)
def test_what_breaks_a_rule_is_found_among_many_that_are_alike(name: str) -> None:
    around = [node(path) for path in (b"!", b"zy", b"zz")] + [node(b"z", "dir"), node(b"z/z", "symlink")]
    for bad in (BAD[name], [*BAD[name], *around], [*around, *BAD[name]]):
        with pytest.raises(SteleError, match=r"tree\.invalid"):
            Tree.build(bad)


@given(trees(), st.lists(st.tuples(names, st.sampled_from(["file", "dir", "symlink"]), st.integers(0, 0o10000)), max_size=4), st.data())
def test_adding_nodes_makes_the_tree_of_them_and_of_what_was_there(
    one: Tree, new: list[tuple[bytes, Any, int]], data: st.DataObject
) -> None:
    folders = data.draw(st.lists(st.sampled_from([each.path for each in one.nodes]), min_size=len(new), max_size=len(new)))
    paths = [above + b"/" + name if above else name for above, (name, _, _) in zip(folders, new, strict=True)]
    added = {
        path: node(path, kind, **({} if kind == "symlink" else {"mode": mode})) for path, (_, kind, mode) in zip(paths, new, strict=True)
    }
    # what was the first name of a file and is replaced is told of in another test
    linked = {each.link for each in one.nodes}
    added = {path: each for path, each in added.items() if path not in linked}
    try:
        expected = Tree.build({**{each.path: each for each in one.nodes}, **added}.values())
    except SteleError:
        with pytest.raises(SteleError, match=r"tree\.invalid"):
            one.with_nodes(added.values())
    else:
        assert one.with_nodes(added.values()) == expected


@given(st.lists(st.one_of(names, st.sampled_from([b"a" * 255, b"a" * 256, b".", b"..", b"", b"a\0", b"...", b".a"])), max_size=4))
def test_a_name_is_at_fault_if_a_part_of_it_is(parts: list[bytes]) -> None:
    bad = not parts or any(not part or part in {b".", b".."} or len(part) > 255 or b"\0" in part for part in parts)
    assert bool(name_fault(b"/".join(parts))) == bad
    assert not bad or b"/".join(parts) in doubtful([b"a", b"/".join(parts), b"b/c"])


def test_a_tree_of_more_lines_than_are_made_at_a_time_is_one_spelling_too() -> None:
    paths = [b"f%05d" % number for number in range(9000)] + ["ü ".encode() + bytes([number]) for number in range(128, 200)]
    one = Tree.build([ROOT, *map(node, paths)])
    data = one.encode()
    assert data == tree.joined(map(tree.line, one.nodes))
    assert one.lines() == [line + b"\n" for line in tree.lines_of(data)]
    assert tree.decode(data) == one
    for at in (len(tree.TREE_HEADER), len(data) // 2, len(data) - 1):
        for other in (b"\n", b" ", b'{"gid":0}\n'):
            with pytest.raises(SteleError, match=r"tree\.invalid"):
                tree.decode(data[:at] + other + data[at:])


def test_order_of_nodes_given_does_not_matter_and_order_of_lines_does() -> None:
    one = Tree.build([node(b"b"), ROOT, node(b"a")])
    assert one == Tree.build([ROOT, node(b"a"), node(b"b")])
    lines = one.encode().splitlines(keepends=True)
    with pytest.raises(SteleError, match=r"tree\.invalid"):
        tree.decode(b"".join([*lines[:2], lines[3], lines[2]]))


def test_lookup_finds_exact_paths_and_what_lies_below() -> None:
    one = Tree.build([ROOT, *(node(path, "dir") for path in (b"a", b"a/b")), node(b"a-b"), node(b"a/b/c"), node(b"a0")])
    assert one.get(b"a/b/c") is not None
    assert one.get(b"a/") is None
    assert [each.path for each in one.below(b"a")] == [b"a/b", b"a/b/c"]
    assert len(one.below(b"")) == len(one) - 1


def test_replacing_the_first_name_of_a_file_promotes_the_next() -> None:
    linked = [node(b"a"), node(b"b", link=b"a"), node(b"c", link=b"a")]
    one = Tree.build([ROOT, *linked])
    after = one.with_nodes([node(b"a", size=1, sha256="1" * 64)])
    assert [each.link for each in after.nodes[1:]] == [None, None, b"b"]
    assert [each.path for each in one.with_nodes([], without={b"a", b"b"}).nodes] == [b"", b"c"]
