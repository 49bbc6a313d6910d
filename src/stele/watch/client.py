"""The agent's side of the gate: start it, register instances, receive reports at least once, notice its death."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from stele.host import peers, proc
from stele.model.report import Report
from stele.trust.errors import SteleError
from stele.watch import wire

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from stele.model.instance import Instance
    from stele.model.spec import Spec

log = logging.getLogger(__name__)
START_LIMIT_S = 60.0
ANSWER_LIMIT_S = 15.0
BEAT_S = 2.0
ATTEMPTS = 4


def launch(run_dir: Path) -> None:
    """Make sure that parker and gate serve `run_dir`; returns once both do. Idempotent, safe to call at once from several places.

    Raises:
        SteleError: `gate.did-not-start` with what they said.
    """
    folder = run_dir / "gate"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(folder / "launch.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in ("parker", "gate"):
            if not _answers(run_dir / f"{name}.sock"):
                _start(name, run_dir)
    finally:
        os.close(lock)


def _answers(path: Path) -> bool:
    """Whether somebody serves there: connecting is not enough, a dying process still takes connections."""
    try:
        sock = wire.connect(path, ANSWER_LIMIT_S)
    except OSError:
        return False
    try:
        if path.name == "gate.sock":  # the parker speaks first
            wire.send(sock, {"op": "ping"})
        _, fds = wire.receive(sock)
    except (OSError, EOFError):
        return False
    finally:
        sock.close()
    for fd in fds:
        os.close(fd)
    return True


def _start(name: str, run_dir: Path) -> None:
    # the same modules as ours, wherever they were found
    env = {**proc.CLEAN_ENV, "PYTHONPATH": os.pathsep.join(path for path in sys.path if os.path.isabs(path))}
    done = proc.run([sys.executable, "-m", f"stele.watch.{name}", str(run_dir)], timeout=START_LIMIT_S, env=env, check=False)
    if done.returncode != 0 or not _answers(run_dir / f"{name}.sock"):
        said = done.stderr.decode("utf-8", "replace").strip()[-2000:]
        raise SteleError(
            f"the {name} did not start: {said or f'it ended with status {done.returncode}'}",
            remedy=f"`stele doctor` shows what this host lacks; see also {run_dir}/gate/gate.log",
            code="gate.did-not-start",
        )


class GateClient:
    """A gate, as the agent sees it. Thread-safe.

    Args:
        run_dir: the run folder; `launch` must have been called for it.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._stream: socket.socket | None = None
        self._closed = threading.Event()

    # ---- requests ----------------------------------------------------------------------------

    def register(self, instance: Instance, spec: Spec) -> None:
        """Guard a created instance, or one that runs already (idempotent). On return nothing of it executes unasked.

        Raises:
            SteleError: `gate.not-running`, `gate.no-such-process`, `gate.wrong-root`, `gate.mark-refused`, `gate.no-listener`,
                `gate.full`.
        """
        self._ask({"op": "register", "instance": msgspec.to_builtins(instance), "watch": msgspec.to_builtins(spec.watch)})

    def unregister(self, instance_id: str) -> None:
        """Let an instance go, before its root is unmounted; unknown ones are fine.

        Raises:
            SteleError: `gate.not-running`.
        """
        self._ask({"op": "unregister", "id": instance_id})

    def ping(self) -> dict[str, Any]:
        """What the gate guards: `pid`, `parker` (whether it has one), `instances`, `quarantined`, `listeners`.

        Raises:
            SteleError: `gate.not-running`.
        """
        return self._ask({"op": "ping"})

    def shutdown(self) -> None:
        """End gate and parker. Returns when both are gone.

        Raises:
            SteleError: `gate.in-use` while anything is guarded.
        """
        if not _answers(self._run_dir / "gate.sock"):
            return
        self._ask({"op": "end"})
        self.close()
        for name in ("gate", "parker"):
            _await_unlocked(self._run_dir / "gate" / f"{name}.lock")
        for name in ("gate.sock", "parker.sock", "seccomp.sock"):
            (self._run_dir / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the gate, which goes on; `reports` ends."""
        self._closed.set()
        with self._lock:
            for sock in (self._sock, self._stream):
                if sock is not None:
                    with contextlib.suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)
            if self._sock is not None:
                self._sock.close()
                self._sock = None

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            for attempt in range(ATTEMPTS):
                try:
                    if self._sock is None:
                        self._sock = wire.connect(self._run_dir / "gate.sock", ANSWER_LIMIT_S)
                    wire.send(self._sock, message)
                    reply, _ = wire.receive(self._sock)
                    break
                except (OSError, EOFError) as error:
                    if self._sock is not None:
                        self._sock.close()
                        self._sock = None
                    if attempt == ATTEMPTS - 1 or isinstance(error, TimeoutError):
                        raise _not_running(error) from error
                    if not self._closed.is_set():
                        launch(self._run_dir)  # it died; every request may be made twice
        if not reply.get("ok"):
            raise SteleError(str(reply.get("reason")), remedy=str(reply.get("remedy")), code=str(reply.get("code")))
        return reply

    # ---- reports -----------------------------------------------------------------------------

    def reports(self) -> Iterator[tuple[int, Report]]:
        """Every report, at least once, until `close`; `ack` those that are committed. One reader at a time.

        While it waits it looks after the gate: one that died or hangs is replaced by a successor, which takes over without
        a gap; a `watcher-lost` report of no instance (number 0) says so.
        """
        while not self._closed.is_set():
            try:
                sock = wire.connect(self._run_dir / "gate.sock", BEAT_S)
            except OSError:
                yield from self._revive("it did not answer")
                continue
            with sock:
                self._stream = sock
                why = yield from self._receive(sock)
                with self._lock:
                    self._stream = None
            if not self._closed.is_set():
                yield from self._revive(why)

    def _receive(self, sock: socket.socket) -> Generator[tuple[int, Report], None, str]:
        """Yield what comes; returns why no more does."""
        is_asked = 0
        with contextlib.suppress(OSError):
            wire.send(sock, {"op": "subscribe"})
        while True:
            try:
                message, _ = wire.receive(sock)
            except TimeoutError:
                if self._closed.is_set():
                    return "closed"
                if is_asked * BEAT_S >= ANSWER_LIMIT_S:
                    _kill(peers.peer(sock)[0])
                    return "it hung and was killed"
                is_asked += 1
                with contextlib.suppress(OSError):
                    wire.send(sock, {"op": "ping"})
                continue
            except (OSError, EOFError):
                return "it died"
            is_asked = 0
            if "report" in message:
                yield int(message["n"]), msgspec.convert(message["report"], Report)
            elif message.get("parker") is False:
                launch(self._run_dir)

    def _revive(self, why: str) -> Iterator[tuple[int, Report]]:
        try:
            launch(self._run_dir)
        except SteleError as error:
            log.error("the gate cannot be started again: %s", error.reason)  # noqa: TRY400
            self._closed.wait(BEAT_S)
            return
        now = time.monotonic_ns()
        detail = {"lost": f"the gate: {why}", "since": "nothing passed unasked; a successor answers"}
        yield 0, Report(instance="", kind="watcher-lost", seen=now, decided=now, detail=detail)

    def ack(self, number: int) -> None:
        """Reports up to `number` are committed; they will not come again. Losing an acknowledgement costs a repetition."""
        with self._lock:
            if number and self._stream is not None:
                with contextlib.suppress(OSError):
                    wire.send(self._stream, {"op": "ack", "n": number})


def _not_running(error: Exception) -> SteleError:
    return SteleError(
        f"the gate does not answer: {error or 'it closed the connection'}",
        remedy="`stele agent start` starts it; without it nothing new executes in any instance",
        code="gate.not-running",
        retryable=True,
    )


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _await_unlocked(path: Path) -> None:
    """Wait until the process that holds a lock has ended."""
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        finally:
            os.close(fd)
