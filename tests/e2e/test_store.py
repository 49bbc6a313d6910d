"""The store's upkeep while an agent runs from it."""

from __future__ import annotations

import pytest

from tests.e2e.host import Host

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


def test_beside_a_running_agent_the_store_is_pruned_and_the_agent_records_it(host: Host) -> None:
    release = host.seal("1")
    host.stele("apply", release)
    path = "blobs/sha256/" + "ab" * 32
    (host.data / "store" / path).write_bytes(b"nobody's")
    done = host.stele("store", "prune")
    assert path in [item["path"] for item in done["removed"]]
    said = host.events("store.removing")[-1]
    assert path in said["data"]["files"]
    assert said["actor"] == "operator"
    assert not (host.data / "store" / path).exists()
    assert host.get() == "version 1"
    assert host.stele("store", "check")["problems"] == []
