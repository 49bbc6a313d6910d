"""The one doorway for processes: argv lists, explicit environment, mandatory timeout, bounded output."""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import threading
from typing import IO, TYPE_CHECKING, NamedTuple

from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)
CLEAN_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
MAX_OUTPUT = 1 << 20
Child = subprocess.Popen  # for annotations elsewhere: proc.Child[bytes]


class Done(NamedTuple):
    """A finished process: its exit status (negative: the signal that ended it) and bounded output."""

    returncode: int
    stdout: bytes
    stderr: bytes


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    max_output: int = MAX_OUTPUT,
    pass_fds: Sequence[int] = (),
    cwd: str | Path | None = None,
) -> Done:
    """Run to the end and return its output.

    Args:
        argv: program and arguments; never a shell line.
        timeout: seconds, after which the process is killed.
        stdin: bytes to feed; None is /dev/null.
        env: the whole environment; None is `CLEAN_ENV`.
        check: raise when the exit status is not 0.
        max_output: bytes kept of each of stdout and stderr; the rest is read and dropped.
        pass_fds: descriptors the child inherits.
        cwd: working folder.

    Raises:
        SteleError: `host.program-missing`, `host.program-timeout`, `host.program-failed`.
    """
    trace = shlex.join(argv)
    log.debug("run: %s", trace)
    try:
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(CLEAN_ENV if env is None else env),
            pass_fds=tuple(pass_fds),
            cwd=cwd,
        )
    except FileNotFoundError as error:
        raise SteleError(
            f"the program {argv[0]!r} is not installed",
            remedy="`stele doctor` names the package that brings it",
            code="host.program-missing",
        ) from error
    done = _await(child, argv[0], trace, timeout, stdin, max_output)
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()[-2000:]
        raise SteleError(
            f"{argv[0]} ended with status {done.returncode}: {said or 'it said nothing'}",
            remedy=f"run it by hand to see more: {trace[:500]}",
            code="host.program-failed",
        )
    return done


def _await(child: subprocess.Popen[bytes], name: str, trace: str, timeout: float, stdin: bytes | None, max_output: int) -> Done:
    kept: list[bytes] = [b"", b""]

    def drain(stream: IO[bytes], slot: int) -> None:
        buffer = bytearray()
        with stream:
            while chunk := stream.read1(65536):  # type: ignore[attr-defined]  # a BufferedReader
                buffer += chunk[: max(0, max_output - len(buffer))]
        kept[slot] = bytes(buffer)

    assert child.stdout is not None
    assert child.stderr is not None
    drains = [threading.Thread(target=drain, args=(stream, slot), daemon=True) for slot, stream in enumerate((child.stdout, child.stderr))]
    for thread in drains:
        thread.start()
    feeder = None
    if stdin is not None:
        feeder = threading.Thread(target=_feed, args=(child.stdin, stdin), daemon=True)
        feeder.start()
    try:
        status = child.wait(timeout)
    except subprocess.TimeoutExpired as error:
        child.kill()
        child.wait()
        raise SteleError(
            f"{name} did not finish within {timeout:g} s: {trace[:500]}",
            remedy="run the command by hand to see where it hangs",
            code="host.program-timeout",
            retryable=True,
        ) from error
    for thread in drains:
        # a daemonising grandchild may hold the pipe open; what was read so far is enough
        thread.join(2.0)
    return Done(status, kept[0], kept[1])


def _feed(stream: IO[bytes] | None, data: bytes) -> None:
    if stream is None:
        return
    try:
        stream.write(data)
        stream.close()
    except BrokenPipeError:
        pass  # the child did not want all of it; its exit status tells


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    log_to: Path | None = None,
    stdin: int | None = None,
    new_session: bool = True,
) -> subprocess.Popen[bytes]:
    """Start a long-lived process that is not waited for here; its output goes to `log_to` (appended) or nowhere.

    Raises:
        SteleError: `host.program-missing`.
    """
    log.debug("spawn: %s", shlex.join(argv))
    sink = os.open(log_to, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600) if log_to is not None else subprocess.DEVNULL
    try:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=sink,
            stderr=sink,
            env=dict(CLEAN_ENV if env is None else env),
            pass_fds=tuple(pass_fds),
            start_new_session=new_session,
        )
    except FileNotFoundError as error:
        raise SteleError(
            f"the program {argv[0]!r} is not installed",
            remedy="`stele doctor` names the package that brings it",
            code="host.program-missing",
        ) from error
    finally:
        if log_to is not None:
            os.close(sink)
