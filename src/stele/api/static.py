"""A ledger folder as static files over HTTP (docs/spec/publishing.md): GET and HEAD of what is public, nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from stele.ledger import source as sources
from stele.ledger.source import FolderSource
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable
    from pathlib import Path

Headers = list[tuple[bytes, bytes]]
CONNECTIONS = 256
AT_ONCE = 16  # files in memory
LIFE_SECONDS = 120.0  # of a connection, however slow whoever is at its other end
_ALWAYS = [(b"access-control-allow-origin", b"*"), (b"x-content-type-options", b"nosniff")]
_FRESH = b"no-cache"
_RANGE = re.compile(rb"bytes=([0-9]{0,18})-([0-9]{0,18})")
_INDEX = b"""This is a Stele ledger: a C2SP tlog-tiles log. Its signed head is at /checkpoint.

    stele log --from THIS-ADDRESS --trust trust.keys
"""


class StaticLedger:
    """The ASGI application. `folder` is opened once; nothing outside of it, and nothing private in it, can be named."""

    def __init__(self, folder: Path) -> None:
        self._source = FolderSource(folder)
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def __call__(self, scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        """Answer one request."""
        del receive  # a body is nobody's business
        if scope["type"] != "http":
            return
        if scope["method"] not in {"GET", "HEAD"}:
            await _answer(send, 405, [(b"allow", b"GET, HEAD"), (b"cache-control", _FRESH)], b"only GET and HEAD\n")
            return
        async with self._slots:
            try:
                data = await asyncio.to_thread(self._find, scope["raw_path"])
            except (SteleError, OSError):
                await _answer(send, 500, [(b"cache-control", _FRESH)], b"this file cannot be read\n")
                return
            if data is None:
                await _answer(send, 404, [(b"cache-control", _FRESH)], b"there is no such file\n")
                return
            status, headers, body = _response(scope["raw_path"], data, dict(scope["headers"]))
            await _answer(send, status, headers, body, head=scope["method"] == "HEAD")

    def _find(self, path: bytes) -> bytes | None:
        if path == b"/":
            return _INDEX
        # no name that is public needs an escape: what is spelled with one is another name
        name = path[1:].decode("ascii", "replace") if path.startswith(b"/") else ""
        if not sources.is_public(name):
            return None
        whole, partial, width = name.partition(".p/")
        if partial:
            # from a fuller one, if the sequencer removed it since whoever asks read the checkpoint
            return sources.prefix(self._source, whole, int(width))
        return self._source.read(name)

    def close(self) -> None:
        """Close the folder."""
        self._source.close()


def _response(path: bytes, data: bytes, asked: dict[bytes, bytes]) -> tuple[int, Headers, bytes]:
    """Status, headers and body of what was found."""
    tag = b'"' + hashlib.sha256(data).hexdigest()[:32].encode() + b'"'
    kind, cache = sources.headers_of(path[1:].decode() or "checkpoint")
    headers: Headers = [(b"etag", tag), (b"cache-control", cache.encode())]
    if _matches(asked.get(b"if-none-match"), tag):
        return 304, headers, b""
    headers += [(b"content-type", kind.encode()), (b"accept-ranges", b"bytes")]
    wanted = _RANGE.fullmatch(asked.get(b"range", b"")) if asked.get(b"if-range", tag) == tag else None
    if wanted is None or wanted.groups() == (b"", b""):
        return 200, headers, data  # several ranges, or another unit: all of it, as RFC 9110 allows
    first, last = wanted.groups()
    begin = int(first) if first else max(0, len(data) - int(last))
    end = min(int(last) + 1, len(data)) if first and last else len(data)
    if begin >= len(data) or begin >= end:
        if first and last and int(last) < int(first):
            return 200, headers, data  # not a range at all
        return 416, [*headers, (b"content-range", b"bytes */%d" % len(data))], b""
    return 206, [*headers, (b"content-range", b"bytes %d-%d/%d" % (begin, end - 1, len(data)))], data[begin:end]


def _matches(given: bytes | None, tag: bytes) -> bool:
    if given is None:
        return False
    return given.strip() == b"*" or tag in (each.strip().removeprefix(b"W/") for each in given.split(b","))


async def _answer(
    send: Callable[[Any], Any], status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes, *, head: bool = False
) -> None:
    whole = [*headers, *_ALWAYS]
    if status >= 400 and status != 416:
        whole.append((b"content-type", b"text/plain; charset=utf-8"))
    if status != 304:
        whole.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": whole})
    await send({"type": "http.response.body", "body": b"" if head else body})


class _Brief(H11Protocol):
    """A connection that ends after LIFE_SECONDS, whatever it waits for: nobody holds one by sending or taking a byte a minute."""

    _end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._end = self.loop.call_later(LIFE_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._end is not None:
            self._end.cancel()
        super().connection_lost(exc)


def serve(folder: Path, sock: socket.socket, *, certificate: str | None = None, key: str | None = None, access_log: bool = False) -> None:
    """Serve a ledger folder until SIGTERM or SIGINT.

    Args:
        folder: the ledger.
        sock: listening.
        certificate: PEM file of the TLS certificate and its chain; None: plain http.
        key: PEM file of its key, unless it is in the same file.
        access_log: a line per request on standard output.

    Raises:
        SteleError: `ledger.none`, `serve.bad-certificate`.
    """
    app = StaticLedger(folder)
    config = uvicorn.Config(
        app, http=_Brief, ws="none", lifespan="off", log_level="info" if access_log else "error", access_log=access_log,
        limit_concurrency=CONNECTIONS, backlog=128, timeout_keep_alive=15, timeout_graceful_shutdown=5,
        server_header=False, proxy_headers=False, ssl_certfile=certificate, ssl_keyfile=key,
    )  # fmt: skip
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise SteleError(
            f"the certificate cannot be used: {error}",
            remedy="give PEM files: --tls-cert with the certificate and its chain, --tls-key with its key, without passphrase",
            code="serve.bad-certificate",
        ) from error
    try:
        uvicorn.Server(config).run(sockets=[sock])
    finally:
        app.close()
