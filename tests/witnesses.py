"""Witnesses and logs for tests: real ones on loopback, a log made of bare leaf hashes."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator
from pathlib import Path

from stele.api.listening import listen
from stele.host.http_server import HttpServer, Limits, Reply
from stele.trust import merkle, note, witnessing
from stele.witness import state
from stele.witness.service import Answer, Witness

NOW = 1_800_000_000
SIGNER = note.Signer.generate("log.example/one")


class Log:
    """A log of any size: leaf N is the hash of `<tag>N`."""

    def __init__(self, signer: note.Signer = SIGNER, tag: str = "leaf") -> None:
        self.signer, self.tag = signer, tag

    def subtree(self, begin: int, end: int) -> bytes:
        return merkle.root([merkle.leaf_hash(f"{self.tag}{number}".encode()) for number in range(begin, end)])

    def head(self, size: int) -> note.Checkpoint:
        return note.Checkpoint(self.signer.name, size, self.subtree(0, size))

    def note(self, size: int) -> bytes:
        return self.signer.sign(self.head(size).body(), NOW)

    def prove(self, old: int, size: int) -> tuple[bytes, ...]:
        return tuple(merkle.consistency(old, size, self.subtree)) if 0 < old < size else ()

    def submission(self, old: int, size: int) -> bytes:
        return witnessing.encode(witnessing.Submission(old, self.prove(old, size), self.note(size)))


def make(folder: Path, *logs: note.Verifier, name: str = "witness.example/w1") -> state.Keys:
    keys = state.make(folder, name)
    state.add_logs(folder, logs or SIGNER.verifiers)
    return keys


@contextlib.contextmanager
def serving(folder: Path, *, clock=lambda: NOW, limits: Limits | None = None, port: int = 0) -> Iterator[HttpServer]:
    """The witness of a folder, on loopback."""
    witness = Witness(folder, clock=clock)

    def answer(method: str, path: str, body: bytes) -> Reply:
        return Reply(*witness.answer(method, path, body))

    server = HttpServer(listen(f"127.0.0.1:{port}"), answer, limits or Limits(witnessing.MAX_BODY))
    try:
        yield server
    finally:
        server.close()
        witness.close()


def post(port: int, body: bytes, path: str = "/add-checkpoint") -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", path, body=body)
        answer = connection.getresponse()
        return answer.status, answer.headers.get("Content-Type", ""), answer.read()
    finally:
        connection.close()


def add(witness: Witness, body: bytes) -> Answer:
    """What a witness answers to a submission, without HTTP."""
    return witness.answer("POST", "/add-checkpoint", body)
