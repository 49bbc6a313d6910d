"""A registry that is busy is asked again after growing pauses, or after the one that it asks for."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from stele.host.http_registry import TRIES, Connections
from stele.host.registry import UNKNOWN_TRIES, Repository
from stele.model import reference as references
from tests.refusals import code


class _Busy(http.server.BaseHTTPRequestHandler):
    """Answers with what `server.answers` has next (status, Retry-After), and with its last one for ever."""

    def do_GET(self) -> None:
        served: Any = self.server
        status, asked_for = served.answers.pop(0) if len(served.answers) > 1 else served.answers[0]
        self.send_response(status)
        if asked_for:
            self.send_header("Retry-After", asked_for)
        if status == 200:
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        served: Any = self.server
        body = served.bodies.pop(0) if len(served.bodies) > 1 else served.bodies[0]
        self.send_response(400 if body else 201)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def busy() -> Iterator[Any]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def asked(server: Any, *answers: tuple[int, str]) -> tuple[str, list[float]]:
    """The code of the refusal, and how long was waited between the tries, without waiting."""
    server.answers = list(answers)
    pauses: list[float] = []
    host = f"127.0.0.1:{server.server_address[1]}"
    with Repository(Connections(host, plain_http=True, sleep=pauses.append), references.parse(f"{host}/team/app")) as repository:
        return code(repository.tags), pauses


def test_pauses_grow_and_end(busy):
    refusal, pauses = asked(busy, (503, ""))
    assert refusal == "registry.unavailable"
    assert len(pauses) == TRIES - 1
    assert all(0.25 * 2**number <= pause <= 0.5 * 2**number for number, pause in enumerate(pauses))


def test_the_pause_that_is_asked_for_is_made(busy):
    refusal, pauses = asked(busy, (429, "7"), (503, "3"), (429, "600"))
    assert refusal == "registry.throttled"
    assert pauses == [7.0, 3.0]  # ten minutes are not waited for


UNKNOWN = b'{"errors":[{"code":"DIGEST_INVALID"},{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown to registry"}]}'


@pytest.mark.parametrize(
    ("bodies", "pauses", "refusal"),
    [
        ([UNKNOWN, UNKNOWN, b""], 2, ""),
        ([UNKNOWN], UNKNOWN_TRIES - 1, "registry.refused"),
        ([b'{"errors":[{"code":"MANIFEST_INVALID"}]}'], 0, "registry.refused"),
    ],
)
def test_a_blob_that_a_registry_does_not_know_for_a_moment_is_waited_for(busy, bodies, pauses, refusal):
    busy.bodies, waited = bodies, []
    host = f"127.0.0.1:{busy.server_address[1]}"
    with Repository(Connections(host, plain_http=True, sleep=waited.append), references.parse(f"{host}/team/app")) as repository:
        if refusal:
            assert code(repository.put_manifest, "v1", "application/json", b"{}") == refusal
        else:
            repository.put_manifest("v1", "application/json", b"{}")
    assert len(waited) == pauses
