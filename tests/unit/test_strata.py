"""Cutting a tree into strata: what goes where, and what a change moves."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from stele.model import spec as specs
from stele.model.tree import Tree
from stele.seal import strata
from stele.seal.packages import Package
from tests.trees import Held, file, folder, link, with_folders

SPEC = specs.parse_yaml(b"stele: 0\nname: a\ncommand: [/x]\nsettings: [{path: /etc/app.conf, content: x}]\n")


def tree_of(files: dict[bytes, int], *more) -> Tree:
    """Files by path and size (their contents do not matter here), with the directories above."""
    held = Held()
    nodes = {node.path: node for node in more}
    nodes.update((path, msgspec.structs.replace(file(path, path, held), size=size)) for path, size in files.items())
    return Tree.build(with_folders(nodes))


def package(name: str, *paths: bytes, ecosystem: str = "deb", database: tuple[bytes, ...] = ()) -> Package:
    return Package(ecosystem=ecosystem, name=name, version="1", paths=paths, database=database)  # type: ignore[arg-type]


def by_name(tree: Tree, packages=()) -> dict[str, list[bytes]]:
    return {piece.name: [n.path for n in piece.nodes if n.kind != "dir"] for piece in strata.cut(tree, SPEC, packages)}


def test_each_path_goes_where_it_belongs():
    tree = tree_of(
        {
            b"usr/bin/tool": 9, b"usr/lib/python3/x.py": 5, b"usr/lib/python3/__pycache__/x.cpython-311.pyc": 5, b"srv/app/main.py": 3,
            b"srv/node_modules/a/index.js": 3, b"srv/node_modules/.package-lock.json": 3, b"var/lib/dpkg/status": 3,
            b"var/lib/dpkg/info/tool.list": 3, b"etc/app.conf": 1, b"opt/y.py": 2,
        }
    )  # fmt: skip
    packages = [
        package("tool", b"usr/bin/tool", b"usr/lib/python3/x.py", database=(b"var/lib/dpkg/info/tool.list",)),
        package("x", b"usr/lib/python3/x.py", b"opt/y.py", ecosystem="python"),
        package("a", b"srv/node_modules/a/index.js", ecosystem="npm"),
    ]
    assert by_name(tree, packages) == {
        "system": [
            b"usr/bin/tool",
            b"usr/lib/python3/__pycache__/x.cpython-311.pyc",
            b"usr/lib/python3/x.py",
            b"var/lib/dpkg/info/tool.list",
        ],
        "python": [b"opt/y.py"],
        "npm": [b"srv/node_modules/a/index.js"],
        "files": [b"srv/app/main.py"],
        "database": [b"srv/node_modules/.package-lock.json", b"var/lib/dpkg/status"],
        "settings": [b"etc/app.conf"],
    }


def test_a_link_brings_the_directories_above_it_to_the_stratum_of_its_first_name():
    held = Held()
    first = file(b"a/first", b"x", held)
    tree = Tree.build([folder(b""), folder(b"a"), folder(b"z"), first, link(b"z/name", first)])
    (piece,) = strata.cut(tree, SPEC, [package("p", b"a/first")])
    assert piece.name == "system"
    Tree.build(piece.nodes)


SIZES = st.integers(0, 40 << 20)
TREES = st.dictionaries(st.sampled_from([f"p{at}" for at in range(60)]), SIZES, min_size=1, max_size=60)


@given(TREES, st.dictionaries(st.sampled_from([b"a/b", b"a/c/d", b"a/c/e", b"f", b"g/h/i/j", b"g/k"]), SIZES))
def test_strata_together_are_the_tree_and_each_is_a_tree(packages, files):
    tree = tree_of({**{b"opt/" + name.encode(): size for name, size in packages.items()}, **files}, folder(b"empty"), folder(b"run/empty"))
    pieces = strata.cut(tree, SPEC, [package(name, b"opt/" + name.encode()) for name in packages])
    assert len(pieces) <= 40
    assert len({piece.name for piece in pieces}) == len(pieces)
    union = {}
    for piece in pieces:
        Tree.build(piece.nodes)  # refuses what is none
        union.update({node.path: node for node in piece.nodes})
    assert tuple(sorted(union.values(), key=lambda node: node.path)) == tree.nodes
    placed = [node.path for piece in pieces for node in piece.nodes if node.kind != "dir"]
    assert len(placed) == len(set(placed))


@given(TREES, st.data())
def test_a_change_in_one_package_changes_one_stratum(packages, data):
    """As long as no size crosses a bound: here the size stays."""
    changed = data.draw(st.sampled_from(sorted(packages)))
    tree = tree_of({b"opt/" + name.encode(): size for name, size in packages.items()})
    known = [package(name, b"opt/" + name.encode()) for name in packages]
    node = tree.get(b"opt/" + changed.encode())
    after = tree.with_nodes([msgspec.structs.replace(node, sha256="0" * 64)])
    before = {piece.name: piece.nodes for piece in strata.cut(tree, SPEC, known)}
    now = {piece.name: piece.nodes for piece in strata.cut(after, SPEC, known)}
    assert before.keys() == now.keys()
    assert sum(before[name] != now[name] for name in now) == 1


def test_a_package_that_comes_or_goes_moves_no_other():
    """Within the number of parts that there may be."""
    sizes = {f"p{at}": 1 << 20 for at in range(60)}
    everything = {b"opt/" + name.encode(): size for name, size in sizes.items()}
    known = [package(name, b"opt/" + name.encode()) for name in sizes]
    where = {path: name for name, paths in by_name(tree_of(everything), known).items() for path in paths}
    for gone in everything:
        rest = tree_of({path: size for path, size in everything.items() if path != gone})
        now = {path: name for name, paths in by_name(rest, known).items() for path in paths}
        moved = {where[path] for path in now if now[path] != where[path]}
        assert len(moved) <= 2, gone  # at most the part it was in and the one that this part was divided from


def test_large_directories_are_divided_and_large_files_stand_alone():
    files = {b"data/model": 900 << 20, b"data/notes": 5, **{b"srv/d%d/f" % at: 6 << 20 for at in range(40)}}
    cut = by_name(tree_of(files))
    assert len(cut) == strata.CAPS["files"]
    assert [b"data/model"] in cut.values()


def test_the_cut_of_many_paths_costs_no_more_per_path():
    tree = tree_of({b"srv/%d/%d" % (at % 500, at): 10 for at in range(20_000)})
    assert sum(len(paths) for paths in by_name(tree).values()) == 20_000


def test_a_directory_of_many_files_is_divided_by_their_names():
    files = {b"srv/flat/%d" % number: 1000 for number in range(50_000)}
    pieces = strata.cut(tree_of(files), SPEC)
    assert len(pieces) == strata.CAPS["files"]
    sizes = [sum(node.kind == "file" for node in piece.nodes) for piece in pieces]
    assert sum(sizes) == 50_000
    assert max(sizes) < 8_000
    grown = strata.cut(tree_of({**files, b"srv/flat/one more": 1000}), SPEC)
    assert sum(piece.nodes != other.nodes for piece, other in zip(pieces, grown, strict=True)) == 1
