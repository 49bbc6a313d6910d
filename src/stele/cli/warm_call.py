"""The caller's side of warm calls (docs/spec/warm.md). Imports next to nothing: it is there to save imports.

Whatever is not as it should be: the command is run here, as if there were no warm process.
"""

from __future__ import annotations

import os
import stat
import sys

from stele import __version__

TYPE_CHECKING = False  # not from `typing`, which takes as long to load as Python to start
if TYPE_CHECKING:
    import _socket

HEADER = b"stele-warm v0"
SOCKET = "warm.sock"
ANSWER_S = 10.0  # a loaded host is slow; who waits longer runs the command
_ELSEWHERE = ("/dev", "/proc")  # where the same name means something else to another process


def folder() -> str | None:
    """Where the socket lies; None where this user has no place for it."""
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if given.startswith("/") and _is_mine(given):  # under sudo it may be another's, who could put anything there
        return f"{given}/stele"
    return "/run/stele/warm" if os.geteuid() == 0 else None


def is_own(path: str) -> bool:
    """Whether a folder is this user's, and nobody else's business."""
    try:
        info = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and not info.st_mode & 0o077


def _is_mine(path: str) -> bool:
    try:
        return os.stat(path).st_uid == os.geteuid()
    except OSError:
        return False


def program() -> bytes:
    """What would run here."""
    return repr((sys.version, sys.executable, tuple(sys.flags), sys.path, __version__)).encode("utf-8", "surrogateescape")


def request(kind: bytes, argv: list[str]) -> bytes:
    """The body of a request."""
    umask = os.umask(0o077)
    os.umask(umask)
    env = (name + b"=" + value for name, value in os.environb.items())
    return b"\0".join([HEADER, kind, program(), b"%03o" % umask, b"%d" % len(argv), *map(os.fsencode, argv), *env])


def run(argv: list[str]) -> int | None:
    """Have a command run by the warm process; its exit code (minus a signal's number), None where it is to be run here."""
    where = folder()
    if where is None or not is_own(where) or (os.getuid(), os.getgid()) != (os.geteuid(), os.getegid()):
        return None
    if any(word.startswith(_ELSEWHERE) for word in argv) or not _has_three_descriptors():
        return None
    import _socket  # of which `socket` is made, with what takes half as long to load as Python to start

    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        sock.settimeout(ANSWER_S)
        try:
            ask(sock, where, b"run", argv)
            if sock.recv(1) != b"+":
                return None
        except OSError:
            return None
        sock.settimeout(None)
        return _ended(sock, argv)
    finally:
        sock.close()


def ask(sock: _socket.socket, where: str, kind: bytes, argv: list[str]) -> None:
    """Connect and send a request. Raises OSError, also where another user listens."""
    import _socket
    import array
    import struct

    sock.connect(f"{where}/{SOCKET}")
    if struct.unpack("3i", sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12))[1] != os.geteuid():
        raise OSError
    body = request(kind, argv)
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [0, 1, 2, here]))]
        data = struct.pack(">I", len(body)) + body
        if (sent := sock.sendmsg([data], rights)) < len(data):
            sock.sendall(data[sent:])
    finally:
        os.close(here)


def _has_three_descriptors() -> bool:
    """Whether standard input, output and error are all that was handed down."""
    try:
        names = os.listdir("/proc/self/fd")
        return {name for name in names if os.path.lexists(f"/proc/self/fd/{name}")} == {"0", "1", "2"}  # without that of the listing
    except OSError:
        return False


def _ended(sock: _socket.socket, argv: list[str]) -> int:
    """Wait for the command."""
    while True:
        try:
            data = sock.recv(4)
            break
        except KeyboardInterrupt:
            try:
                sock.send(b"\2")
            except OSError:
                continue  # it ended at the same time, and what it said is there
    if len(data) != 4:
        from stele.cli import ends
        from stele.trust.errors import SteleError

        reason = "the warm process ended, and what became of the command is not known"
        return ends.said(SteleError(reason, remedy="run it again", code="warm.broke-off"), argv)
    return int.from_bytes(data, "big", signed=True)
