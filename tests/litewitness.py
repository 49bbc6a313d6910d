"""litewitness, Filippo Valsorda's witness, as a peer: its key in an ssh-agent, its state in SQLite."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stele.trust import note
from tests.judges import go_judge

PROGRAM = "filippo.io/torchwood/cmd/litewitness@v0.10.0"
NAME = "lite.example/w"


@contextlib.contextmanager
def running(folder: Path, logs: Sequence[note.Verifier]) -> Iterator[tuple[note.Verifier, str]]:
    """Its vkey and its address."""
    program = go_judge(PROGRAM)
    private = Ed25519PrivateKey.generate()
    key, agent = folder / "key", folder / "agent"
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()))
    key.chmod(0o600)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [subprocess.Popen(["ssh-agent", "-D", "-a", agent], stdout=subprocess.DEVNULL)]
    try:
        _until(lambda: _listens(agent))
        env = {**os.environ, "SSH_AUTH_SOCK": str(agent)}
        subprocess.run(["ssh-add", "-q", key], env=env, check=True)
        listed = subprocess.run(["ssh-add", "-l"], env=env, check=True, capture_output=True, text=True).stdout
        argv = [program, "-db", folder / "db", "-name", NAME, "-key", listed.split()[1], "-ssh-agent", agent]
        with (folder / "litewitness.log").open("wb") as said:
            started.append(subprocess.Popen([*argv, "-listen", f"127.0.0.1:{port}"], stderr=said))
        _until(lambda: _answers(port))
        with contextlib.closing(sqlite3.connect(folder / "db")) as db, db:
            # what its witnessctl does; that one needs modules that are not in the proxy
            empty = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
            db.executemany("INSERT INTO log (origin, tree_size, tree_hash) VALUES (?, 0, ?)", [(log.name, empty) for log in logs])
            db.executemany("INSERT INTO key (origin, key) VALUES (?, ?)", [(log.name, log.encode()) for log in logs])
        public = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        identity = note.key_id(NAME, public, note.COSIGNATURE)
        yield note.Verifier(NAME, identity, public, note.COSIGNATURE), f"http://127.0.0.1:{port}"
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def _until(true) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _listens(path: Path) -> bool:
    """Whether somebody takes connections there: the socket has its name before that."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
