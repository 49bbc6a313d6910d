"""A seccomp listener for tests of `run` alone: takes every instance's descriptor and lets every call continue.

Counts what it was asked about, so that tests can see that calls do arrive. Never part of the product.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import json
import os
import select
import socket
import struct
import threading
from pathlib import Path

RECV, SEND = 0xC0502100, 0xC0182101
CONTINUE = 1


class Listener:
    """Serves `path` until closed; `seen` holds (instance, pid, system call number)."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.seen: list[tuple[str, int, int]] = []
        self.answer = lambda number: (CONTINUE, 0)  # flags, errno
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        self._socket.bind(str(path))
        self._socket.listen(16)
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        os.write(self._wake_write, b"x")
        self._thread.join()
        self._socket.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _serve(self) -> None:
        poll = select.poll()
        for fd in (self._socket.fileno(), self._wake_read):
            poll.register(fd, select.POLLIN)
        listeners: dict[int, str] = {}
        while True:
            for fd, event in poll.poll():
                if fd == self._wake_read:
                    for listener in listeners:
                        os.close(listener)
                    return
                if fd == self._socket.fileno():
                    listener, name = self._accept()
                    listeners[listener] = name
                    poll.register(listener, select.POLLIN)
                elif event & select.POLLIN:
                    self._answer(fd, listeners[fd])
                else:
                    poll.unregister(fd)
                    listeners.pop(fd)
                    os.close(fd)

    def _accept(self) -> tuple[int, str]:
        connection, _ = self._socket.accept()
        fds, data = array.array("i"), b""
        with connection:
            while True:
                part, control, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(16))
                for _, _, content in control:
                    fds.frombytes(content[: len(content) - len(content) % 4])
                data += part
                try:
                    return fds[0], json.loads(data)["metadata"]
                except ValueError:
                    continue

    def _answer(self, fd: int, name: str) -> None:
        request = bytearray(80)
        try:
            fcntl.ioctl(fd, RECV, request)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.EINTR}:
                return
            raise
        notification, pid, _, number = struct.unpack_from("=QIIi", request)
        self.seen.append((name, pid, number))
        flags, refused = self.answer(number)
        with contextlib.suppress(FileNotFoundError):
            fcntl.ioctl(fd, SEND, struct.pack("=QqiI", notification, 0, -refused, flags))
