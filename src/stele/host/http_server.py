"""The one doorway for serving small HTTP requests to strangers: bounded in size, time and number, a thread each.

Not for files, and not for the agent's socket. A client that is slow, silent or talks nonsense is cut off; it costs a thread until
its deadline, and there are so many for one address and for all.
"""

from __future__ import annotations

import contextlib
import http.server
import logging
import math
import socket
import socketserver
import ssl
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from stele import __version__
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)
POLL_S = 0.2


class Limits(NamedTuple):
    """Bounds of a server. Times in seconds, for the whole of what they name, however many pieces it comes in."""

    body: int  # bytes
    request: float = 10.0  # from the first byte of a request to the last of its answer
    idle: float = 60.0  # between two requests on one connection, and from connecting to the first
    connections: int = 256
    per_address: int = 64


class Reply(NamedTuple):
    """An answer: status, content type, body."""

    status: int
    content_type: str
    body: bytes


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = f"stele/{__version__}"
    sys_version = ""
    wbufsize = 1 << 16  # an answer leaves in one piece
    server: _Server

    def setup(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()  # here, in the thread that may be cut off
        super().setup()

    def handle_one_request(self) -> None:
        limits = self.server.limits
        self.server.set_deadline(self.connection, limits.idle)
        self.rfile.peek(1)  # type: ignore[attr-defined]  # waits for a request to begin
        self.server.set_deadline(self.connection, limits.request)
        super().handle_one_request()

    def _serve(self) -> None:
        limits = self.server.limits
        text = self.headers.get("Content-Length", "0")
        lengths = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or len(lengths) > 1 or not (text.isascii() and text.isdigit() and len(text) < 12):
            self.close_connection = True
            self._send(Reply(411, "text/plain", b"say how long the request is\n"))
            return
        if int(text) > limits.body:
            self.close_connection = True
            self._send(Reply(413, "text/plain", b"the request is too long\n"))
            return
        body = self.rfile.read(int(text))
        if len(body) < int(text):
            self.close_connection = True
            return
        self._send(self.server.answer(self.command, self.path, body))

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        if reply.status == 503:
            self.send_header("Retry-After", "5")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_OPTIONS = do_PATCH = _serve  # noqa: N815  names that the base class looks for

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        log.debug("%s %s", self.client_address[0], format % args)


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    request_queue_size = 128
    daemon_threads = True
    block_on_close = False

    def __init__(self, sock: socket.socket, limits: Limits, answer: Callable[[str, str, bytes], Reply], tls: ssl.SSLContext | None) -> None:
        self.address_family = sock.family
        self.limits, self.answer, self._tls = limits, answer, tls
        self._turn = threading.Lock()
        self._deadlines: dict[socket.socket, float] = {}
        self._counts: Counter[str] = Counter()
        super().__init__(sock.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = sock

    def set_deadline(self, connection: socket.socket, seconds: float) -> None:
        """From now on; whoever has not finished then is cut off."""
        with self._turn:
            if connection in self._deadlines:
                self._deadlines[connection] = time.monotonic() + seconds

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def verify_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: tuple[str, int]) -> bool:
        assert isinstance(request, socket.socket)
        with self._turn:
            if len(self._deadlines) >= self.limits.connections or self._counts[client_address[0]] >= self.limits.per_address:
                return False
            self._deadlines[request] = time.monotonic() + self.limits.request
            self._counts[client_address[0]] += 1
        return True

    def process_request_thread(self, request: socket.socket | tuple[bytes, socket.socket], client_address: tuple[str, int]) -> None:
        assert isinstance(request, socket.socket)
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._turn:
                self._deadlines.pop(request, None)
                self._counts[client_address[0]] -= 1
                if not self._counts[client_address[0]]:
                    del self._counts[client_address[0]]

    def service_actions(self) -> None:
        """Cut off who is too late. Called every POLL_S."""
        self.cut_off(time.monotonic())

    def cut_off(self, before: float) -> None:
        """Cut off everybody whose deadline is before this instant."""
        with self._turn:
            late = [connection for connection, deadline in self._deadlines.items() if deadline < before]
            for connection in late:
                self._deadlines[connection] = before + 3600
        for connection in late:
            with contextlib.suppress(OSError):
                # below TLS: nobody waits for a stranger to say goodbye
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002  the base class's signature
        log.debug("a connection from %s ended badly: %r", client_address, sys.exc_info()[1])


class HttpServer:
    """A server on its own threads."""

    def __init__(
        self, sock: socket.socket, answer: Callable[[str, str, bytes], Reply], limits: Limits, tls: ssl.SSLContext | None = None
    ) -> None:
        """Begin to serve.

        Args:
            sock: listening; closed with the server.
            answer: method, path with query, body → reply; called from many threads. What it raises becomes 500.
            limits: bounds.
            tls: `server_tls`; None for plain HTTP.
        """
        self._server = _Server(sock, limits, _guarded(answer), tls)
        self.port: int = sock.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_S,), name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, and end every connection; a request in the middle is cut off."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.cut_off(math.inf)


def _guarded(answer: Callable[[str, str, bytes], Reply]) -> Callable[[str, str, bytes], Reply]:
    def guarded(method: str, path: str, body: bytes) -> Reply:
        try:
            return answer(method, path, body)
        except Exception:
            log.exception("a request failed unexpectedly")
            return Reply(500, "text/plain", b"internal error\n")

    return guarded


def server_tls(certificate: str, key: str | None) -> ssl.SSLContext:
    """TLS settings of a server.

    Args:
        certificate: PEM file with its certificate and what vouches for it.
        key: PEM file of its key, unless it is in the same file.

    Raises:
        SteleError: `serve.bad-certificate`.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise SteleError(
            f"the certificate cannot be used: {error}",
            remedy="give PEM files: --tls-cert with the certificate and its chain, --tls-key with its key, without passphrase",
            code="serve.bad-certificate",
        ) from error
    return context
