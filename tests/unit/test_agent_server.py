"""What the agent's HTTP interface takes from whoever may open its socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from stele.api import server

MIB = 1 << 20


def asked(chunks: Iterator[bytes], *, method: str = "POST", path: str = "/v1/apply") -> tuple[int, dict[str, Any], int]:
    """Status, answer, and how much of the body was taken, of a request whose body comes in these chunks."""
    return asyncio.run(_asked(chunks, method, path))


async def _asked(chunks: Iterator[bytes], method: str, path: str) -> tuple[int, dict[str, Any], int]:
    taken, sent, ended, answered = 0, [], False, asyncio.Event()

    async def receive() -> dict[str, Any]:
        nonlocal taken, ended
        if ended:
            await answered.wait()
            return {"type": "http.disconnect"}
        chunk = next(chunks, None)
        taken, ended = taken + len(chunk or b""), chunk is None
        return {"type": "http.request", "body": chunk or b"", "more_body": not ended}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            answered.set()

    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b"", "root_path": ""}
    await server.application(None, lambda: None)(scope, receive, send)  # no request of these gets as far as the fleet
    answer = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], json.loads(answer), taken


def endless() -> Iterator[bytes]:
    while True:
        yield b" " * MIB


def test_a_body_without_end_is_refused_at_its_bound():
    status, answer, taken = asked(endless())
    assert (status, answer["error"]["code"]) == (400, "api.bad-request")
    assert taken == server.MAX_BODY + MIB


@pytest.mark.parametrize("body", [b"x", b"[]", b"\xff", b"[" * 100_000, b" " * (server.MAX_BODY + 1)])
def test_what_is_no_request(body):
    status, answer, _ = asked(iter([body]))
    assert (status, answer["error"]["code"]) == (400, "api.bad-request")


def test_a_body_in_pieces_is_one_body():
    for pieces, expected in (([b'{"a', b"b", b'": 7}'], 200), ([b'{"a', b"b"], 400)):
        status, _, taken = asked(iter(pieces), method="GET", path="/v1/ping")
        assert (status, taken) == (expected, sum(map(len, pieces)))
