"""How parker, gate and agent talk: one JSON object a message on SOCK_SEQPACKET, descriptors beside it (docs/spec/gate.md)."""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

from stele.host import peers

MAX_MESSAGE = 128 << 10
MAX_FDS = 8
_FD_SPACE = socket.CMSG_SPACE(MAX_FDS * 4)


def listen(path: Path, kind: socket.SocketKind = socket.SOCK_SEQPACKET) -> socket.socket:
    """A listening socket that only root can reach; one that a dead predecessor left is replaced. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, kind)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    old = os.umask(0o177)
    try:
        sock.bind(str(path))
    finally:
        os.umask(old)
    sock.listen(64)
    sock.setblocking(False)
    return sock


def connect(path: Path, timeout_s: float | None) -> socket.socket:
    """Connect; raises OSError, also after `timeout_s` seconds in each later operation."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(timeout_s)
    try:
        sock.connect(str(path))
    except OSError:
        sock.close()
        raise
    return sock


def send(sock: socket.socket, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
    """Send one message; raises OSError (BlockingIOError when a non-blocking peer does not read)."""
    data = json.dumps(message, separators=(",", ":")).encode("ascii")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """One message and its descriptors (close-on-exec).

    Raises:
        EOFError: the other end is gone, or sent what is not a message (its descriptors are closed).
        OSError: from the socket.
    """
    data, ancillary, flags, _ = sock.recvmsg(MAX_MESSAGE, _FD_SPACE, socket.MSG_CMSG_CLOEXEC)
    fds = peers.rights_in(ancillary)
    try:
        message = json.loads(data) if data and not flags & socket.MSG_TRUNC else None
    except ValueError:
        message = None
    if not isinstance(message, dict):
        for fd in fds:
            os.close(fd)
        raise EOFError  # noqa: TRY004  to the caller it is the end of the conversation
    return message, fds
