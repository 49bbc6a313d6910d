"""A listening TCP socket, and the address that others reach it at."""

from __future__ import annotations

import re
import socket

from stele.trust.errors import SteleError


def listen(address: str) -> socket.socket:
    """A listening TCP socket on `host:port` or `[v6]:port`; port 0: a free one.

    Raises:
        SteleError: `serve.bad-address`, `serve.address-busy`.
    """
    host, _, port = address.rpartition(":")
    bad = SteleError(
        f"{address[:100]!r} is not an address to listen on",
        remedy="write it like 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080",
        code="serve.bad-address",
    )
    if not host or not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or int(port) > 65535:
        raise bad
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        family, _, _, _, where = socket.getaddrinfo(bare, int(port), type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise bad from error
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise SteleError(
            f"nobody can listen on {address}: {error.strerror}",
            remedy="choose another port; ports below 1024 need root or CAP_NET_BIND_SERVICE, so put a web server in front",
            code="serve.address-busy",
            retryable=True,
        ) from error
    return sock


def url_of(sock: socket.socket, *, tls: bool) -> str:
    """The address of a listening socket, without a path."""
    host, port = sock.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
