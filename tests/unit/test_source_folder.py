"""A folder as source: what is read, what is refused, and that nothing but content matters."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stele.model.spec import DEFAULT_TIME
from stele.seal import contents, normalise, sources
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable

BIG = os.urandom(300_000)


def make(folder: Path, *, order: int = 1) -> Path:
    """A small tree with every ordinary kind of file, its names created in one order or the other."""
    folder.mkdir()
    folder.chmod(0o755)
    for name in sorted(["bin", "etc", "empty", "srv"])[::order]:
        (folder / name).mkdir(mode=0o755)
    files = {"bin/app": b"#!/bin/true\n", "etc/conf": b"a=1\n", "srv/big": BIG, "srv/caf\udce9": b"", "etc/same": b"a=1\n"}
    for name in sorted(files)[::order]:
        path = os.path.join(folder, name)
        Path(path).write_bytes(files[name])
        os.chmod(path, 0o755 if name.startswith("bin") else 0o644)
    os.link(folder / "srv/big", folder / "bin/big")
    (folder / "etc/link").symlink_to("../srv/nowhere")
    os.mkfifo(folder / "srv/queue", 0o600)
    os.chmod(folder / "srv/queue", 0o600)
    return folder


def test_every_kind_of_file_is_in_the_tree(tmp_path: Path) -> None:
    with sources.load(make(tmp_path / "root")) as source:
        tree = source.tree
        assert [node.path for node in tree] == sorted(node.path for node in tree)
        big = tree.get(b"bin/big")
        other = tree.get(b"srv/big")
        assert big is not None
        assert other is not None
        assert (big.link, other.link) == (None, b"bin/big")
        assert big.sha256 == other.sha256 == hashlib.sha256(BIG).hexdigest()
        link = tree.get(b"etc/link")
        assert link is not None
        assert (link.kind, link.target) == ("symlink", b"../srv/nowhere")
        fifo = tree.get(b"srv/queue")
        assert fifo is not None
        assert (fifo.kind, fifo.mode) == ("fifo", 0o600)
        assert tree.get(b"srv/caf\xe9") is not None
        assert {node.mtime for node in tree} == {DEFAULT_TIME}
        assert source.kind == "folder"


def test_contents_are_those_that_the_tree_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stele.seal.sources import folder

    for kept in (0, 64 << 20):
        monkeypatch.setattr(folder, "KEPT", kept)
        root = tmp_path / f"root{kept}"
        with sources.load(make(root)) as source:
            for node in source.tree.files():
                data = Path(os.fsdecode(os.fsencode(root) + b"/" + node.path)).read_bytes()
                assert source.contents.read(node.sha256) == data
                assert b"".join(source.contents.chunks(node.sha256, 1000)) == data
                assert source.contents.size(node.sha256) == len(data)
                with source.contents.open(node.sha256) as stream:
                    assert stream.read(5) + stream.read() == data


def test_order_place_time_and_umask_do_not_matter(tmp_path: Path) -> None:
    with sources.load(make(tmp_path / "one")) as source:
        first = source.tree
    make(tmp_path / "other place", order=-1)
    os.utime(tmp_path / "other place" / "etc" / "conf", (1, 1))
    (tmp_path / "other place").chmod(0o700)
    with sources.load(tmp_path / "other place") as source:
        assert source.tree.digest() == first.digest()
    shutil.copytree(tmp_path / "one", tmp_path / "copy", symlinks=True, ignore=lambda *_: ["queue"])
    with sources.load(tmp_path / "copy") as source:
        assert source.tree != first


def test_a_symlink_as_source_is_followed_but_never_one_inside(tmp_path: Path) -> None:
    make(tmp_path / "root")
    (tmp_path / "root" / "out").symlink_to(tmp_path)
    (tmp_path / "way").symlink_to("root")
    with sources.load(tmp_path / "way") as source:
        out = source.tree.get(b"out")
        assert out is not None
        assert out.kind == "symlink"
        assert not source.tree.below(b"out")


def test_mount_points_are_emptied_and_kept(tmp_path: Path) -> None:
    root = make(tmp_path / "root")
    for name in ("dev", "proc", "run"):
        (root / name / "inner").mkdir(parents=True)
    (root / "run" / "lock").write_text("1")
    with sources.load(root) as source:
        assert [source.tree.below(name) for name in normalise.MOUNT_POINTS] == [(), (), (), ()]
        assert source.tree.get(b"dev") is not None
        assert sum("left out" in note for note in source.notes) == 3


def test_a_mount_point_that_is_a_symlink_is_refused(tmp_path: Path) -> None:
    root = make(tmp_path / "root")
    (root / "proc").symlink_to("/proc")
    with pytest.raises(SteleError, match=r"seal\.bad-mount-point"):
        sources.load(root)


def test_a_program_named_run_is_sealed(tmp_path: Path) -> None:
    root = make(tmp_path / "root")
    (root / "run").write_text("#!/bin/sh\n")
    with sources.load(root) as source:
        found = source.tree.get(b"run")
        assert found is not None
        assert found.kind == "file"


def test_sockets_are_left_out_with_a_note(tmp_path: Path) -> None:
    root = make(tmp_path / "root")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(root, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{here}/sock")
        os.close(here)
        with sources.load(root) as source:
            assert source.tree.get(b"sock") is None
            assert "sockets left out: 1 (/sock)" in source.notes


def test_a_name_that_means_deletion_in_layers_is_refused(tmp_path: Path) -> None:
    root = make(tmp_path / "root")
    (root / "etc" / ".wh.conf").touch()
    with pytest.raises(SteleError, match=r"seal\.reserved-name"):
        sources.load(root)


def test_user_xattrs_are_kept_and_overlay_marks_are_not(tmp_path: Path) -> None:
    root = make(tmp_path / "root")
    try:
        os.setxattr(root / "etc" / "conf", "user.note", b"\x00\xff")
        os.setxattr(root / "etc" / "conf", "user.overlay.opaque", b"y")
    except OSError:
        pytest.skip("the temporary folder's file system has no user xattrs")
    with sources.load(root) as source:
        found = source.tree.get(b"etc/conf")
        assert found is not None
        assert found.xattrs == ((b"user.note", b"\x00\xff"),)
        assert any("user.overlay.opaque left out" in note for note in source.notes)


def test_a_missing_source_or_a_plain_file_is_no_folder(tmp_path: Path) -> None:
    for path, kind in ((tmp_path / "none", "auto"), (Path(__file__), "folder"), (tmp_path, "docker-archive")):
        with pytest.raises(SteleError, match=r"seal\.source-missing"):
            sources.load(path, kind=kind)  # type: ignore[arg-type]


# --- what changes meanwhile


def test_content_that_changed_after_the_walk_is_not_streamed_as_the_old(tmp_path: Path) -> None:
    root = make(tmp_path / "root")
    digest = hashlib.sha256(BIG).hexdigest()

    def rewritten(path: Path) -> None:
        path.write_bytes(BIG[::-1])

    def grown(path: Path) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    def cut(path: Path) -> None:
        os.truncate(path, 10)

    def gone(path: Path) -> None:
        path.unlink()

    def swapped_for_a_symlink(path: Path) -> None:
        path.rename(path.with_name("aside"))
        path.symlink_to("aside")

    def swapped_for_a_fifo(path: Path) -> None:
        path.unlink()
        os.mkfifo(path)

    def swapped_for_a_folder(path: Path) -> None:
        path.unlink()
        path.mkdir()

    changes: list[Callable[[Path], None]] = [
        rewritten, grown, cut, gone, swapped_for_a_symlink, swapped_for_a_fifo, swapped_for_a_folder
    ]  # fmt: skip
    for number, change in enumerate(changes):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(root, copy, symlinks=True, ignore=lambda *_: ["queue"])
        (copy / "bin" / "big").unlink()
        with sources.load(copy) as source:
            change(copy / "srv" / "big")
            with pytest.raises(SteleError, match=r"seal\.source-changed"):
                for _ in source.contents.chunks(digest):
                    pass
            with pytest.raises(SteleError, match=r"seal\.source-changed"):
                source.contents.fill(digest, memoryview(bytearray(source.contents.size(digest))))


def test_a_file_that_its_disk_does_not_give_any_more_is_named(tmp_path: Path) -> None:
    """As memory that no process has: reading it at its beginning fails with EIO."""
    fd = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
    held = contents.Contents({"0" * 64: contents.InFolder(b"mem", 4096)}, folder=fd)
    for read in (lambda: list(held.chunks("0" * 64)), lambda: held.fill("0" * 64, memoryview(bytearray(4096)))):
        with pytest.raises(SteleError, match=r"/mem cannot be read: Input/output error") as caught:
            read()
        assert caught.value.code == "seal.unreadable"
        assert "dmesg" in caught.value.remedy
    held.close()


def test_a_folder_on_the_way_that_becomes_a_symlink_is_noticed(tmp_path: Path) -> None:
    root = make(tmp_path / "root")
    (root / "bin" / "big").unlink()
    with sources.load(root) as source:
        (root / "srv").rename(root / "srv2")
        (root / "srv").symlink_to("srv2")
        with pytest.raises(SteleError, match=r"seal\.source-changed"):
            source.contents.read(hashlib.sha256(BIG).hexdigest())


def test_a_folder_that_is_written_to_all_the_while_is_never_sealed_in_a_mixed_state(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    pair = [root / "a", root / "b"]
    for path in pair:
        path.write_bytes(bytes(200_000))
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for path in pair:
                new = path.with_suffix(".new")
                new.write_bytes(bytes([number % 256]) * 200_000)
                new.rename(path)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(20):
            try:
                with sources.load(root) as source:
                    nodes = [source.tree.get(b"a"), source.tree.get(b"b")]
                    for node in nodes:
                        assert node is not None
                        source.contents.read(node.sha256)
            except SteleError as error:
                assert error.code == "seal.source-changed"
                assert error.retryable
    finally:
        stop.set()
        writer.join()


# --- byte code that checks times


def pyc(source: Path, *, mtime: int | None = None, flags: int = 0) -> bytes:
    info = source.stat()
    when = int(info.st_mtime) if mtime is None else mtime
    return b"\xa7\r\r\n" + struct.pack("<III", flags, when & 0xFFFFFFFF, info.st_size & 0xFFFFFFFF) + b"code"


def python_tree(root: Path) -> Path:
    (root / "lib" / "__pycache__").mkdir(parents=True)
    (root / "lib" / "mod.py").write_text("x = 1\n")
    os.utime(root / "lib" / "mod.py", (1_700_000_000.7, 1_700_000_000.7))
    return root / "lib"


def mtime_of(root: Path, path: bytes, time: int = DEFAULT_TIME) -> int:
    with sources.load(root, time=time) as source:
        node = source.tree.get(path)
        assert node is not None
        return node.mtime


@pytest.mark.parametrize("name", ["__pycache__/mod.cpython-311.pyc", "__pycache__/mod.cpython-311.opt-2.pyc", "mod.pyc"])
def test_a_source_with_valid_byte_code_keeps_its_time(tmp_path: Path, name: str) -> None:
    lib = python_tree(tmp_path)
    (lib / name).write_bytes(pyc(lib / "mod.py"))
    assert mtime_of(tmp_path, b"lib/mod.py") == 1_700_000_000
    assert mtime_of(tmp_path, b"lib/" + name.encode()) == DEFAULT_TIME


def test_stale_or_hash_checked_byte_code_keeps_no_time(tmp_path: Path) -> None:
    lib = python_tree(tmp_path)
    cached = lib / "__pycache__" / "mod.cpython-311.pyc"
    for data in (pyc(lib / "mod.py", mtime=5), pyc(lib / "mod.py", flags=1), pyc(lib / "mod.py")[:12], b""):
        cached.write_bytes(data)
        assert mtime_of(tmp_path, b"lib/mod.py") == DEFAULT_TIME
    cached.unlink()
    (lib / "__pycache__" / "other.cpython-311.pyc").write_bytes(pyc(lib / "mod.py"))
    assert mtime_of(tmp_path, b"lib/mod.py") == DEFAULT_TIME


def test_stale_byte_code_does_not_come_to_life_by_the_release_time(tmp_path: Path) -> None:
    lib = python_tree(tmp_path)
    (lib / "__pycache__" / "mod.cpython-311.pyc").write_bytes(pyc(lib / "mod.py", mtime=DEFAULT_TIME))
    (lib / "__pycache__" / "mod.cpython-312.pyc").write_bytes(pyc(lib / "mod.py", mtime=DEFAULT_TIME + 1))
    assert mtime_of(tmp_path, b"lib/mod.py") == DEFAULT_TIME + 2


def test_python_itself_finds_the_byte_code_valid(tmp_path: Path) -> None:
    import importlib.util
    import py_compile

    lib = python_tree(tmp_path)
    made = py_compile.compile(str(lib / "mod.py"), invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP)
    assert made == importlib.util.cache_from_source(str(lib / "mod.py"))
    kept = mtime_of(tmp_path, b"lib/mod.py")
    header = Path(made).read_bytes()[8:12]
    assert int.from_bytes(header, "little") == kept


def test_a_kept_content_is_not_read_twice(tmp_path: Path) -> None:
    root = make(tmp_path / "root")
    with sources.load(root) as source:
        shutil.rmtree(root / "etc")
        node = source.tree.get(b"etc/conf")
        assert node is not None
        assert source.contents.read(node.sha256) == b"a=1\n"
        more = source.contents.extended({"x": b"y"})
        assert more.read("x") == b"y"
        assert more.position(node.sha256) == (0, 0, b"")
        with pytest.raises(KeyError):
            source.contents.read("x")
        assert isinstance(more, contents.Contents)
