"""Opening below a folder, by one call or component by component: the same is opened, the same is refused."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from stele.host import below


@pytest.fixture
def root(tmp_path: Path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_bytes(b"content")
    (tmp_path / "a/link").symlink_to("b")
    (tmp_path / "a/b/out").symlink_to("/etc/passwd")
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def by_component(root: int, path: bytes, flags: int) -> int:
    return below._by_component(root, path.split(b"/"), flags | os.O_NOFOLLOW | os.O_CLOEXEC)


@pytest.mark.parametrize("opened", [below.open_below, by_component])
def test_what_is_there_is_opened(root, opened):
    fd = opened(root, b"a/b/file", os.O_RDONLY)
    assert os.read(fd, 100) == b"content"
    assert not os.get_inheritable(fd)
    os.close(fd)


@pytest.mark.parametrize("opened", [below.open_below, by_component])
@pytest.mark.parametrize(
    ("path", "numbers"),
    [
        (b"a/link/file", {errno.ELOOP, errno.ENOTDIR}),
        (b"a/b/out", {errno.ELOOP}),
        (b"a/link", {errno.ELOOP}),
        (b"a/b/file/x", {errno.ENOTDIR}),
        (b"a/none/x", {errno.ENOENT}),
    ],
)
def test_a_symlink_is_never_followed(root, opened, path, numbers):
    with pytest.raises(OSError) as caught:
        opened(root, path, os.O_RDONLY)
    assert caught.value.errno in numbers


@pytest.mark.parametrize("path", [b"/etc/passwd", b"..", b"a/../a", b"a/./b", b"a//b", b"a/", b"./a", b"a/b\0/file"])
def test_a_path_that_is_not_plain_is_refused(root, path):
    with pytest.raises(ValueError, match="not a plain relative path"):
        below.open_below(root, path, os.O_RDONLY)
