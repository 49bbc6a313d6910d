"""Clients that ask the shop without pause, and keep account of every request.

`Clients` opens a new connection per request: what it counts as lost is what a visitor would see fail. `KeepAlive` uses one
connection for many; a server may close that between two requests at any time, which a browser answers by asking again
(RFC 9112, 9.3.1): such closings are counted apart from losses.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

Outcome = Literal["ok", "refused", "reset", "timed out", "unreachable", "broken answer", "error answer"]
TIMEOUT_S = 2.0
_VERSION = re.compile(rb"shop version (\d+)")


class Request(NamedTuple):
    """One request: when it began and ended (monotonic ns), how, and the shop version in the answer (0: none)."""

    begun: int
    ended: int
    outcome: Outcome
    version: int


def ask(port: int, target: str = "/", *, host: str = "127.0.0.1", timeout: float = TIMEOUT_S) -> tuple[Outcome, bytes]:
    """One GET over a connection of its own; the outcome and the answer's body."""
    deadline = time.monotonic() + timeout
    try:
        with socket.create_connection((host, port), timeout=timeout) as conn:
            conn.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
            answer = _receive(conn, deadline)
    except OSError as error:
        return _failure(error), b""
    return _judge(answer)


def _receive(conn: socket.socket, deadline: float) -> bytes:
    data = bytearray()
    while True:
        conn.settimeout(max(0.001, deadline - time.monotonic()))
        chunk = conn.recv(65536)
        if not chunk:
            return bytes(data)
        data += chunk


def _failure(error: OSError) -> Outcome:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
        return "reset"
    return "unreachable"


def _judge(answer: bytes) -> tuple[Outcome, bytes]:
    head, found, body = answer.partition(b"\r\n\r\n")
    if not answer:
        return "reset", b""
    match = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
    if not found or not match:
        return "broken answer", body
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    if length and int(length[1]) != len(body):
        return "broken answer", body
    if re.search(rb"\r\ntransfer-encoding: *chunked", head, re.IGNORECASE):
        if not body.endswith(b"0\r\n\r\n"):
            return "broken answer", body
        body = _dechunk(body)
    return ("ok" if match[1] == b"200" else "error answer"), body


def _dechunk(body: bytes) -> bytes:
    whole = bytearray()
    while body:
        size, _, body = body.partition(b"\r\n")
        with contextlib.suppress(ValueError):
            count = int(size, 16)
            whole += body[:count]
            body = body[count + 2 :]
            if count:
                continue
        break
    return bytes(whole)


class Account(NamedTuple):
    """What happened to a number of requests. Times in seconds."""

    total: int
    by_outcome: dict[str, int]
    versions: tuple[int, ...]
    longest_gap_s: float
    slowest_s: float

    @property
    def lost(self) -> int:
        """Requests without the answer they should have got."""
        return self.total - self.by_outcome.get("ok", 0)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.by_outcome.items()) if kind != "ok")
        return f"{self.total} requests, {self.lost} lost" + (f" ({kinds})" if kinds else "")


def account(requests: list[Request]) -> Account:
    """Sum up. The longest gap is the longest time between the ends of two answered requests."""
    answered = sorted(request.ended for request in requests if request.outcome == "ok")
    gap = max((after - before for before, after in itertools.pairwise(answered)), default=0)
    versions = sorted({request.version for request in requests if request.version})
    slowest = max((request.ended - request.begun for request in requests if request.outcome == "ok"), default=0)
    return Account(len(requests), dict(Counter(request.outcome for request in requests)), tuple(versions), gap / 1e9, slowest / 1e9)


class Clients:
    """Threads that ask for a page one request after the other until the block ends. Use it as a context manager.

    Args:
        port: on 127.0.0.1.
        threads: how many ask at the same time.
        pause: seconds between two requests of one thread; without one, they would only measure each other.
    """

    def __init__(self, port: int, *, threads: int = 4, pause: float = 0.002, timeout: float = TIMEOUT_S) -> None:
        self._port, self._pause, self._timeout = port, pause, timeout
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._done: list[Request] = []
        self._threads = [threading.Thread(target=self._run, name=f"client-{number}", daemon=True) for number in range(threads)]

    def _run(self) -> None:
        while not self._stop.is_set():
            self._visit()
            self._stop.wait(self._pause)

    def _visit(self) -> None:
        begun = time.monotonic_ns()
        outcome, body = ask(self._port, timeout=self._timeout)
        match = _VERSION.search(body)
        request = Request(begun, time.monotonic_ns(), outcome, int(match[1]) if match else 0)
        with self._lock:
            self._done.append(request)

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(self._timeout + 5)

    def requests(self, since: int = 0) -> list[Request]:
        """Finished requests that began at or after `since` (monotonic ns)."""
        with self._lock:
            return [request for request in self._done if request.begun >= since]

    def await_answers(
        self, count: int, *, timeout: float, wanted: Callable[[Request], bool] = lambda request: request.outcome == "ok"
    ) -> bool:
        """Wait until `count` requests that begin from now on have come out as `wanted`; False if they did not in time."""
        since, limit = time.monotonic_ns(), time.monotonic() + timeout
        while time.monotonic() < limit:
            if sum(wanted(request) for request in self.requests(since)) >= count:
                return True
            time.sleep(0.002)
        return False


class Arrivals(Clients):
    """Visitors who arrive at fixed intervals, each on their own, whatever became of those before them.

    So the longest gap between two answers is the shop's, not an effect of clients that wait for an answer that never comes.

    Args:
        port: on 127.0.0.1.
        every: seconds between two arrivals.
        timeout: seconds after which a visitor gives up.
    """

    def __init__(self, port: int, *, every: float = 0.01, timeout: float = 1.0) -> None:
        super().__init__(port, threads=0, timeout=timeout)
        self._every = every
        self._visits: list[threading.Thread] = []
        self._threads = [threading.Thread(target=self._arrive, name="arrivals", daemon=True)]

    def _arrive(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            visit = threading.Thread(target=self._visit, name="visitor", daemon=True)
            visit.start()
            self._visits.append(visit)
            due += self._every
            self._stop.wait(max(0.0, due - time.monotonic()))

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        for visit in self._visits:
            visit.join(self._timeout + 5)


class KeepAlive:
    """One thread that asks over one connection as long as the server keeps it open. Use it as a context manager.

    `answered`, `lost`: requests. `closed`: how often the server had closed the connection before it answered a byte, so that
    the request was sent again over a new one.
    """

    def __init__(self, port: int, *, pause: float = 0.005) -> None:
        self._port, self._pause = port, pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keep-alive", daemon=True)
        self.answered = self.lost = self.closed = self.connections = 0

    def __enter__(self) -> KeepAlive:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(TIMEOUT_S + 5)

    def _run(self) -> None:
        conn: socket.socket | None = None
        while not self._stop.is_set():
            fresh = conn is None
            try:
                if conn is None:
                    conn = socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT_S)
                    self.connections += 1
                got = self._once(conn)
            except TimeoutError:
                got = b"nothing in time"
            except OSError:
                got = b""
            if got and got.startswith(b"HTTP/1.1 200"):
                self.answered += 1
            else:
                if conn is not None:
                    conn.close()
                    conn = None
                if got or fresh:
                    self.lost += 1  # broken off in the middle, or a new connection failed
                else:
                    self.closed += 1
                    continue  # the same request again, over a new connection
            self._stop.wait(self._pause)
        if conn is not None:
            conn.close()

    def _once(self, conn: socket.socket) -> bytes:
        """Send a request and read its whole answer; b"" if the server closed before the first byte, a part if in the middle."""
        conn.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n\r\n".encode())
        data = b""
        while True:
            try:
                chunk = conn.recv(65536)
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                return b"" if not data else b"broken"
            data += chunk
            head, found, body = data.partition(b"\r\n\r\n")
            length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
            if found and length and len(body) >= int(length[1]):
                return data
