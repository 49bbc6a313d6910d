"""Both forms of a stratum at once, in memory, are what each is by itself, streamed; whatever may be in memory at a time."""

from __future__ import annotations

import errno
import mmap

import pytest
from hypothesis import HealthCheck, given, settings

from stele.model.tree import Tree
from stele.seal import forms
from stele.trust.errors import SteleError
from tests.trees import Held, MemorySink, file, folder, trees, varied


def made(tree: Tree, held: Held, compression="zstd", **limits):
    sink = MemorySink()
    with forms.Makers(**limits) as makers:
        return makers.begin(sink, tree.nodes, tree.encode(), held, compression)(), sink


def check_alike(tree: Tree, held: Held, compression="zstd"):
    (one, in_memory), (other, streamed) = made(tree, held, compression), made(tree, held, compression, in_memory=-1)
    assert one == other
    assert (in_memory.blobs, in_memory.images) == (streamed.blobs, streamed.images)


@pytest.mark.parametrize("compression", ["zstd", "gzip", "none"])
def test_in_memory_and_streamed_they_are_the_same(compression):
    check_alike(*varied(), compression)


@given(trees())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_of_any_tree_they_are_the_same(case):
    check_alike(*case)


def test_zeros_leave_holes_and_other_bytes_do_not_get_lost_between_them():
    held = Held()
    content = bytes(3 << 20) + b"x" + bytes((2 << 20) + 4096) + b"y" * 5000
    check_alike(Tree.build([folder(b""), file(b"sparse", content, held), file(b"zeros", bytes(5 << 20), held)]), held)


def test_many_at_a_time_are_those_that_each_is_alone():
    cases = [
        (Tree.build([folder(b""), file(b"app", b"%d" % number * 5000, held)]), held)
        for number, held in enumerate(Held() for _ in range(12))
    ]
    sink = MemorySink()
    with forms.Makers(in_memory=5005) as makers:
        waiting = [makers.begin(sink, tree.nodes, tree.encode(), held, "zstd") for tree, held in cases]
        assert [wait() for wait in waiting] == [made(tree, held)[0] for tree, held in cases]


@pytest.mark.parametrize("limit", [-1, 1 << 20])
def test_a_content_of_another_size_is_refused_and_nothing_is_kept(limit):
    held = Held()
    tree = Tree.build([folder(b""), file(b"app", b"as it was", held)])
    held.data[tree.nodes[1].sha256] = b"longer than it was"
    sink = MemorySink()
    with pytest.raises(SteleError) as caught, forms.Makers(in_memory=limit) as makers:
        makers.begin(sink, tree.nodes, tree.encode(), held, "zstd")()
    assert caught.value.code == "seal.source-changed"
    assert not sink.images


def test_a_kernel_without_huge_pages_will_do(monkeypatch):
    """As one for real time: it refuses to be advised about them."""

    class Memory(mmap.mmap):
        def madvise(self, *_: int) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(mmap, "mmap", Memory)
    check_alike(*varied())
