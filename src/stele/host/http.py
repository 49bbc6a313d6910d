"""The one doorway for HTTP connections: health probes, and requests to the agent over its Unix socket."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any

from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_LINE = 1 << 20


def probe(address: str, port: int, path: str, timeout: float) -> str:
    """Ask an instance whether it is healthy; returns "" if so, else the reason in a few words.

    Args:
        address: IPv4 address of the instance.
        port: TCP port inside it.
        path: HTTP path that must answer 2xx or 3xx; "" for a mere TCP connection.
        timeout: seconds for the whole probe.
    """
    try:
        if not path:
            socket.create_connection((address, port), timeout).close()
            return ""
        connection = http.client.HTTPConnection(address, port, timeout=timeout)
        try:
            connection.request("GET", path, headers={"Host": "localhost", "User-Agent": "stele-health", "Connection": "close"})
            status = connection.getresponse().status
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    return "" if 200 <= status < 400 else f"HTTP status {status}"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("agent", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def unix_request(sock: Path, method: str, target: str, body: dict[str, Any] | None, *, timeout: float) -> Iterator[dict[str, Any]]:
    """Send a JSON request over a Unix socket; yields each line of the newline-delimited JSON answer as it comes.

    Raises:
        SteleError: `agent.not-running`, `agent.not-permitted`, `agent.broke-off`.
    """
    connection = _UnixConnection(sock, timeout)
    try:
        try:
            payload = None if body is None else json.dumps(body).encode()
            connection.request(method, target, body=payload, headers={"Content-Type": "application/json"})
        except PermissionError as error:
            raise SteleError(
                f"you may not talk to the agent ({sock})",
                remedy="run the command as the agent's user, for example through sudo",
                code="agent.not-permitted",
            ) from error
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise SteleError(
                "no agent is running for this data folder",
                remedy="start it with `stele agent start`",
                code="agent.not-running",
                retryable=True,
            ) from error
        except OSError as error:
            raise _broke_off(error) from error
        try:
            answer = connection.getresponse()
            while line := answer.readline(MAX_LINE):
                yield json.loads(line)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _broke_off(error) from error
    finally:
        connection.close()


def _broke_off(error: Exception) -> SteleError:
    return SteleError(
        f"the agent broke off in the middle of its answer: {error}",
        remedy="see `stele status` for what was done, and the agent's log in the data folder (agent/agent.log)",
        code="agent.broke-off",
        retryable=True,
    )
