"""Deltas: what they carry, that they come out right, and that nothing else is ever believed."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from stele.model.tree import Node, Tree
from stele.seal.delta import codec, patches, plan
from stele.trust import canonical
from stele.trust.errors import SteleError
from tests.trees import TIME, Held

DIR = {"kind": "dir", "mode": 0o755, "uid": 0, "gid": 0, "mtime": TIME}


def tree_of(files: dict[bytes, bytes], held: Held) -> Tree:
    nodes = [Node(path=b"", **DIR)]
    folders = {path[:at] for path in files for at in range(len(path)) if path[at : at + 1] == b"/"}
    nodes += [Node(path=folder, **DIR) for folder in folders]
    for path, data in files.items():
        nodes.append(Node(path=path, **{**DIR, "kind": "file", "mode": 0o644}, size=len(data), sha256=held.add(data)))
    return Tree.build(nodes)


def made(old: dict[bytes, bytes], new: dict[bytes, bytes]) -> tuple[Tree, Held, Tree, Held, bytes]:
    before, after = Chunked(), Chunked()
    base, tree = tree_of(old, before), tree_of(new, after)
    out = io.BytesIO()
    size = codec.make(codec.Side(base, before), codec.Side(tree, after), out)
    assert size == len(out.getvalue())
    return base, before, tree, after, out.getvalue()


def applied(base: Tree, old: Held, delta: bytes, digest: str) -> tuple[Tree, dict[str, bytes]]:
    with tempfile.TemporaryFile() as file:
        tree, contents = codec.apply(base, old, io.BytesIO(delta), digest, os.dup(file.fileno()))
        try:
            known = {node.sha256 for node in base.files()}
            return tree, {n.sha256: b"".join(contents.chunks(n.sha256)) for n in tree.files() if n.size and n.sha256 not in known}
        finally:
            contents.close()


OLD = {b"etc/conf": b"a = 1\n" * 500, b"lib/libx-3e4ff32b.so.1.2.3": bytes(range(256)) * 200, b"gone": b"gone", b"same": b"same"}
NEW = {
    b"etc/conf": b"a = 1\n" * 499 + b"a = 2\n",
    b"lib/libx-5beb0d32.so.1.3.0": bytes(range(256)) * 199 + b"end",
    b"fresh": b"fresh",
    b"twice": b"fresh",
    b"moved": b"gone",
    b"same": b"same",
    b"empty": b"",
}


def test_an_update_costs_what_changed() -> None:
    base, old, tree, new, delta = made(OLD, NEW)
    result, contents = applied(base, old, delta, tree.digest())
    assert result == tree
    assert set(contents.values()) == {NEW[b"etc/conf"], NEW[b"lib/libx-5beb0d32.so.1.3.0"], b"fresh"}  # moved and same are not carried
    assert all(new.read(digest) == data for digest, data in contents.items())
    assert len(delta) < 1200


def test_the_same_release_is_an_empty_delta() -> None:
    base, old, tree, _, delta = made(OLD, OLD)
    result, contents = applied(base, old, delta, tree.digest())
    assert (result, contents) == (tree, {})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"lib/libfoo.so.1.2.3", b"lib/libfoo.so.1.10.0"),
        (b"x/webp-3e4ff32b.so", b"x/webp-5beb0d32.so"),
        (b"Django-5.1.1.dist-info/RECORD", b"Django-5.1.2.dist-info/RECORD"),
    ],
)
def test_paths_of_two_versions_are_alike(one: bytes, other: bytes) -> None:
    assert plan.pattern(one) == plan.pattern(other)


@pytest.mark.parametrize(("one", "other"), [(b"decade", b"facade"), (b"a/b", b"a/c"), (b"file1", b"file")])
def test_other_paths_are_not(one: bytes, other: bytes) -> None:
    assert plan.pattern(one) != plan.pattern(other)


class Chunked(Held):
    """Yields contents in pieces of a given size, as files do."""

    size = 1 << 20

    def chunks(self, digest: str, size: int = 0) -> Iterator[bytes]:
        return super().chunks(digest, self.size)


@pytest.mark.parametrize("chunk", [1 << 20, 1000, 500, 333, 1])
def test_large_contents_go_in_pieces(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(Chunked, "size", chunk)
    # the limit is a constant of the format; a small one here stands for gigabytes there
    monkeypatch.setattr(plan, "PIECE", 1000)
    big = os.urandom(10_500)
    old = {b"big": big, b"small": b"s" * 700, b"other": b"o" * 800}
    new = {
        b"big": big[:5000] + b"!" + big[5001:] + b"more",
        b"small": b"s" * 699 + b"!",
        b"other": b"!" + b"o" * 799,
        b"new": os.urandom(2500),
    }
    base, before, tree, after, delta = made(old, new)
    planned = plan.groups(plan.pairs(base, tree))
    assert len(planned) > 12
    assert all(group.size <= 1000 and sum(part.size for part in group.old) <= 1000 for group in planned)
    result, contents = applied(base, before, delta, tree.digest())
    assert result == tree
    assert contents == {digest: after.read(digest) for digest in contents}
    assert len(contents) == 4


@pytest.mark.parametrize("piece", [1 << 16, 1 << 18])
def test_what_moves_in_a_large_content_is_followed(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(plan, "PIECE", piece)  # stands for 32 MiB
    big = os.urandom(1 << 20)
    for new in (
        os.urandom(50_000) + big,  # inserted at the beginning: all that follows is moved
        big[40_000:300_000] + big[330_000:],  # taken out
        big[:500_000] + os.urandom(40_000) + big[500_000:] + b"more",
        big[:700_000] + b"!" + big[700_001:],
    ):
        base, before, tree, after, delta = made({b"big": big}, {b"big": new})
        fresh = max(0, len(new) - len(big))
        lost = 2 * piece if len(new) < len(big) else 0  # what was taken out may leave a piece without half of its like
        assert len(delta) < fresh + lost + 4000
        result, contents = applied(base, before, delta, tree.digest())
        assert result == tree
        assert contents == {digest: after.read(digest) for digest in contents}


def test_a_change_in_a_piece_costs_little_wherever_it_is() -> None:
    big = os.urandom(plan.PIECE)
    *_, delta = made({b"big": big}, {b"big": big[:5] + b"!" + big[6:]})
    assert len(delta) < 8000


@pytest.mark.parametrize("starts", [[], [0], [0, 0, 0], [0, 1 << 20], [-1, 0], [70_000, 69_999], [1 << 62, 0]])
def test_old_pieces_outside_of_their_content(monkeypatch: pytest.MonkeyPatch, starts: list[int]) -> None:
    monkeypatch.setattr(plan, "PIECE", 1 << 16)
    big = os.urandom(1 << 17)
    base, before, tree, _, delta = made({b"big": big}, {b"big": big[1:]})
    header, rest = _parts(delta)
    assert len(header["starts"]) == 2
    with pytest.raises(SteleError) as refused:
        applied(base, before, _joined({**header, "starts": starts}, rest), tree.digest())
    assert refused.value.code == "delta.damaged"


_names = st.sampled_from([b"a", b"b", b"d/a", b"d/b1", b"d/b2", b"e/x-12ab34cd", b"e/x-99ab34ef"])
_files = st.dictionaries(_names, st.one_of(st.binary(max_size=40), st.sampled_from([b"x" * 5000, b"y" * 5000])), max_size=7)


@settings(deadline=None, max_examples=150)
@given(_files, _files)
def test_any_two_releases(old: dict[bytes, bytes], new: dict[bytes, bytes]) -> None:
    base, before, tree, after, delta = made(old, new)
    result, contents = applied(base, before, delta, tree.digest())
    assert result == tree
    known = set(before.data)
    assert {n.sha256 for n in tree.files() if n.size} <= known | set(contents)
    assert all(after.read(digest) == data for digest, data in contents.items())


BASE, BEFORE, TREE, AFTER, DELTA = made(OLD, NEW)


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(DELTA) - 1), st.integers(1, 255))
def test_an_altered_byte_is_refused_or_changes_nothing(at: int, flip: int) -> None:
    altered = bytearray(DELTA)
    altered[at] ^= flip
    try:
        tree, contents = applied(BASE, BEFORE, bytes(altered), TREE.digest())
    except SteleError as error:
        assert error.code in {"delta.damaged", "delta.wrong-base", "delta.wrong-result"}
        return
    # zstd has bits without meaning; what comes out is right or refused
    assert tree == TREE
    assert all(AFTER.read(digest) == data for digest, data in contents.items())


@given(st.integers(0, len(DELTA) - 1))
@settings(deadline=None)
def test_a_shortened_one_is_refused(length: int) -> None:
    with pytest.raises(SteleError) as refused:
        applied(BASE, BEFORE, DELTA[:length], TREE.digest())
    assert refused.value.code == "delta.damaged"


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_noise_is_refused(noise: bytes) -> None:
    for data in (noise, codec.MAGIC + noise, codec.MAGIC + noise + b"\n" + noise, DELTA + noise + b"!"):
        with pytest.raises(SteleError) as refused:
            applied(BASE, BEFORE, data, TREE.digest())
        assert refused.value.code == "delta.damaged"


def _parts(delta: bytes) -> tuple[dict[str, object], bytes]:
    line, _, rest = delta[len(codec.MAGIC) :].partition(b"\n")
    return canonical.decode(line), rest


def _joined(header: dict[str, object], rest: bytes) -> bytes:
    return codec.MAGIC + canonical.encode(header) + b"\n" + rest


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"base": "sha256:" + "0" * 64}, "delta.wrong-base"),
        ({"tree": "sha256:" + "0" * 64}, "delta.wrong-result"),
        ({"patch_size": 1 << 40}, "delta.damaged"),
        ({"patch_size": 1 << 27}, "delta.damaged"),
        ({"patch_packed": 1 << 40}, "delta.damaged"),
        ({"patch_packed": 0}, "delta.damaged"),
        ({"carried_size": 1 << 40}, "delta.damaged"),
        ({"carried_size": -1}, "delta.damaged"),
        ({"carried_packed": 1 << 40}, "delta.damaged"),
        ({"carried_packed": 1}, "delta.damaged"),
        ({"starts": [0]}, "delta.damaged"),
        ({"starts": [-1]}, "delta.damaged"),
        ({"frames": []}, "delta.damaged"),
        ({"frames": [1 << 62]}, "delta.damaged"),
        ({"frames": [-1]}, "delta.damaged"),
        ({"extra": 1}, "delta.damaged"),
    ],
)
def test_hostile_headers(change: dict[str, object], code: str) -> None:
    header, rest = _parts(DELTA)
    with pytest.raises(SteleError) as refused:
        applied(BASE, BEFORE, _joined({**header, **change}, rest), TREE.digest())
    assert refused.value.code == code


def test_a_tree_that_was_not_signed() -> None:
    other = made(OLD, {**NEW, b"evil": b"evil"})
    with pytest.raises(SteleError) as refused:
        applied(BASE, BEFORE, other[4], TREE.digest())
    assert refused.value.code == "delta.wrong-result"


def _with_frame(frame: bytes) -> bytes:
    header, rest = _parts(DELTA)
    packed = header["patch_packed"]
    assert isinstance(packed, int)
    return _joined({**header, "frames": [len(frame)]}, rest[:packed] + frame)


def test_other_contents_of_the_right_size() -> None:
    [group] = plan.groups(plan.pairs(BASE, TREE))
    with pytest.raises(SteleError) as refused:
        applied(BASE, BEFORE, _with_frame(zstandard.compress(b"!" * group.size)), TREE.digest())
    assert refused.value.code == "delta.wrong-result"


def test_a_bomb_is_refused_unread() -> None:
    [group] = plan.groups(plan.pairs(BASE, TREE))
    for frame in (
        zstandard.compress(bytes(1 << 30)),
        zstandard.ZstdCompressor(write_content_size=False).compress(b"!" * group.size),
        zstandard.compress(b"!" * group.size) + zstandard.compress(b"more"),
    ):
        with pytest.raises(SteleError) as refused:
            applied(BASE, BEFORE, _with_frame(frame), TREE.digest())
        assert refused.value.code == "delta.damaged"


def test_a_base_whose_contents_are_not_what_they_were() -> None:
    held = Held()
    held.data = dict.fromkeys(BEFORE.data, b"?" * 60_000)
    with pytest.raises(SteleError) as refused:
        applied(BASE, held, DELTA, TREE.digest())
    assert refused.value.code in {"delta.wrong-result", "delta.damaged"}


def test_the_header_says_what_is_needed() -> None:
    assert codec.read_ends(io.BytesIO(DELTA)) == (BASE.digest(), TREE.digest())
    assert msgspec.json.decode(DELTA.split(b"\n")[1])["tree"] == TREE.digest()


@pytest.mark.parametrize(
    "patch", [b"x", b"-gone", b"-nowhere\n", b"-%zz\n", b"-\xff\n", b"{}\n", b'{"path":1}\n', b'{"path":"%"}\n', b"\n"]
)
def test_a_patch_that_cannot_be_read(patch: bytes) -> None:
    with pytest.raises(patches.PatchError):
        patches.apply(BASE.encode(), patch)


@given(st.lists(st.one_of(st.binary(max_size=30), st.sampled_from([b"-gone", b"-", b'{"path":""}', b'{"path":"a/b"}']))).map(b"\n".join))
@settings(deadline=None)
def test_any_patch_is_read_or_refused(patch: bytes) -> None:
    try:
        patches.apply(BASE.encode(), patch)
    except patches.PatchError:
        return


def test_one_changed_file_is_one_line() -> None:
    held = Held()
    files = {b"f%d" % at: b"%d" % at for at in range(3000)}
    base = tree_of(files, held)
    patch = patches.make(base, tree_of({**files, b"f7": b"new"}, held))
    assert patch.count(b"\n") == 1
    assert b'"path":"f7"' in patch
