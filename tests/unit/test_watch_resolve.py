"""Names as another task means them: inside its root, with its own /proc/self."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stele.host import procfs


@pytest.fixture
def root(tmp_path: Path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "true").write_text("inside")
    (tmp_path / "abs").symlink_to("/bin/true")
    (tmp_path / "up").symlink_to("../../../../bin/true")
    (tmp_path / "loop").symlink_to("/loop")
    (tmp_path / "proc").symlink_to("/nowhere")
    fd = os.open(tmp_path, procfs.O_PATH)
    yield fd
    os.close(fd)


def read(fd: int) -> str:
    path = f"/proc/self/fd/{fd}"
    text = Path(path).read_text()
    os.close(fd)
    return text


@pytest.mark.parametrize("path", [b"/bin/true", b"/abs", b"/up", b"/../bin/true", b"/bin/../../bin/true", b"//bin//./true"])
def test_no_link_and_no_dots_lead_out_of_the_root(root: int, path: bytes):
    assert read(procfs.resolve(root, -1, os.getpid(), procfs.AT_FDCWD, path)) == "inside"
    assert read(procfs._walk(root, os.getpid(), os.dup(root), path)) == "inside", "the walk agrees with the kernel"


@pytest.mark.parametrize("path", [b"/etc/passwd", b"/loop", b"/bin/true/x", b"/proc/x"])
def test_what_is_not_inside_is_not_found(root: int, path: bytes):
    with pytest.raises(OSError):
        procfs.resolve(root, -1, os.getpid(), procfs.AT_FDCWD, path)


def test_proc_self_is_the_task_that_was_asked_about(tmp_path: Path):
    """A child's /proc/self/exe and descriptors, resolved from here."""
    read_end, write_end = os.pipe()
    (tmp_path / "held").write_text("held by the child")
    pid = os.fork()
    if pid == 0:
        os.close(write_end)
        held = os.open(tmp_path / "held", os.O_RDONLY)
        os.dup2(held, 1013)
        os.chdir(tmp_path)
        os.read(read_end, 1)
        os._exit(0)
    os.close(read_end)
    root = os.open("/", procfs.O_PATH)
    try:
        while not os.path.exists(f"/proc/{pid}/fd/1013") or os.readlink(f"/proc/{pid}/cwd") != str(tmp_path):
            pass
        for path in (
            b"/proc/self/fd/1013",
            b"/dev/fd/1013",
            b"/proc/thread-self/fd/1013",
            b"/proc/%d/fd/1013" % pid,
            b"/proc/self/cwd/held",
            b"held",
        ):
            assert read(procfs.resolve(root, -1, pid, procfs.AT_FDCWD, path)) == "held by the child", path
        assert read(procfs.resolve(root, -1, pid, 1013, b"", empty_path=True)) == "held by the child"
        with pytest.raises(FileNotFoundError):
            procfs.resolve(root, -1, pid, 1013, b"")
        with pytest.raises(FileNotFoundError):
            procfs.resolve(root, -1, pid, procfs.AT_FDCWD, b"/proc/self/fd/1012")
    finally:
        os.close(root)
        os.close(write_end)
        os.waitpid(pid, 0)


def test_memory_of_a_task_is_read_within_bounds():
    import ctypes

    text = ctypes.create_string_buffer(b"x" * 5000)
    pointers = (ctypes.c_char_p * 4)(b"one", b"two", b"y" * 300, None)
    memory = os.open("/proc/self/mem", os.O_RDONLY)
    try:
        assert procfs.read_text(memory, ctypes.addressof(text) + 4990, 4096) == b"x" * 10
        with pytest.raises(OSError):
            procfs.read_text(memory, ctypes.addressof(text), 4096)
        with pytest.raises(OSError):
            procfs.read_text(memory, 8, 4096)
        assert procfs.read_argv(memory, ctypes.addressof(pointers), most=64, size=4096) == ("one", "two", "y" * 300)
        assert procfs.read_argv(memory, ctypes.addressof(pointers), most=2, size=4096) == ("one", "two")
        assert procfs.read_argv(memory, ctypes.addressof(pointers), most=64, size=5) == ("one", "t")
        assert procfs.read_argv(memory, 8, most=64, size=4096) == ()
    finally:
        os.close(memory)
