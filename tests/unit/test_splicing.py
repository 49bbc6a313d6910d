"""A changed stratum is spliced piece by piece: wherever pieces end, what comes out is what would be made of the new contents."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stele.model.tree import Node
from stele.seal import tar, verity
from stele.seal.again import splice
from stele.seal.again.changes import Changed, Edit

BLOCK = 4096


def node(path: bytes, data: bytes) -> Node:
    return Node(path=path, kind="file", mode=0o644, uid=0, gid=0, mtime=0, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def tar_of(files: dict[bytes, bytes]) -> bytes:
    parts = []
    for path, data in sorted(files.items()):
        parts += [tar.member(node(path, data)), data, bytes(-len(data) % tar.BLOCK)]
    return b"".join(parts) + tar.END


def edit(path: bytes, old: bytes, new: bytes) -> Edit:
    to = node(path, new)
    return Edit(0, Changed(path, 0, 0, (0, 0, 0, 0, 0, 0), (0, 0), to.sha256, new), node(path, old), to)


def spliced(old: bytes, edits: list[Edit], digest: str = "") -> tuple[bytes, str]:
    read = io.BytesIO(old).readinto
    made = splice.Spliced(read, edits, digest or "sha256:" + hashlib.sha256(old).hexdigest())
    return b"".join(map(bytes, made.pieces())), made.diff_id


sizes = st.integers(1, 3 * BLOCK) | st.sampled_from([1, 511, 512, 513, BLOCK - 512, BLOCK])
names = st.sampled_from([b"a", b"b/c", b"d" * 99, b"e" * 101, b"f/" * 300 + b"g", b"\xff", b"z"])
files = st.dictionaries(names, sizes, min_size=1)


@given(files, st.data(), st.sampled_from([512, 1024, 1536, BLOCK, 1 << 20]))
@settings(max_examples=150, deadline=None)
def test_wherever_pieces_end_the_tar_is_that_of_the_new_contents(sizes_of, data, piece):
    old = {path: b"o" * size for path, size in sizes_of.items()}
    changed = data.draw(st.dictionaries(st.sampled_from(sorted(old)), sizes, min_size=1))
    new = old | {path: b"n" * size for path, size in changed.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splice, "PIECE", piece)
        made, diff_id = spliced(tar_of(old), [edit(path, old[path], new[path]) for path in changed])
    assert made == tar_of(new)
    assert diff_id == "sha256:" + hashlib.sha256(made).hexdigest()


def test_a_member_that_lies_in_a_files_content_is_content():
    inner = tar_of({b"z": b"old"})
    old = {b"a.tar": inner, b"z": b"old"}
    made, _ = spliced(tar_of(old), [edit(b"z", b"old", b"new")])
    assert made == tar_of(old | {b"z": b"new"})


@pytest.mark.parametrize("fault", ["digest", "cut", "no such member", "not octal", "less than nothing"])
def test_a_tar_that_is_not_what_it_was_is_not_used(fault):
    old = tar_of({b"a": b"1", b"z": b"old"})
    edits = [edit(b"y" if fault == "no such member" else b"z", b"old", b"new")]
    digest = "sha256:" + hashlib.sha256(old).hexdigest()
    if fault == "digest":
        old = old[:-1] + b"x"
    elif fault == "cut":
        old = old[:700]
    elif fault == "not octal":
        old = old[:124] + b"9" * 11 + old[135:]
    elif fault == "less than nothing":
        old = old[:124] + b"-0000001000" + old[135:]
    with pytest.raises(splice.NotAlikeError):
        spliced(old, edits, digest)


@given(st.integers(1, 300), st.data())
@settings(max_examples=40, deadline=None)
def test_the_hash_area_of_changed_blocks_is_the_one_that_is_made_anew(count, data):
    uuid = bytes(range(16))
    blocks = [number.to_bytes(8, "little") * 512 for number in range(count)]

    def whole() -> tuple[bytes, str]:
        image = bytearray(b"".join(blocks).ljust(verity.file_size(count * BLOCK), b"\0"))
        root = verity.fill(memoryview(image), count * BLOCK, uuid)
        return bytes(image), root

    with tempfile.TemporaryFile() as old, tempfile.TemporaryFile() as new:
        before, _ = whole()
        old.write(before)
        old.flush()
        held = splice.Blocks(old.fileno(), len(before))
        for number in data.draw(st.sets(st.integers(0, count - 1))):
            blocks[number] = os.urandom(BLOCK)
            held.put(number * BLOCK, blocks[number])
        root = verity.update(held, count * BLOCK, uuid)
        was, now = held.write(new.fileno())
        new.seek(0)
        made = new.read()
    assert (made, root) == whole()
    assert (was, now) == tuple("sha256:" + hashlib.sha256(image).hexdigest() for image in (before, made))


def test_a_block_that_an_image_does_not_have_is_refused():
    with tempfile.TemporaryFile() as file:
        file.write(bytes(2 * BLOCK))
        file.flush()
        blocks = splice.Blocks(file.fileno(), 3 * BLOCK)
        for number in (-1, 2, 3):
            with pytest.raises(splice.BadImageError):
                blocks[number]
        with pytest.raises(splice.BadImageError):
            blocks.write(file.fileno())
