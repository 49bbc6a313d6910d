"""A witness's HTTP interface (C2SP tlog-witness), until it is told to end."""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING

from stele.host.http_server import HttpServer, Limits, Reply, server_tls
from stele.trust import witnessing
from stele.witness.service import Witness

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path


def serve(folder: Path, sock: socket.socket, *, certificate: str | None, key: str | None, ready: Callable[[Witness], None]) -> None:
    """Be the witness of a folder until SIGTERM or SIGINT.

    Args:
        folder: as `stele witness init` made it.
        sock: listening; closed at the end.
        certificate: PEM file of the TLS certificate and its chain; None: plain http.
        key: PEM file of its key, unless it is in the same file.
        ready: called when it answers.

    Raises:
        SteleError: `witness.*`, `trust.bad-key`, `serve.bad-certificate`.
    """
    tls = server_tls(certificate, key) if certificate else None
    witness = Witness(folder, clock=lambda: time.time_ns() // 1_000_000_000)
    try:
        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())

        def answer(method: str, path: str, body: bytes) -> Reply:
            return Reply(*witness.answer(method, path, body))

        server = HttpServer(sock, answer, Limits(body=witnessing.MAX_BODY), tls)
        try:
            ready(witness)
            ended.wait()
        finally:
            server.close()
    finally:
        witness.close()
