"""The demo's look at the host sees what it is there to see: each kind of leftover, made with the real tools."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.demo import host_state

pytestmark = pytest.mark.root
TAG = "feedc0de"


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=30)


@contextlib.contextmanager
def leftovers(folder: Path) -> Iterator[None]:
    """One of each kind, removed again."""
    mount = folder / f"stele-{TAG}-mount"
    mount.mkdir()
    tops = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup" in line]
    group = Path(next((top for top in tops if top.endswith("freezer")), tops[0])) / f"stele-{TAG}"
    sleeper = None
    with contextlib.ExitStack() as undo:
        _run("mount", "-t", "tmpfs", "none", str(mount))
        undo.callback(_run, "umount", str(mount))
        _run("ip", "netns", "add", f"stele-{TAG}-x")
        undo.callback(_run, "ip", "netns", "del", f"stele-{TAG}-x")
        _run("nft", "add", "table", "inet", f"stele_{TAG}")
        undo.callback(_run, "nft", "delete", "table", "inet", f"stele_{TAG}")
        group.mkdir()
        undo.callback(group.rmdir)
        sleeper = subprocess.Popen(["sh", "-c", f": {TAG}; read x"], stdin=subprocess.PIPE)
        undo.callback(sleeper.wait)
        undo.callback(sleeper.kill)
        yield


def test_every_kind_of_leftover_is_seen_and_ours(tmp_path: Path) -> None:
    before = host_state.take(TAG, tmp_path)
    with leftovers(tmp_path):
        during = host_state.take(TAG, tmp_path)
    after = host_state.take(TAG, tmp_path)
    found = {change.kind for change in host_state.compare(before, during, TAG, tmp_path) if change.owner == "ours"}
    assert found >= {"mount", "network namespace", "nft table", "cgroup", "process"}
    assert [str(change) for change in host_state.compare(before, after, TAG, tmp_path) if change.owner == "ours"] == []


def test_own_process_and_its_ancestors_are_not_counted(tmp_path: Path) -> None:
    marked = Path(f"/proc/{os.getpid()}/cmdline").read_bytes().split(b"\0")[0].decode()
    assert not any(name.startswith(f"{os.getpid()}:") for name in host_state._processes((marked,)))
