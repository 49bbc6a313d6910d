"""What nothing names is removed, and nothing else: beside seals, after kills, not where an index is in doubt; the ledger hears first."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stele.flow import deltas, packing, pruning, repairing, storecheck, upkeep
from stele.flow.mending import Registries
from stele.host import immutable
from stele.model import spec as specs
from stele.model.event import Entry, decode_entry
from stele.model.tree import Tree
from stele.seal import release as sealing
from stele.store import removal
from stele.trust.errors import SteleError
from tests.stores import content, copy_of, opened
from tests.trees import Held, file, folder
from tests.unit.test_packing import unrecorded, version
from tests.unit.test_store_repair import spoil
from tests.unit.test_updates import seal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stele.store.layout import Layout


class Ledger:
    """What was recorded; entries of it are really encoded."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, workload: str, kind: str, /, **facts: Any) -> None:
        from stele.flow.record import Recorder

        made = Recorder(lambda events: None, actor="operator", clock=lambda: 1).event(workload, kind, **facts)
        assert decode_entry(Entry(event=made, seq=0, prev="").encode()).event == made
        self.said.append((kind, facts))

    def files(self, why: str) -> set[str]:
        return {path for kind, facts in self.said if kind == "store.removing" and facts["why"] == why for path in facts["files"]}


def leave(store: Layout) -> None:
    """Seal something and die before it is published."""
    held = Held()
    tree = Tree.build([folder(b""), file(b"app", os.urandom(30_000), held)])
    sealing.seal(tree, held, specs.from_builtins({"stele": 0, "name": "shop", "command": ["/app"]}), store)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three releases, one of them packed, a delta, and what a dead seal left."""
    root = tmp_path_factory.mktemp("made") / "store"
    store = opened(root)
    _, two, three = (seal(store, version(number)) for number in range(3))
    packing.pack(store, {two.digest}, keep_layers=True, record=unrecorded, say=lambda _: None)
    deltas.attach_delta(store, two, three)
    pruning.prune(store, tuple, damaged=False, dry_run=False, record=unrecorded)
    for path in root.glob("erofs/*"):
        immutable.make_mutable(path)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Iterator[Path]:
    with copy_of(made, tmp_path) as store:
        yield store


def prune(root: Path, record: Any = unrecorded, *, in_use: Any = tuple, damaged: bool = False, dry_run: bool = False) -> pruning.Pruned:
    return pruning.prune(opened(root), in_use, damaged=damaged, dry_run=dry_run, record=record)


def check(root: Path) -> storecheck.Report:
    return storecheck.check(opened(root), {}, lambda _: None, deep=True)


def test_what_a_dead_seal_left_goes_and_nothing_else(root):
    before = content(root)
    leave(opened(root))
    (root / "partial").mkdir()
    (root / "partial" / ("ab" * 32)).write_bytes(b"x" * 5000)
    (root / "notes.txt").write_text("somebody's")
    left = set(content(root)) - set(before) - {"notes.txt"}
    assert len(left) > 4
    shown = prune(root, dry_run=True)
    assert {item.path for item in shown.gone} == left
    assert set(content(root)) == {*before, *left, "notes.txt"}
    ledger = Ledger()
    done = prune(root, ledger)
    assert done == shown
    assert done.held >= 30_000
    assert done.strays == ("notes.txt",)
    assert ledger.files("unnamed") == left
    assert sum(facts["bytes"] for _, facts in ledger.said) == done.held
    (root / "notes.txt").unlink()
    assert content(root) == before
    assert (len(check(root).whole), len(check(root).packed), len(check(root).proven)) == (2, 1, 1)
    again = Ledger()
    assert prune(root, again).gone == ()
    assert again.said == []


def test_what_cannot_be_recorded_is_not_removed_or_repaired(root):
    leave(opened(root))
    before = content(root)

    def refuse(*_: object, **__: object) -> None:
        raise SteleError("the ledger is read-only", remedy="mend it", code="ledger.damaged")

    with pytest.raises(SteleError, match="read-only"):
        prune(root, refuse)
    assert content(root) == before
    with pytest.raises(SteleError, match="read-only"):
        packing.pack(opened(root), (), keep_layers=False, record=refuse, say=lambda _: None)
    assert set(content(root)) >= set(before)
    for path in sorted(root.glob("erofs/*")):
        spoil(path, "flipped")
        spoilt = content(root)
        with (
            pytest.raises(SteleError, match=r"nothing of the store was touched.*read-only"),
            Registries({}, (), plain_http=False) as registries,
        ):
            repairing.repair(opened(root), {}, registries, (), record=refuse, say=lambda _: None)
        assert content(root) == spoilt


def test_what_repairs_set_aside_goes_only_when_it_is_asked_for(root):
    spoil(min(root.glob("erofs/*")), "flipped")
    ledger = Ledger()
    with Registries({}, (), plain_http=False) as registries:
        done = repairing.repair(opened(root), {}, registries, (), record=ledger, say=lambda _: None)
    [(first, found), (second, became)] = ledger.said
    assert (first, second) == ("store.repairing", "store.repaired")
    assert found["problems"] == [["damaged", done.mended[0].path]]
    assert became == {"mended": [[done.mended[0].path, done.mended[0].how, done.mended[0].aside]], "left": []}
    aside = done.mended[0].aside
    kept = prune(root)
    assert (kept.gone, kept.aside > 0, (root / aside).exists()) == ((), True, True)
    gone = prune(root, ledger, damaged=True)
    assert [item.path for item in gone.gone] == [aside]
    assert ledger.files("damaged") == {aside}
    assert not (root / aside).exists()


def test_a_store_that_is_whole_is_repaired_without_a_word(root):
    ledger = Ledger()
    with Registries({}, (), plain_http=False) as registries:
        repairing.repair(opened(root), {}, registries, (), record=ledger, say=lambda _: None)
    assert ledger.said == []


@pytest.mark.parametrize("way", ["flipped", "truncated", "removed"])
def test_nothing_is_removed_where_a_document_is_in_doubt(made, tmp_path, way):
    report = storecheck.check(opened(made), {}, lambda _: None)
    documents = {part.path for _, part in report.taken.parts() if part.form == "manifest" or part.role == "config"}
    assert len(documents) > 10
    for number, path in enumerate([*sorted(documents), "index.json"]):
        root = tmp_path / str(number)
        shutil.copytree(made, root)
        leave(opened(root))
        spoil(root / path, way)
        before = content(root)
        with pytest.raises(SteleError) as raised:
            prune(root)
        assert raised.value.code == "store.damaged", path
        assert content(root) == before


def test_nothing_is_removed_while_a_release_in_use_is_not_named(root):
    store = opened(root)
    newest = store.releases()[-1].digest
    index = json.loads((root / "index.json").read_bytes())
    index["manifests"] = [item for item in index["manifests"] if item["digest"] != newest]
    (root / "index.json").write_text(json.dumps(index))
    before = content(root)
    with pytest.raises(SteleError) as raised:
        prune(root, in_use=lambda: [newest])
    assert raised.value.code == "store.damaged"
    assert content(root) == before
    assert prune(root, in_use=lambda: ["sha256:" + "0" * 64], dry_run=True).gone  # what is not here at all holds up nothing


def test_what_another_tool_put_here_stays(root):
    store = opened(root)
    layer, config = store.put(b"a layer"), store.put(b"{}")
    manifest = {
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": 7}],
    }  # fmt: skip
    data = json.dumps(manifest).encode()
    index = json.loads((root / "index.json").read_bytes())
    index["manifests"].append({"mediaType": manifest["mediaType"], "digest": store.put(data), "size": len(data)})
    (root / "index.json").write_text(json.dumps(index))
    assert prune(root).gone == ()
    assert opened(root).blob(layer) == b"a layer"


def test_what_other_tools_name_in_ways_of_their_own_stays(root):
    store = opened(root)
    base = "application/vnd.oci."

    def put(kind: str, plain: Any) -> dict[str, Any]:
        data = json.dumps({"mediaType": base + kind, **plain}).encode()
        return {"mediaType": base + kind, "digest": store.put(data), "size": len(data)}

    def blob(data: bytes) -> dict[str, Any]:
        return {"mediaType": "a/b", "digest": store.put(data), "size": len(data)}

    artifact = put("artifact.manifest.v1+json", {"artifactType": "a/b", "blobs": [blob(b"one")]})
    odd = put("image.manifest.v1+json", {"config": blob(b"{}"), "layers": [{**blob(b"two"), "size": "3"}], "more": {"a": [blob(b"three")]}})
    deep = put("image.manifest.v1+json", {"config": blob(b"{ }"), "layers": [blob(b"four")]})
    for number in range(30):
        deep = put("image.index.v1+json", {"manifests": [deep], "n": number})
    index = json.loads((root / "index.json").read_bytes())
    index["manifests"] += [artifact, odd, deep, blob(b"not a document")]
    (root / "index.json").write_text(json.dumps(index))
    leave(store)
    assert len(prune(root).gone) > 4
    for data in (b"one", b"two", b"three", b"four", b"not a document"):
        assert (root / "blobs" / "sha256" / hashlib.sha256(data).hexdigest()).read_bytes() == data
    assert prune(root).gone == ()


def test_what_lies_beside_partial_and_damaged_files_stays(root):
    for place in ("partial", "damaged"):
        (root / place / "folder").mkdir(parents=True)
        (root / place / ("a" * 64 + ".1")).mkdir()
        (root / place / ("b" * 64)).mkdir()
        (root / place / "notes.txt").write_text("somebody's")
        (root / place / ("c" * 64)).symlink_to(root / "lost")
        (root / place / ("c" * 64 + ".1")).symlink_to("lost")
        os.mkfifo(root / place / ("d" * 64))
    (root / "partial" / ("e" * 64)).write_bytes(b"x")
    (root / "damaged" / ("e" * 64 + ".0")).write_bytes(b"x")
    before = {path for path in root.rglob("*") if "e" * 64 not in path.name}
    assert [item.path for item in prune(root, damaged=True).gone] == ["partial/" + "e" * 64, "damaged/" + "e" * 64 + ".0"]
    assert set(root.rglob("*")) == before


def test_while_somebody_adds_nothing_is_removed(root):
    leave(opened(root))
    before = content(root)
    for dry_run in (False, True):
        with removal.adding(root), pytest.raises(SteleError) as raised:
            prune(root, dry_run=dry_run)
        assert raised.value.code == "store.busy"
        assert raised.value.retryable
    assert content(root) == before
    assert prune(root).gone


def test_seals_and_prunes_at_once_lose_nothing(root):
    done = threading.Event()
    sealed: list[str] = []

    def seals() -> None:
        try:
            for number in range(10, 22):
                store = opened(root)
                with store.adding():
                    sealed.append(seal(store, {b"app": b"%d" % number * 9000, b"same": b"same" * 9000}).digest)
                    leave(store)
        finally:
            done.set()

    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(seals)
        while not done.is_set():
            try:
                prune(root)
            except SteleError as error:
                assert error.code == "store.busy"
        work.result()
    prune(root)
    assert check(root).problems == []
    assert not [item for item in check(root).notes if item.kind == "unnamed"]
    store = opened(root)
    for digest in sealed:
        store.verify(store.release(digest))


ADDS = """
import sys
from pathlib import Path
from stele.store import removal

with removal.adding(Path(sys.argv[1])):
    print(Path(sys.argv[2]).exists(), flush=True)
    with removal.adding(Path(sys.argv[1])):  # what is sealed unpacks something
        sys.stdin.read()
"""


@contextlib.contextmanager
def adds(root: Path, path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that adds to the store until its standard input ends; it says whether a file was there when it began."""
    argv = [sys.executable, "-c", ADDS, str(root), str(path)]
    env = {**os.environ, "PYTHONPATH": str(Path(removal.__file__).parents[2])}
    with subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        yield running


def until(true: Any) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_held(path: Path) -> bool:
    """Whether somebody holds a lock alone."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def waits(process: subprocess.Popen[str]) -> bool:
    """Whether a process waits for a lock."""
    return any(" -> " in line and f" {process.pid} " in line for line in Path("/proc/locks").read_text().splitlines())


def test_a_prune_comes_to_its_turn_where_somebody_always_adds(root):
    leave(opened(root))
    left = next(root / item.path for item in prune(root, dry_run=True).gone)
    with ThreadPoolExecutor(1) as pool, adds(root, left) as first:
        assert first.stdout.readline() == "True\n"
        (root / "removing").touch()
        work = pool.submit(pruning.prune, opened(root), tuple, damaged=False, dry_run=False, record=unrecorded, wait=120.0)
        until(lambda: is_held(root / "removing"))
        with adds(root, left) as second:
            until(lambda: waits(second) or not left.exists())
            first.communicate()
            assert second.stdout.readline() == "False\n"  # it began after the prune
            assert any(str(root / item.path) == str(left) for item in work.result().gone)


def test_a_prune_waits_no_longer_than_it_is_told_to_and_lets_others_go_on(root):
    leave(opened(root))
    left = next(root / item.path for item in prune(root, dry_run=True).gone)
    with adds(root, left) as first:
        assert first.stdout.readline() == "True\n"
        with pytest.raises(SteleError) as raised:
            pruning.prune(opened(root), tuple, damaged=False, dry_run=False, record=unrecorded, wait=0.1)
        assert raised.value.code == "store.busy"
        assert "waited 0.1 s" in raised.value.reason
        with adds(root, left) as second:
            assert second.stdout.readline() == "True\n"


def test_a_prune_that_is_killed_while_it_waits_holds_nobody_up(root):
    leave(opened(root))
    left = next(root / item.path for item in prune(root, dry_run=True).gone)
    with adds(root, left) as first:
        assert first.stdout.readline() == "True\n"
        if (child := os.fork()) == 0:
            try:
                pruning.prune(opened(root), tuple, damaged=False, dry_run=False, record=unrecorded, wait=600.0)
            finally:
                os._exit(0)
        until(lambda: is_held(root / "removing"))
        with adds(root, left) as second:
            until(lambda: waits(second))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            assert second.stdout.readline() == "True\n"


def kill_at(fatal: int) -> Any:
    """Counts the lines of what removes, and kills this process at one of them."""
    seen = 0
    traced = {module.__file__ for module in (pruning, upkeep, removal)}

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename not in traced:
            return None
        if event == "line":
            seen += 1
            if seen == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    trace.seen = lambda: seen  # type: ignore[attr-defined]
    return trace


def test_a_prune_that_is_killed_anywhere_is_finished_by_the_next_and_every_loss_is_recorded(made, tmp_path):
    prepared = tmp_path / "prepared"
    shutil.copytree(made, prepared)
    leave(opened(prepared))
    whole = set(content(prepared))
    counting = kill_at(0)
    shutil.copytree(prepared, tmp_path / "counted")
    sys.settrace(counting)
    try:
        prune(tmp_path / "counted")
    finally:
        sys.settrace(None)
    total = counting.seen()
    assert total > 50
    killed = 0
    for fatal in range(1, total + 1, max(1, total // 24)):
        root, said = tmp_path / f"at{fatal}", tmp_path / f"said{fatal}"
        shutil.copytree(prepared, root)

        def record(workload: str, kind: str, /, *, said: Path = said, **facts: Any) -> None:
            with said.open("a") as file:
                file.write(json.dumps(facts["files"]) + "\n")

        if (child := os.fork()) == 0:
            sys.settrace(kill_at(fatal))
            try:
                prune(root, record)
            finally:
                os._exit(0)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        lost = whole - set(content(root))
        prune(root, record)
        recorded = {path for line in said.read_text().splitlines() for path in json.loads(line)}
        assert lost <= recorded
        assert whole - set(content(root)) == recorded
        assert check(root).problems == []
        assert not [item for item in check(root).notes if item.kind == "unnamed"]
    assert killed > 12


def test_what_packing_removes_is_recorded_before(root):
    before = set(content(root))
    ledger = Ledger()
    packing.pack(opened(root), (), keep_layers=False, record=ledger, say=lambda _: None)
    assert ledger.files("packed") == before - set(content(root))
    assert len(ledger.files("packed")) > 3


def test_long_lists_are_recorded_in_several_entries(root):
    store = opened(root)
    for number in range(upkeep.MOST + 5):
        store.put(b"%d" % number)
    ledger = Ledger()
    done = prune(root, ledger)
    assert [len(facts["files"]) for _, facts in ledger.said] == [upkeep.MOST, 5]
    assert len(done.gone) == upkeep.MOST + 5


def test_what_another_process_says_of_the_store_is_looked_at():
    from stele.flow.record import Recorder

    record = Recorder(lambda events: None, actor="operator", clock=lambda: 1)
    good = {"why": "unnamed", "files": ["blobs/sha256/ab"], "bytes": 1}
    assert upkeep.event(record, "store.removing", good).data == good
    assert upkeep.event(record, "store.repaired", {"mended": [["a", "b", ""]], "left": ["c"]}).workload == ""
    for kind, data in (
        ("key.added", good), ("store.removing", {}), ("store.removing", None), ("store.removing", {**good, "more": 1}),
        ("store.removing", {**good, "bytes": True}), ("store.removing", {**good, "files": [1]}), ("store.removing", {**good, "files": "x"}),
        ("store.removing", {**good, "files": ["x" * 70_000]}), ("store.repaired", {"mended": [["a", 1, ""]], "left": []}),
        ("store.repairing", {"problems": [{"a": "b"}]}), ("store.repairing", {"problems": [["a"] * 4]}),
    ):  # fmt: skip
        with pytest.raises(SteleError) as raised:
            upkeep.event(record, kind, data)
        assert raised.value.code == "api.bad-request", (kind, data)
