"""The warm process (docs/spec/warm.md): it has loaded what a plain `stele seal` needs, and becomes the command in a child for each call.

It knows nothing of any folder, key or store, and remembers nothing of a call. What a caller may not have from it, it refuses.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from stele.cli import plain, warm_call
from stele.cli.warm_spare import Spare, opened
from stele.host import circumstances, memory, peers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LIMIT = 4 << 20  # bytes of a request
RECEIVE_S = 5.0
_LONGEST_S = 24 * 3600.0  # that the system can be asked to wait at once is 24 days
_PEER_PIDFD = 77  # SO_PEERPIDFD, which Python does not name yet
_INTERRUPT = 2
_AT_START = (
    b"PYTHON", b"LC_", b"LANG", b"LD_", b"GLIBC_", b"MALLOC_", b"OPENSSL_", b"SSL_", b"TZ", b"LOCPATH", b"GCONV_PATH",
)  # fmt: skip
_NEEDED = (
    "cryptography.hazmat.backends.openssl", "pwd", "sqlite3", "stele.cli.call", "stele.cli.ends", "stele.cli.main", "stele.cli.sealed",
    "stele.flow.attesting",
    "stele.flow.opening", "stele.flow.record", "stele.flow.reseal", "stele.flow.sealing", "stele.flow.signers", "stele.flow.signing",
    "stele.flow.whole_seal", "stele.ledger.sequencer", "stele.seal.again.remake", "stele.seal.packages", "stele.seal.secrets",
    "stele.seal.checkout", "stele.seal.sign", "stele.seal.sources.folder", "stele.trust.key_files", "concurrent.futures.thread",
)  # fmt: skip


class Request(NamedTuple):
    """See the specification. `body`, `env`: as they came."""

    body: bytes
    kind: bytes
    program: bytes
    umask: int
    argv: list[str]
    env: list[bytes]


class _Call(NamedTuple):
    sock: socket.socket
    pid: int
    pidfd: int


def decode(body: bytes) -> Request | None:
    """A request; None where it is none. Pure."""
    parts = body.split(b"\0")
    if len(parts) < 5 or parts[0] != warm_call.HEADER or parts[1] not in {b"run", b"status", b"stop"}:
        return None
    umask, count = parts[3], parts[4]
    if len(umask) != 3 or not set(umask) <= set(b"01234567") or not count.isdigit() or len(count) > 6 or b"%d" % int(count) != count:
        return None
    rest = parts[5:]
    argv, env = rest[: int(count)], rest[int(count) :]
    if len(argv) != int(count) or not all(part.find(b"=") > 0 for part in env):
        return None
    return Request(body, parts[1], parts[2], int(umask, 8), [os.fsdecode(word) for word in argv], env)


def at_start(env: Sequence[bytes]) -> set[bytes]:
    """Of an environment, what Python and its libraries read when they start."""
    return {entry for entry in env if entry.startswith(_AT_START)}


def load() -> None:
    """Load what a plain seal needs, the short way or the whole."""
    for name in _NEEDED:
        importlib.import_module(name)
    from stele.cli import starter
    from stele.model import spec
    from stele.seal import erofs
    from stele.trust import note
    from stele.trust.release_key import PrivateKey

    # what is learned or looked up at the first use: by the records' decoders, by the libraries that sign and hash
    spec.parse_yaml(starter.STARTER.format(name="warm").encode())
    key = PrivateKey.from_pem(PrivateKey.generate().pem())
    key.public.verify(b"", key.sign(b""))
    signer = note.Signer.from_pem(note.Signer.generate("warm").pem())
    signed = signer.sign(note.Checkpoint("warm", 0, bytes(32)).body())
    note.open_note(signed, signer.verifiers)
    erofs.with_uuid(bytes(4096), bytes(16))


def _files() -> list[str]:
    """The files of all loaded modules, and whatever else of the program is in memory: libraries, and Python itself."""
    found = {str(path) for module in list(sys.modules.values()) if (path := getattr(module, "__file__", None))}
    with open("/proc/self/maps", "rb") as maps:
        mapped = {os.fsdecode(line[line.index(b"/") :].rstrip(b"\n")) for line in maps if b" /" in line}
    return sorted(found | {path for path in mapped if not path.startswith("/dev/")})


def _states(paths: Sequence[str]) -> list[tuple[int, int, int] | None]:
    """What files are."""
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            info = os.stat(path)
            found.append((info.st_ino, info.st_size, info.st_mtime_ns))
        except OSError:
            found.append(None)
    return found


class Server:
    """Serves until it was idle for long, is told to stop, or its own code is another on disk."""

    def __init__(self, listener: socket.socket, where: str, env: Mapping[bytes, bytes]) -> None:
        """`listener`: bound and listening, in `where`. `env`: as this process was started with."""
        self._listener, self._where = listener, where
        self._at_start = at_start([name + b"=" + value for name, value in env.items()])
        self._program, self._files, self._since = warm_call.program(), _files(), time.monotonic()
        self._states = _states(self._files)
        self._calls: dict[int, _Call] = {}  # by descriptor, of socket and of process
        self._spare: Spare | None = None
        self._may_wait = True  # a spare; after one that did not last, only when another call was served
        self._served, self._refused, self._why, self._ending = 0, 0, "", False

    def serve(self, idle_s: float) -> None:
        """Serve; returns when there is nothing more to do."""
        quiet = time.monotonic()
        while self._calls or not self._ending:
            if self._ending:
                self._close()
            elif self._spare is None and self._may_wait and not self._calls:  # who runs a command needs all processors
                self._make_spare()
            listening = self._listener.fileno()  # -1 when it is closed
            waiting = self._spare.pidfd if self._spare is not None else -1
            poll = select.poll()
            for fd in {listening, waiting, *self._calls} - {-1}:
                poll.register(fd, select.POLLIN)
            left = quiet + idle_s - time.monotonic()
            ready = [fd for fd, _event in poll.poll(None if self._calls else int(max(0.0, min(left, _LONGEST_S)) * 1000))]
            if ready:
                quiet = time.monotonic()
            elif left <= _LONGEST_S:
                break
            if waiting in ready:
                self._end_spare()
                self._may_wait = False  # it was killed, maybe for want of memory
            for fd in ready:
                if (call := self._calls.get(fd)) is not None:  # else it ended just now
                    self._hear(call, fd)
            if listening in ready:  # last, because what is accepted may get the number of a descriptor that was ready before
                self._accept()
        self._close()

    def _close(self) -> None:
        """Be found by nobody any more."""
        if self._listener.fileno() >= 0:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self._where}/{warm_call.SOCKET}")
            self._listener.close()
            self._end_spare()

    def _make_spare(self) -> None:
        try:
            self._spare = Spare(_in_spare)
        except OSError:
            self._may_wait = False

    def _end_spare(self) -> None:
        if self._spare is not None:
            self._spare.end()
            self._spare = None

    def _accept(self) -> None:
        sock, _address = self._listener.accept()
        fds: list[int] = []
        try:
            sock.settimeout(RECEIVE_S)
            if peers.peer(sock)[1] != os.geteuid():
                return
            asked = _receive(sock, fds)
            if asked is None or peers.is_gone(sock):
                return
            if asked.kind != b"run":
                self._ending = asked.kind == b"stop"
                sock.sendall(self._status().encode())
            elif isinstance(process := self._begin(sock, asked, fds), str):
                self._refused, self._why = self._refused + 1, process
                sock.sendall(b"-")
            else:
                self._served += 1
                self._calls[sock.fileno()] = self._calls[process[1]] = _Call(sock, *process)
                sock.settimeout(None)
                sock.sendall(b"+")
        except OSError:
            pass  # it went away
        finally:
            for fd in fds:
                os.close(fd)
            if sock.fileno() not in self._calls:
                sock.close()

    def _status(self) -> str:
        why = f", the last because {self._why}" if self._why else ""
        ran = f"for {time.monotonic() - self._since:.0f} s"
        waits = f"; process {spare.pid} waits for the next" if (spare := self._ready()) else ""
        return f"process {os.getpid()} is warm {ran}: {self._served} calls run, {self._refused} refused{why}{waits}"

    def _objection(self, sock: socket.socket, asked: Request, fds: Sequence[int]) -> str:
        """Why a command would not be what it is without a warm process; "" if it would."""
        if len(fds) != 4:
            return "it did not pass its descriptors"
        if asked.program != self._program:
            return "it is another program, or was started in another way"
        if self._states != _states(self._files):
            self._ending = True
            return "files of the program are not what they were when it was loaded"
        if at_start(asked.env) != self._at_start:
            return "something in its environment that counts when Python starts is another"
        if plain.read(asked.argv) is None:
            return "it is not a plain seal"
        own = circumstances.of(os.getpid())
        if (spare := self._ready()) and not spare.is_as(own):
            self._end_spare()
        try:
            return _other_circumstances(sock, own)
        except OSError as error:
            return f"its circumstances cannot be told ({error.strerror})"

    def _ready(self) -> Spare | None:
        """The spare, if it is ready."""
        return self._spare if self._spare is not None and self._spare.look() else None

    def _begin(self, sock: socket.socket, asked: Request, fds: Sequence[int]) -> tuple[int, int] | str:
        """Begin a command; returns the id and a descriptor of its process, or why it is not to be run."""
        why = self._objection(sock, asked, fds)
        if not why and self._spare is not None and self._spare.pids:
            spare, self._spare = self._spare, None
            try:
                spare.give(asked.body, fds)
            except OSError:
                spare.end()
            else:
                return spare.pid, spare.pidfd
        return why or _begun(asked, fds)

    def _hear(self, call: _Call, fd: int) -> None:
        if fd == call.pidfd:
            code = os.waitstatus_to_exitcode(self._reap(call))
            with contextlib.suppress(OSError):
                call.sock.sendall(code.to_bytes(4, "big", signed=True))
            call.sock.close()
            return
        try:
            said = call.sock.recv(1)
        except OSError:
            said = b""
        if said == bytes([_INTERRUPT]):
            _signal(call, signal.SIGINT)
        elif not said:
            _signal(call, signal.SIGKILL)
            self._reap(call)
            call.sock.close()

    def _reap(self, call: _Call) -> int:
        """Wait for a command and forget it; returns its status. Its socket is still open."""
        _, status = os.waitpid(call.pid, 0)
        del self._calls[call.pidfd], self._calls[call.sock.fileno()]
        self._may_wait = True
        os.close(call.pidfd)
        return status


def _begun(asked: Request, fds: Sequence[int]) -> tuple[int, int]:
    """Begin a command in a child; its process."""
    pid = os.fork()
    if not pid:
        code = 70
        try:
            os.setsid()
            code = _become(asked, fds, ())
        finally:
            os._exit(code)
    return pid, opened(pid)


def _in_spare(body: bytes, fds: Sequence[int], kept: Sequence[int]) -> int:
    asked = decode(body)
    return _become(asked, fds, kept) if asked is not None and len(fds) == 4 else 70


def _become(asked: Request, fds: Sequence[int], kept: Sequence[int]) -> int:
    """In the child, which leads a session: have what the caller has and `kept`, nothing else, and run the command; its exit code."""
    for number, fd in enumerate(fds[:3]):
        os.dup2(fd, number)
    os.fchdir(fds[3])
    before = 2
    for fd in (*sorted(kept), 1 << 16):
        os.closerange(before + 1, fd)
        before = fd
    os.umask(asked.umask)
    os.environ.clear()
    for entry in asked.env:
        name, _, value = entry.partition(b"=")
        os.environb[name] = value
    return _command(asked.argv)


def _signal(call: _Call, number: int) -> None:
    """To the command and its children, once; it leads a session of its own as soon as it has begun."""
    try:
        os.killpg(call.pid, number)
    except ProcessLookupError:
        with contextlib.suppress(ProcessLookupError):
            os.kill(call.pid, number)


def _command(argv: list[str]) -> int:
    """In the child: run the command as a process of its own would."""
    from stele.cli import main

    for number, (name, mode) in enumerate({"stdin": "r", "stdout": "w", "stderr": "w"}.items()):
        old = getattr(sys, f"__{name}__")
        lines = number == 2 or (number == 1 and os.isatty(number))
        setattr(sys, name, open(number, mode, 1 if lines else -1, old.encoding, old.errors, closefd=False))  # noqa: SIM115  as Python's own
    sys.argv[1:] = argv
    try:
        code = main.run(argv)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return 120  # as Python has it
    return code


def _other_circumstances(sock: socket.socket, own: Mapping[str, object]) -> str:
    """What of the caller's circumstances is not as here; "" for nothing.

    Raises:
        OSError: that cannot be told.
    """
    pid, _ = peers.peer(sock)
    pidfd = sock.getsockopt(socket.SOL_SOCKET, _PEER_PIDFD)
    try:
        theirs = circumstances.of(pid)
        alive = select.poll()
        alive.register(pidfd, select.POLLIN)
        if pid <= 0 or alive.poll(0):  # else what was looked at was this caller, and no later process of its number
            return "it has ended"
    finally:
        os.close(pidfd)
    names = sorted(name for name in theirs.keys() | own.keys() if theirs.get(name) != own.get(name))
    return f"its circumstances are others: {', '.join(names)}" if names else ""


def _receive(sock: socket.socket, fds: list[int]) -> Request | None:
    """A request, whole; its descriptors are added to `fds`, whatever else is true of it."""
    data, ancillary, flags, _ = sock.recvmsg(1 << 16, socket.CMSG_SPACE(16 * 4))
    fds += peers.rights_in(ancillary)
    if len(data) < 4 or flags & socket.MSG_CTRUNC:
        return None
    size = int.from_bytes(data[:4], "big")
    if size > LIMIT:
        return None
    until = time.monotonic() + RECEIVE_S
    while len(data) < 4 + size:
        piece = sock.recv(1 << 16)
        if not piece or time.monotonic() > until:
            return None
        data += piece
    return decode(data[4:]) if len(data) == 4 + size else None


def prepare() -> None:
    """Load, and set what is there apart from what calls make: a child's collector need not look at it, nor copy it."""
    memory.keep()
    load()
    gc.collect()
    gc.freeze()
