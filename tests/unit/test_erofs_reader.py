"""Reading contents back out of our images: all of what was written, and nothing that a damaged image could do."""

from __future__ import annotations

import os
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stele.seal import erofs, erofs_layout
from stele.seal.erofs_layout import ROOT_NID
from stele.seal.erofs_reader import BadImageError, ImageReader
from tests.trees import varied

TREE, HELD = varied()
FILE = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the tests
LAYOUT = erofs_layout.plan(TREE.nodes)
erofs.write(FILE.fileno(), LAYOUT, erofs.image_uuid(TREE.nodes), HELD)
META = min(piece.offset for pieces in LAYOUT.pieces().values() for piece in pieces if piece.offset % 4096 == 0)
PATHS = [node.path for node in TREE.nodes]


def content(reader: ImageReader, path: bytes) -> bytes | None:
    pieces = reader.find(path)
    return None if pieces is None else b"".join(reader.read(piece, 0, piece.size) for piece in pieces)


def test_every_file_is_found_and_nothing_else() -> None:
    reader = ImageReader(FILE.fileno())
    for node in TREE.nodes:
        assert content(reader, node.path) == (HELD.read(node.sha256) if node.kind == "file" else None)
    for path in (b"nowhere", b"links/nowhere", b"nowhere/a", b"sizes/1/a", b"", b"..", b"links/.."):
        assert reader.find(path) is None


@settings(deadline=None, max_examples=300)
@given(st.integers(4096, META - 1), st.binary(min_size=1, max_size=16), st.sampled_from(PATHS))
def test_a_damaged_image_gives_other_bytes_or_an_error(at: int, noise: bytes, path: bytes) -> None:
    with tempfile.TemporaryFile() as copy:
        os.pwrite(copy.fileno(), os.pread(FILE.fileno(), 1 << 24, 0), 0)
        os.pwrite(copy.fileno(), noise, at)
        reader = ImageReader(copy.fileno())
        try:
            pieces = reader.find(path)
        except BadImageError:
            return
        assert pieces is None or sum(piece.size for piece in pieces) <= os.fstat(copy.fileno()).st_size


def test_a_directory_that_is_found_again_below_itself_ends_it() -> None:
    assert ImageReader(FILE.fileno()).paths() == set(PATHS)
    name = b"d" * 40
    with tempfile.TemporaryFile() as copy:
        os.pwrite(copy.fileno(), os.pread(FILE.fileno(), 1 << 24, 0), 0)
        os.truncate(copy.fileno(), 1 << 30)  # room for many names
        reader = ImageReader(copy.fileno())
        deep = reader._folder(b"deep")
        assert deep is not None
        above = reader._inode(reader._folder(b"")[b"deep"][0]).pieces[-1].offset  # type: ignore[index]
        os.pwrite(copy.fileno(), ROOT_NID.to_bytes(8, "little"), above + sorted(deep).index(name) * erofs_layout.DIRENT)
        with pytest.raises(BadImageError):
            ImageReader(copy.fileno()).paths()


@pytest.mark.parametrize("size", [0, 1, 4096, 5000])
def test_a_shortened_image(size: int) -> None:
    with tempfile.TemporaryFile() as copy:
        os.pwrite(copy.fileno(), os.pread(FILE.fileno(), size, 0), 0)
        with pytest.raises(BadImageError):
            ImageReader(copy.fileno()).find(b"deep/" + b"/".join([b"d" * 40] * 12) + b"/leaf")
