"""What the kernel says of the other end of a Unix socket, and the descriptors that came from there."""

from __future__ import annotations

import array
import select
import socket
import struct


def peer(sock: socket.socket) -> tuple[int, int]:
    """(pid, uid) of who connected or listens at the other end."""
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


def is_gone(sock: socket.socket) -> bool:
    """Whether the other end was closed; what it sent before may still be there."""
    hung_up = select.poll()
    hung_up.register(sock, select.POLLRDHUP)
    return bool(hung_up.poll(0))


def rights_in(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that came with a message."""
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) - len(data) % 4])
            fds += numbers
    return fds
