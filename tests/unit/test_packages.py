"""Package databases: what real tools wrote, and what nobody should have."""

from __future__ import annotations

import json
import sqlite3
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stele.model.tree import Node, Tree
from stele.seal import packages, sources
from tests.trees import TIME, Held, file, with_folders


def tree_of(held: Held, files: dict[str, bytes], links: dict[str, str] | None = None) -> Tree:
    nodes: dict[bytes, Node] = {}
    for path, content in files.items():
        nodes[path.encode()] = file(path.encode(), content, held)
    for path, target in (links or {}).items():
        nodes[path.encode()] = Node(path=path.encode(), kind="symlink", mode=0o777, uid=0, gid=0, mtime=TIME, target=target.encode())
    return Tree.build(with_folders(nodes))


def find(files: dict[str, bytes], links: dict[str, str] | None = None) -> tuple[packages.Package, ...]:
    held = Held()
    return packages.find(tree_of(held, files, links), held)


STATUS = b"""Package: tool
Status: install ok installed
Architecture: amd64
Source: toolbox (2.0)
Version: 1:2.0-1
Description: x
 Package: not-a-field

Package: gone
Status: deinstall ok config-files
Version: 1

Package: same
Status: install ok installed
Architecture: amd64
Multi-Arch: same
Version: 3
"""


def test_dpkg():
    found = find(
        {
            "var/lib/dpkg/status": STATUS,
            "var/lib/dpkg/info/tool.list": b"/.\n/bin\n/bin/tool\n/usr/bin/view\n/../../etc/shadow\n/usr/share/missing\n",
            "var/lib/dpkg/info/tool.md5sums": b"",
            "var/lib/dpkg/info/same:amd64.list": b"/usr/lib/same.so\n",
            "var/lib/dpkg/diversions": b"/usr/bin/view\n/usr/bin/view.real\nsame\n",
            "usr/bin/tool": b"1",
            "usr/bin/view": b"2",
            "usr/bin/view.real": b"3",
            "usr/lib/same.so": b"4",
        },
        links={"bin": "usr/bin"},
    )
    assert [(p.name, p.version, p.source, p.paths) for p in found] == [
        ("same", "3", "same 3", (b"usr/lib/same.so",)),
        ("tool", "1:2.0-1", "toolbox 2.0", (b"usr/bin/tool", b"usr/bin/view.real")),
    ]
    assert found[1].database == (b"var/lib/dpkg/info/tool.list", b"var/lib/dpkg/info/tool.md5sums")
    assert found[0].database == (b"var/lib/dpkg/info/same:amd64.list",)


def test_distroless():
    (found,) = find(
        {
            "var/lib/dpkg/status.d/libc6": b"Package: libc6\nVersion: 2\nArchitecture: amd64\n",
            "var/lib/dpkg/status.d/libc6.md5sums": b"d41d8cd98f00b204e9800998ecf8427e  lib/libc.so\n",
            "lib/libc.so": b"",
        }
    )
    assert (found.name, found.paths, len(found.database)) == ("libc6", (b"lib/libc.so",), 2)


def test_apk():
    installed = b"C:Q1\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\no:musl\nF:lib\nR:ld.so\na:0:0:755\nF:\nR:top\n\nP:empty\nV:1\n\n"
    found = find({"lib/apk/db/installed": installed, "lib/ld.so": b"x", "top": b""})
    assert [(p.name, p.version, p.licence, p.source, p.paths) for p in found] == [
        ("empty", "1", "", "", ()),
        ("musl", "1.2.4-r2", "MIT", "musl 1.2.4-r2", (b"lib/ld.so", b"top")),
    ]


def test_npm_scopes_nesting_and_old_licences():
    def manifest(**fields: object) -> bytes:
        return json.dumps({"version": "1.0.0", **fields}).encode()

    found = find(
        {
            "srv/node_modules/a/package.json": manifest(name="a", license="MIT"),
            "srv/node_modules/a/lib/x.js": b"",
            "srv/node_modules/a/node_modules/b/package.json": manifest(name="b", licenses=[{"type": "ISC"}]),
            "srv/node_modules/@s/c/package.json": manifest(name="@s/c", license={"type": "BSD-3-Clause"}),
            "srv/node_modules/.bin/a": b"",
            "node_modules/top/package.json": manifest(name="top"),
            "srv/node_modules/broken/package.json": b"{",
            "srv/not_node_modules/x/package.json": manifest(name="x"),
        }
    )
    assert [(p.name, p.licence, len(p.paths)) for p in found] == [
        ("@s/c", "BSD-3-Clause", 1),
        ("a", "MIT", 2),
        ("b", "ISC", 1),
        ("top", "", 1),
    ]


def test_python_as_pip_installs_it(tmp_path):
    wheel = tmp_path / "My_Tool-1.5-py3-none-any.whl"
    info = "My_Tool-1.5.dist-info"
    with zipfile.ZipFile(wheel, "w") as out:
        out.writestr("my_tool/__init__.py", "x = 1\n")
        out.writestr(f"{info}/METADATA", "Metadata-Version: 2.4\nName: My_Tool\nVersion: 1.5\nLicense-Expression: MIT\n\nName: not-this\n")
        out.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        out.writestr(f"{info}/entry_points.txt", "[console_scripts]\nmy-tool = my_tool:x\n")
        out.writestr(f"{info}/RECORD", "")
    root = tmp_path / "root"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--disable-pip-version-check", f"--root={root}"]
    subprocess.run([*pip, "--no-warn-script-location", "--root-user-action=ignore", "--ignore-installed", str(wheel)], check=True)
    with sources.load(root, kind="folder") as source:
        (found,) = packages.find(source.tree, source.contents)
        everything = {node.path for node in source.tree.nodes if node.kind == "file"}
    assert (found.name, found.version, found.licence) == ("my-tool", "1.5", "MIT")
    assert set(found.paths) | set(found.database) == everything  # the script in bin/ and the byte code, too


def test_rpm_as_rpm_installs_it(tmp_path):
    spec = tmp_path / "t.spec"
    spec.write_text(
        "Name: tool\nVersion: 1.2\nRelease: 3\nEpoch: 4\nSummary: x\nLicense: MIT\nBuildArch: noarch\n%description\nx\n"
        "%install\nmkdir -p %{buildroot}/opt/tool/sub\n"
        "echo 1 > %{buildroot}/opt/tool/a\necho 2 > %{buildroot}/opt/tool/sub/b\n%files\n/opt/tool\n"
    )
    top, root = tmp_path / "build", tmp_path / "root"
    root.mkdir()
    subprocess.run(["rpmbuild", "-bb", "--quiet", f"--define=_topdir {top}", str(spec)], check=True, capture_output=True)
    (built,) = top.rglob("*.rpm")
    install = ["rpm", f"--root={root}", "--define=_db_backend sqlite", "-i", "--nodeps", "--ignoreos", str(built)]
    subprocess.run(install, check=True, capture_output=True)
    found = list(root.rglob("rpmdb.sqlite"))
    assert found
    database = root / "usr/lib/sysimage/rpm/rpmdb.sqlite"
    if found[0] != database:  # Debian's rpm keeps it below /root
        database.parent.mkdir(parents=True)
        found[0].rename(database)
    with sources.load(root, kind="folder") as source:
        (one,) = packages.find(source.tree, source.contents)
    assert (one.name, one.version, one.licence, one.architecture) == ("tool", "4:1.2-3", "MIT", "noarch")
    assert one.source.startswith("tool-1.2-3")
    assert one.paths == (b"opt/tool/a", b"opt/tool/sub/b")


# hostile


def test_symlinks_that_go_in_circles_or_out_lead_nowhere():
    links = {"a": "b", "b": "a", "c": "../../..", "d": "/etc", "e": "e/e", **{f"l{at}": f"l{at + 1}" for at in range(60)}}
    listed = b"/a/x\n/b/x\n/c/etc/passwd\n/d/passwd\n/e/x\n/l0/x\n/" + b"x/" * 5000 + b"y\n"
    (found,) = find(
        {
            "var/lib/dpkg/status": b"Package: p\nVersion: 1\nStatus: install ok installed\n",
            "var/lib/dpkg/info/p.list": listed,
            "etc/passwd": b"",
            "l60/x": b"",
        },
        links,
    )
    assert found.paths == (b"etc/passwd",)  # through c (the root's parent is the root) and d


def test_an_rpm_database_that_would_run_for_ever_is_none(tmp_path):
    path = tmp_path / "db"
    with sqlite3.connect(path) as made:
        made.execute(
            "CREATE VIEW Packages AS WITH RECURSIVE r(hnum) AS (SELECT 1 UNION ALL SELECT hnum + 1 FROM r) "
            "SELECT hnum, zeroblob(0) AS blob FROM r"
        )
    assert find({"var/lib/rpm/rpmdb.sqlite": path.read_bytes()}) == ()


RECORDS = [
    "var/lib/dpkg/status", "var/lib/dpkg/info/p.list", "var/lib/dpkg/diversions", "lib/apk/db/installed", "var/lib/rpm/rpmdb.sqlite",
    "x/a.dist-info/METADATA", "x/a.dist-info/RECORD", "x/node_modules/a/package.json",
]  # fmt: skip
PIECES = st.sampled_from(
    [
        b"Package: p\n", b"Status: install ok installed\n", b"Version: 1\n", b"\n", b"P:x\nV:1\n", b"F:..\n", b"R:/\n", b"Name: a\n",
        b'"', b",", b'{"name":"a","version":"1","license":[1]}', b"../../x\n", b"\0", b"\xff", b"/p\n",
    ]
)  # fmt: skip


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(RECORDS), st.lists(PIECES | st.binary(max_size=20), max_size=12).map(b"".join)))
def test_no_record_breaks_the_search(records):
    held = Held()
    tree = tree_of(held, {**records, "p": b"", "x/q": b""})
    for found in packages.find(tree, held):
        assert all(tree.get(path) is not None for path in (*found.paths, *found.database))
        assert found.name.isprintable()


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(*[st.integers(0, 2**32 - 1)] * 4), max_size=4),
    st.binary(max_size=64),
)
def test_no_rpm_header_breaks_the_search(count, size, entries, data):
    known = [1000, 1001, 1116, 1117, 1118, 1003]
    index = b"".join(struct.pack(">IIII", known[tag % 6], kind % 10, offset % 80, number) for tag, kind, offset, number in entries)
    for blob in (struct.pack(">II", count, size) + index + data, struct.pack(">II", len(entries), len(data)) + index + data):
        with sqlite3.connect(":memory:") as made:
            made.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB)")
            made.execute("INSERT INTO Packages (blob) VALUES (?)", (blob,))
            made.commit()
            find({"var/lib/rpm/rpmdb.sqlite": made.serialize()})


@pytest.mark.skipif(not Path("/var/lib/dpkg/status").exists(), reason="this host is not a Debian")
def test_this_hosts_packages_as_dpkg_lists_them():
    held = Held()
    status = Path("/var/lib/dpkg/status").read_bytes()
    found = packages.find(tree_of(held, {"var/lib/dpkg/status": status}), held)
    shown = subprocess.run(
        ["dpkg-query", "-W", "-f=${db:Status-Status} ${Package} ${Version} ${Architecture}\n"], capture_output=True, text=True, check=True
    )
    expected = sorted(line.removeprefix("installed ") for line in shown.stdout.splitlines() if line.startswith("installed "))
    assert sorted(f"{p.name} {p.version} {p.architecture}" for p in found) == expected
