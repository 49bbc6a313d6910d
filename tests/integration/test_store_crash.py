"""A seal that is killed at any line of store and durable-write code leaves the store as it was before, or as it is after."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from stele.host import durable, immutable
from stele.model import spec as specs
from stele.model.tree import Tree
from stele.seal import release as sealing
from stele.seal.rebuild import LayerRebuilder
from stele.seal.sign import sign
from stele.store import drafts, layout, together
from stele.store.layout import Layout
from stele.trust.release_key import PrivateKey
from tests.trees import Held, file, folder

KEY = PrivateKey.generate()
TRACED = {module.__file__ for module in (durable, drafts, layout, together)}
POINTS = 120


def opened(root: Path) -> Layout:
    return Layout(root, trusted=(KEY.public,), rebuild=LayerRebuilder())


def seal(root: Path, content: bytes, *, at_once: bool = False) -> str:
    store = opened(root)
    held = Held()
    tree = Tree.build([folder(b""), file(b"app", content * 5000, held)])
    with store.together() if at_once else contextlib.nullcontext():
        sealed = sealing.seal(tree, held, specs.from_builtins({"stele": 0, "name": "shop", "command": ["/app"]}), store)
        store.publish(sign(sealed, KEY, store))
    return sealed.release.digest


class Trace:
    """Counts the lines that run in the traced modules, in all threads, and kills the process at one of them."""

    def __init__(self, fatal: int) -> None:
        self.count = 0
        self.fatal = fatal
        self.lock = threading.Lock()

    def __call__(self, frame, event, _arg):
        if event == "call" and frame.f_code.co_filename not in TRACED:
            return None
        if event == "line":
            with self.lock:
                self.count += 1
                if self.count == self.fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
        return self

    def __enter__(self):
        threading.settrace(self)
        sys.settrace(self)
        return self

    def __exit__(self, *_):
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]


def sealed_and_killed(root: Path, content: bytes, fatal: int, *, at_once: bool) -> int:
    """Seal in a child process that dies at line `fatal`; returns its wait status."""
    child = os.fork()
    if child == 0:
        try:
            with Trace(fatal):
                seal(root, content, at_once=at_once)
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def lines(root: Path, *, at_once: bool) -> int:
    with Trace(0) as trace:
        seal(root, b"count", at_once=at_once)
    return trace.count


@pytest.fixture
def root(tmp_path):
    yield tmp_path / "store"
    for path in tmp_path.glob("*/erofs/*"):
        immutable.make_mutable(path)


@pytest.mark.parametrize("at_once", [False, True])
def test_a_seal_that_is_killed_anywhere_leaves_nothing_half_done(root, tmp_path, at_once):
    seal(tmp_path / "warm", b"warm")  # lazy imports happen before lines are counted
    total = lines(tmp_path / "other", at_once=at_once)
    first = seal(root, b"first")
    step = max(1, total // POINTS)
    known = [first]
    killed = 0
    for number, fatal in enumerate(range(1, total + 1, step)):
        content = b"%d" % number
        status = sealed_and_killed(root, content, fatal, at_once=at_once)
        killed += os.WIFSIGNALED(status)
        store = opened(root)
        assert list((root / "tmp").iterdir()) == []
        found = [release.digest for release in store.releases()]
        assert found[: len(known)] == known
        assert len(found) - len(known) in {0, 1}
        if len(found) > len(known):
            store.verify(store.release(found[-1]))
        known = found
    store = opened(root)
    for release in store.releases():
        store.verify(release)
    assert killed > POINTS // 2
    assert seal(root, b"last") == opened(root).release("shop").digest
    assert not list(root.glob(".*"))


def test_an_image_that_is_being_made_again_when_killed_is_not_there(root):
    digest = seal(root, b"x")
    stratum = opened(root).release(digest).strata[0]

    def prepare(fatal: int) -> int:
        opened(root).remove_image(stratum)
        child = os.fork()
        if child == 0:
            try:
                with Trace(fatal):
                    opened(root).prepare_image(stratum)
            finally:
                os._exit(0)
        return os.waitpid(child, 0)[1]

    killed = 0
    for fatal in range(1, 60, 2):
        killed += os.WIFSIGNALED(prepare(fatal))
        path = root / "erofs" / f"{stratum.image[7:]}.erofs"
        assert not path.exists() or path.stat().st_size == stratum.image_size
        opened(root).prepare_image(stratum)
    assert killed > 10
