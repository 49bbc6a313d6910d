"""A host with an agent, and the proof that nothing of it stays."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.demo import host_state
from stele.flow.places import Places
from tests.e2e.host import Host


@pytest.fixture
def host() -> Iterator[Host]:
    """A data folder with keys and a running agent. Afterwards the machine is as it was before."""
    folder = Path(tempfile.mkdtemp(prefix="stele-e2e-", dir="/var/tmp"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = Host(folder, port)
    tag = Places(made.data).tag
    before = host_state.take(tag, made.data)
    made.stele("init", "--keys-only")
    made.stele("agent", "start")
    try:
        yield made
    finally:
        made.stele("agent", "stop", "--remove")
        after = host_state.take(tag, made.data)
        subprocess.run(["chattr", "-R", "-i", str(folder)], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(folder)
    left = [str(change) for change in host_state.compare(before, after, tag, made.data) if change.owner == "ours"]
    assert not left
