"""Connections that the kernel has completed, or begun, for a server that has not accepted them yet."""

from __future__ import annotations

import time

_LISTEN, _SYN_RECV = "0A", "03"
_LOOK_S = 0.005
_QUIET_LOOKS = 4  # in a row: a handshake under way shows in none of the states for a moment


def waiting(pid: int) -> int:
    """How many TCP connections wait to be accepted in the network namespace of a process; 0 if it is gone.

    Source: proc(5), /proc/net/tcp: of a listening socket the receive queue is the length of its accept queue.
    """
    found = 0
    for table in ("tcp", "tcp6"):
        try:
            with open(f"/proc/{pid}/net/{table}", encoding="ascii") as file:
                rows = [line.split() for line in file][1:]
        except OSError:
            continue
        for row in rows:
            if row[3] == _LISTEN:
                found += int(row[4].partition(":")[2], 16)
            elif row[3] == _SYN_RECV:
                found += 1
    return found


def await_accepted(pid: int, timeout_s: float) -> bool:
    """Wait until nothing waits to be accepted any more; False if something still does after `timeout_s` seconds."""
    limit, quiet = time.monotonic() + timeout_s, 0
    while quiet < _QUIET_LOOKS:
        quiet = quiet + 1 if waiting(pid) == 0 else 0
        if time.monotonic() > limit:
            return quiet > 0
        time.sleep(_LOOK_S)
    return True
