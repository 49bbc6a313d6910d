"""Both forms of a stratum are the same in memory and streamed, and whoever makes them; who fails is not trusted with more."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from msgspec.structs import replace

from stele.flow.packing import Nowhere
from stele.model.tree import Tree
from stele.seal import codec, tar
from stele.seal.makers import MAKE, Makers, helpers
from stele.seal.sources import folder as folders
from stele.trust.errors import SteleError
from tests.children import children
from tests.trees import Held, MemorySink, file, folder, trees, varied


def made(tree: Tree, held, compression="zstd", **limits):
    sink = MemorySink()
    with Makers(sink, held, compression, **limits) as makers:
        return makers.begin(tree.nodes, tree.encode())(), sink


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


def test_what_zstd_takes_in_one_call_and_what_it_does_not(monkeypatch):
    held = Held()
    tree = Tree.build([folder(b""), file(b"app", b"%d" % 5 * 300_000 + b"other", held)])
    whole = made(tree, held)
    monkeypatch.setattr(codec, "WHOLE", 300_000)
    in_pieces = made(tree, held)
    assert whole[0].diff_id == in_pieces[0].diff_id
    assert whole[0].layer != in_pieces[0].layer  # else this test says nothing of the next line
    check_alike(tree, held)


@pytest.mark.parametrize("more", [0, -1])
def test_a_tar_of_exactly_as_much_as_zstd_takes_in_one_call(monkeypatch, more):
    held = Held()
    tree = Tree.build([folder(b""), file(b"app", b"%d" % 5 * 300_000 + b"other", held)])
    size = sum(len(part) for part in tar.stream(tree.nodes, held))
    monkeypatch.setattr(codec, "WHOLE", size + more)
    check_alike(tree, held)


@pytest.mark.parametrize("processors", [1, 2, 4, 8, 64])
def test_what_is_compressed_does_not_depend_on_how_many_processors_there_are(monkeypatch, processors):
    held = Held()
    tree = Tree.build([folder(b""), file(b"app", random.Random(5).randbytes(3 << 20) * 4, held)])
    monkeypatch.setattr(codec, "WHOLE", 1 << 20)
    here = made(tree, held, in_memory=-1)[0]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
    assert made(tree, held, in_memory=-1)[0] == here


ATTRIBUTES = """
import resource, sys
from msgspec.structs import replace
from stele.flow.packing import Nowhere
from stele.flow.packing import Nowhere
from stele.model.tree import Tree
from stele.seal.makers import Makers
from tests.trees import Held, file, folder
held, noted = Held(), ((b"user.note", bytes(60_000)),)
tree = Tree.build([folder(b""), *(replace(file(b"%d" % number, b"content", held), xattrs=noted) for number in range(2500))])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with Makers(Nowhere(), held, "none") as makers:
    makers.begin(tree.nodes, b"")()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_attributes_count_for_what_is_made_in_memory():
    """143 MiB of them: the tar would be as large, and what is compressed, and the image."""
    found = subprocess.run([sys.executable, "-c", ATTRIBUTES], stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parents[2])
    assert int(found.stdout) < 400  # MiB; it is 146, and would be 605


def test_many_at_a_time_are_those_that_each_is_alone():
    held = Held()
    cases = [Tree.build([folder(b""), file(b"app", b"%d" % number * 5000, held)]) for number in range(12)]
    sink = MemorySink()
    with Makers(sink, held, "zstd", in_memory=2 * 1024 + 5005) as makers:  # some in memory
        waiting = [makers.begin(tree.nodes, tree.encode()) for tree in cases]
        assert [wait() for wait in waiting] == [made(tree, held)[0] for tree in cases]


@pytest.mark.parametrize("limit", [-1, 1 << 20])
def test_a_content_of_another_size_is_refused_and_nothing_is_kept(limit):
    held = Held()
    tree = Tree.build([folder(b""), file(b"app", b"as it was", held)])
    held.data[tree.nodes[1].sha256] = b"longer than it was"
    sink = MemorySink()
    with pytest.raises(SteleError) as caught, Makers(sink, held, "zstd", in_memory=limit) as makers:
        makers.begin(tree.nodes, tree.encode())()
    assert caught.value.code == "seal.source-changed"
    assert not sink.images


def test_a_kernel_without_huge_pages_will_do(monkeypatch):
    """As one for real time: it refuses to be advised about them."""

    class Memory(mmap.mmap):
        def madvise(self, *_: int) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(mmap, "mmap", Memory)
    check_alike(*varied())


class Endless(Held):
    """A content that does not come to its end. `begun`: somebody reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()

    def chunks(self, digest: str, size: int = 1 << 20):
        while True:
            self.begun.set()
            yield bytes(size)


def test_what_threads_are_at_is_given_up_when_nobody_wants_it_any_more():
    """As after Ctrl-C, however much there is."""
    held = Endless()
    tree = Tree.build([folder(b""), replace(file(b"app", b"", held), size=1 << 40)])
    threads = set(threading.enumerate())
    with contextlib.suppress(KeyboardInterrupt), Makers(Nowhere(), held, "zstd") as makers:
        makers.begin(tree.nodes, tree.encode())
        held.begun.wait()
        raise KeyboardInterrupt
    assert set(threading.enumerate()) == threads


COUNT = 9  # of strata, and of those that are streamed one more


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(COUNT):
        (tmp_path / f"{number}" / "deep").mkdir(parents=True)
        for name, content in (("small", b"%d" % number * 500), ("large", os.urandom(200 << 10)), ("twin", b"the same in all")):
            (tmp_path / f"{number}" / "deep" / name).write_bytes(content)
    return tmp_path


def strata(tree: Tree) -> list[Tree]:
    return [
        Tree.build([node for node in tree.nodes if not node.path or node.path.split(b"/")[0] == b"%d" % number]) for number in range(COUNT)
    ]


class Asked:
    """How often helpers are asked to make something, each of which `first` does something before it does."""

    def __init__(self, first=lambda: None) -> None:
        self.hands = helpers()
        self._out, self._into = os.pipe2(os.O_NONBLOCK)
        make = self.hands._served[MAKE]

        def serve(request: bytes, files) -> bytes:
            os.write(self._into, b".")
            first()
            return make(request, files)

        self.hands.serve(MAKE, serve)

    def count(self) -> int:
        with contextlib.suppress(BlockingIOError):
            return len(os.read(self._out, 1000))
        return 0


def from_folder(root: Path, asked: Asked, begun=lambda _: None, **limits):
    """The strata of a folder, made with helpers, and what was kept."""
    sink = MemorySink()
    with asked.hands as hands, folders.load(root, time=0, hands=hands) as source:
        hands.begin()  # in the folder is less than they are forked for
        begun(hands)
        with Makers(sink, source.contents, "zstd", helping=hands, **limits) as makers:
            waiting = [makers.begin(tree.nodes, tree.encode()) for tree in strata(source.tree)]
            return [wait() for wait in waiting], sink.blobs, sink.images


def alone(root: Path):
    with folders.load(root, time=0) as source:
        found = [made(tree, source.contents) for tree in strata(source.tree)]
    kept = [sink for _, sink in found]
    return (
        [each for each, _ in found],
        {name: data for sink in kept for name, data in sink.blobs.items()},
        {name: data for sink in kept for name, data in sink.images.items()},
    )


@pytest.mark.parametrize("limit", [-1, 32 << 20])
def test_helpers_make_what_this_process_would(root, limit):
    asked = Asked()
    assert from_folder(root, asked, in_memory=limit) == alone(root)
    assert asked.count()


def fail() -> None:
    raise ValueError


def test_one_that_fails_is_asked_once_and_its_work_is_done_here(root):
    asked = Asked(fail)
    assert from_folder(root, asked) == alone(root)
    assert 1 <= asked.count() <= 3  # each of them


def test_those_that_were_killed_are_done_without(root):
    asked = Asked()
    assert from_folder(root, asked, begun=lambda hands: hands.kill()) == alone(root)
    assert not asked.count()


def test_with_other_threads_there_are_threads_in_their_place(root):
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()
    asked = Asked()
    try:
        assert from_folder(root, asked) == alone(root)
    finally:
        stop.set()
        other.join()
    assert not asked.count()


def test_what_changed_meanwhile_is_told_whoever_met_it_and_nobody_is_left(root):
    processes, threads = children(), set(threading.enumerate())
    with pytest.raises(SteleError) as caught:
        from_folder(root, Asked(), begun=lambda _: [path.write_bytes(os.urandom(200 << 10)) for path in root.glob("*/deep/large")])
    assert caught.value.code == "seal.source-changed"
    assert (children(), set(threading.enumerate())) == (processes, threads)
