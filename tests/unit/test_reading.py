"""Files are read by whoever has time, and what is found out of them does not depend on who that was."""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from pathlib import Path

import pytest

from stele.host import states
from stele.seal.hands import Hands
from stele.seal.sources.reading import READ, Reader, Reading, Wanted
from stele.trust.errors import SteleError
from tests.children import children

COUNT = 700  # several batches


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(COUNT):
        folder = tmp_path / f"{number % 7}" / "deep"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}").write_bytes(b"%d" % number * (number % 50))
    (tmp_path / "0/deep/0").write_bytes(os.urandom(3 << 20))
    (tmp_path / "0/deep/7").write_bytes(b"\xa7\r\r\n" + bytes(12) + b"code")
    os.setxattr(tmp_path / "0/deep/14", "user.note", b"kept")
    return tmp_path


def reading_of(reader: Reader, hands: Hands) -> Reading:
    hands.serve(READ, reader.serve)
    return Reading(reader, hands)


def read(root: Path):
    room = mmap.mmap(-1, 1 << 20)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        reader, at, paths = Reader(fd, room), 0, []
        with Hands() as hands, reading_of(reader, hands) as reading:
            for folder in sorted(root.iterdir()):
                path = os.fsencode(folder.name) + b"/deep"
                reading.folder(path)
                for file in sorted((folder / "deep").iterdir()):
                    info = file.lstat()
                    keeps = info.st_size < 4096
                    paths.append((path + b"/" + os.fsencode(file.name), at if keeps else -1))
                    reading.add(Wanted(os.fsencode(file.name), states.of(info), at if keeps else -1))
                    at += info.st_size if keeps else 0
            found = list(reading.results())
        return [(path, each, at) for (path, at), each in zip(paths, found, strict=True)], room
    finally:
        os.close(fd)


def check(root: Path) -> None:
    found, room = read(root)
    assert len(found) == COUNT
    for path, each, at in found:
        data = (root / os.fsdecode(path)).read_bytes()
        assert each is not None
        assert each.sha256 == hashlib.sha256(data).hexdigest()
        assert at < 0 or room[at : at + len(data)] == data
        assert each.compiled == ((0, 0) if path == b"0/deep/7" else None)
        assert each.xattrs == ({b"user.note": b"kept"} if path == b"0/deep/14" else {})


def test_helpers_read_what_this_process_would(root):
    check(root)


def test_threads_read_it_where_no_process_can_be_forked(root):
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()
    try:
        check(root)
    finally:
        stop.set()
        other.join()


def test_what_changed_or_went_is_not_told_of_and_named_by_who_reads_it_again(root):
    room = mmap.mmap(-1, 4096)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        reader = Reader(fd, room)
        names = [b"7", b"14", b"21", b"28", b"35"]
        wanted = [Wanted(name, states.of((root / "0/deep" / os.fsdecode(name)).lstat()), 100 * at) for at, name in enumerate(names)]
        folder = root / "0/deep"
        (folder / "7").write_bytes(b"longer than it was" * 10)
        (folder / "14").unlink()
        (folder / "21").unlink()
        os.mkfifo(folder / "21")
        (folder / "28").unlink()
        (folder / "28").symlink_to("35")
        with Hands() as hands, reading_of(reader, hands) as reading:
            reading.folder(b"0/deep")
            for each in wanted:
                reading.add(each)
            found = list(reading.results())
        assert [each is not None for each in found] == [False, False, False, False, True]
        for each in wanted[:4]:
            with pytest.raises(SteleError) as caught:
                reader.one(b"0/deep/" + each.name, each.state, each.at)
            assert caught.value.code == "seal.source-changed"
    finally:
        os.close(fd)


@pytest.mark.parametrize("found", ["/dev/zero", "/dev/urandom"])
def test_what_has_no_end_is_not_read_without_end(found):
    """As a device that took the place of a large file, or a file to which somebody writes faster than it is read."""
    fd = os.open("/dev", os.O_RDONLY | os.O_DIRECTORY)
    try:
        reader = Reader(fd, mmap.mmap(-1, 4096))
        state = list(states.of(os.stat(found)))
        state[states.SIZE] = 3 << 20
        with pytest.raises(SteleError) as caught:
            reader.one(os.fsencode(Path(found).name), tuple(state), -1)
        assert caught.value.code == "seal.source-changed"
    finally:
        os.close(fd)


def test_where_no_thread_is_to_be_had_the_caller_reads_all(root, monkeypatch):
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    check(root)


def test_a_walk_that_fails_leaves_nobody_behind(root):
    room = mmap.mmap(-1, 4096)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    threads, processes = set(threading.enumerate()), children()

    def fail() -> None:
        with Hands() as hands, reading_of(Reader(fd, room), hands) as reading:
            for folder in sorted(root.iterdir()):
                reading.folder(os.fsencode(folder.name) + b"/deep")
                for file in sorted((folder / "deep").iterdir()):
                    reading.add(Wanted(os.fsencode(file.name), states.of(file.lstat()), -1))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    os.close(fd)
    assert set(threading.enumerate()) <= threads
    assert children() <= processes
