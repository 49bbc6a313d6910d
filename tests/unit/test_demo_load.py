"""The demo's clients: what a server can do to a request is told apart and counted, so that `0 lost` means something."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from examples.demo import load

PAGE = b"<p>shop version 7</p>"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(PAGE), PAGE)


def _read_request(conn: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        chunk = conn.recv(4096)
        if not chunk:
            break
        data += chunk
    return data


def _reset(conn: socket.socket) -> None:
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()


@contextlib.contextmanager
def server(answer: Callable[[socket.socket, threading.Event], None]) -> Iterator[int]:
    """Serve each connection by `answer`, in a thread of its own; yields the port."""
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                conn, _ = listener.accept()
                threading.Thread(target=one, args=(conn,), daemon=True).start()

    def one(conn: socket.socket) -> None:
        with contextlib.suppress(OSError), conn:
            answer(conn, over)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def _says(data: bytes) -> Callable[[socket.socket, threading.Event], None]:
    def answer(conn: socket.socket, over: threading.Event) -> None:
        _read_request(conn)
        conn.sendall(data)

    return answer


@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        (WHOLE, "ok"),
        (WHOLE[:-3], "broken answer"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "error answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n15\r\n" + PAGE + b"\r\n0\r\n\r\n", "ok"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n15\r\n" + PAGE, "broken answer"),
        (b"HTTP/1.1 200", "broken answer"),
        (b"", "reset"),
    ],
)
def test_answer_is_judged_by_what_arrived(data: bytes, outcome: str) -> None:
    with server(_says(data)) as port:
        found, body = load.ask(port)
    assert found == outcome
    if outcome == "ok":
        assert body == PAGE


def test_refused_connection_is_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert load.ask(unused.getsockname()[1])[0] == "refused"


def test_reset_connection_is_reset() -> None:
    def answer(conn: socket.socket, over: threading.Event) -> None:
        _read_request(conn)
        _reset(conn)

    with server(answer) as port:
        assert load.ask(port)[0] == "reset"


def test_silent_server_is_timed_out() -> None:
    with server(lambda conn, over: over.wait(10) and None) as port:
        assert load.ask(port, timeout=0.05)[0] == "timed out"


def test_clients_count_losses_and_see_the_version() -> None:
    count = iter(range(1_000_000))

    def answer(conn: socket.socket, over: threading.Event) -> None:
        _read_request(conn)
        if next(count) == 5:
            _reset(conn)
        else:
            conn.sendall(WHOLE)

    with server(answer) as port, load.Clients(port, threads=3) as clients:
        assert clients.await_answers(20, timeout=30)
    found = load.account(clients.requests())
    assert found.lost == 1
    assert found.by_outcome["reset"] == 1
    assert found.versions == (7,)
    assert f"{found.total} requests, 1 lost (1 reset)" == str(found)


def test_arrivals_do_not_wait_for_those_before_them() -> None:
    hung = threading.Event()

    def answer(conn: socket.socket, over: threading.Event) -> None:
        if not hung.is_set():
            hung.set()
            over.wait(10)
        else:
            _says(WHOLE)(conn, over)

    with server(answer) as port, load.Arrivals(port, every=0.005, timeout=0.5) as visitors:
        assert visitors.await_answers(20, timeout=30)
    found = load.account(visitors.requests())
    assert found.by_outcome["timed out"] == 1
    assert found.by_outcome["ok"] >= 20


def test_await_answers_gives_up_when_nothing_answers() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with load.Clients(unused.getsockname()[1], threads=1) as clients:
            assert not clients.await_answers(1, timeout=0.2)


def test_longest_gap_is_between_answers() -> None:
    seen = [(0, 10, "ok", 1), (15, 20, "refused", 0), (30, 40, "ok", 1), (40, 45, "ok", 2)]
    found = load.account([load.Request(begun, ended, outcome, version) for begun, ended, outcome, version in seen])
    assert (found.longest_gap_s, found.lost, found.versions) == (30 / 1e9, 1, (1, 2))


def test_keep_alive_connection_closed_between_requests_is_not_a_loss() -> None:
    def answer(conn: socket.socket, over: threading.Event) -> None:
        for _ in range(3):
            if not _read_request(conn):
                return
            conn.sendall(WHOLE)

    with server(answer) as port, load.KeepAlive(port, pause=0) as client:
        while client.connections < 4:
            client._stop.wait(0.001)
    assert client.lost == 0
    assert client.answered >= 9
    assert client.closed >= 3


def test_keep_alive_answer_broken_off_is_a_loss() -> None:
    def answer(conn: socket.socket, over: threading.Event) -> None:
        _read_request(conn)
        conn.sendall(WHOLE[:-3])

    with server(answer) as port, load.KeepAlive(port, pause=0) as client:
        while client.connections < 3:
            client._stop.wait(0.001)
    assert client.lost >= 2
    assert client.answered == 0
