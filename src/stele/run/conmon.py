"""conmon: the small program that outlives the agent and keeps an instance's output and exit status (conmon(8))."""

from __future__ import annotations

import json
import os
import select
from pathlib import Path
from typing import TYPE_CHECKING

from stele.host import proc
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.run.record import Folder

LOG_BYTES = 8 << 20
_MESSAGE_BYTES = 1 << 16
_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/libexec/podman", "/usr/lib/podman")


def program(name: str) -> str:
    """Absolute path of an installed program.

    Raises:
        SteleError: `host.program-missing`.
    """
    for folder in _FOLDERS:
        if os.access(f"{folder}/{name}", os.X_OK):
            return f"{folder}/{name}"
    raise SteleError(
        f"the program {name!r} is not installed", remedy="`stele doctor` names the package that brings it", code="host.program-missing"
    )


def create(folder: Folder, log: Path, timeout_s: float) -> int:
    """Create the container of `folder`'s bundle under a conmon of its own; returns the pid of its waiting first process.

    Raises:
        SteleError: `run.create-failed` with what runc said.
    """
    read, write = os.pipe()
    try:
        argv = [
            program("conmon"),
            "--api-version",
            "1",
            "-c",
            folder.id,
            "-u",
            folder.id,
            "-n",
            folder.id,
            "-r",
            program("runc"),
            f"--runtime-arg=--root={folder.state.parent}",
            "-b",
            str(folder.bundle),
            "-p",
            str(folder.bundle / "pid"),
            "-P",
            str(folder.conmon_pid),
            "-l",
            f"k8s-file:{log}",
            "--log-size-max",
            str(LOG_BYTES),
            "--exit-dir",
            str(folder.exit.parent),
            "--socket-dir-path",
            str(folder.path),
            "--no-new-keyring",
            "--log-level",
            "error",
        ]
        env = {**proc.CLEAN_ENV, "_OCI_SYNCPIPE": str(write)}
        child = proc.spawn(argv, env=env, pass_fds=(write,), log_to=folder.path / "conmon.log")
        os.close(write)
        write = -1
        child.wait(timeout_s)  # it has forked; the one that stays reports over the pipe
        return _answer(read, timeout_s)
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)


def _answer(fd: int, timeout_s: float) -> int:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    data = b""
    while not data.endswith(b"\n") and len(data) < _MESSAGE_BYTES:
        if not poll.poll(int(timeout_s * 1000)):
            break
        chunk = os.read(fd, 4096)
        if not chunk:
            break
        data += chunk
    said: object = {}
    try:
        said = json.loads(data or b"{}")
    except ValueError:
        said = {"message": data.decode("utf-8", "replace")}
    pid = said.get("data", said.get("pid", -1)) if isinstance(said, dict) else -1
    if isinstance(pid, int) and pid > 0:
        return pid
    why = str(said.get("message", "")) if isinstance(said, dict) else ""
    raise SteleError(
        f"runc could not create the instance: {why.strip()[:1500] or 'it gave no reason in time'}",
        remedy="`stele doctor` shows what this host lacks; a path that the spec names must exist in the release",
        code="run.create-failed",
    )
