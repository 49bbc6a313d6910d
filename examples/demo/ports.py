"""Who listens on a TCP port of this host: so that a busy port is reported with the name of what keeps it busy."""

from __future__ import annotations

import contextlib
import os
import socket


def is_free(port: int) -> bool:
    """Whether a server could listen on `port`, on every address and on 127.0.0.1."""
    for host in ("0.0.0.0", "127.0.0.1"):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                probe.listen(1)
            except OSError:
                return False
    return True


def holder(port: int) -> str:
    """Name and pid of the process that listens on `port`, as far as this user may see; "" if it is not found."""
    sockets = _listening(port)
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        if _held(name) & sockets:
            with open(f"/proc/{name}/comm", encoding="utf-8", errors="replace") as file:
                return f"{file.read().strip()} (process {name})"
    return ""


def _held(pid: str) -> set[str]:
    """What the descriptors of a process lead to; those that this user may not see, or that are closed meanwhile, are left out."""
    found = set()
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(f"/proc/{pid}/fd/{number}"))
    return found


def _listening(port: int) -> set[str]:
    found = set()
    for table in ("tcp", "tcp6"):
        try:
            with open(f"/proc/net/{table}", encoding="ascii") as file:
                rows = [line.split() for line in file][1:]
        except OSError:
            continue
        found |= {f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}
    return found


def next_free(port: int) -> int:
    """The first free port above `port`."""
    return next(candidate for candidate in range(port + 1, 65536) if is_free(candidate))
