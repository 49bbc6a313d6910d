"""Running the agent: open everything, take over what runs, serve the API; and starting and stopping it from outside."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from stele.api.client import AgentClient
from stele.flow import supervision
from stele.flow.person import person
from stele.host import locks, proc
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stele.flow.places import Places

log = logging.getLogger(__name__)
START_LIMIT_S = 60.0


def start_in_background(places: Places) -> bool:
    """Start an agent that outlives this process; True when it was started, False when one ran already.

    Raises:
        SteleError: `agent.did-not-start` with the end of its log.
    """
    client = AgentClient(places.agent_socket, person())
    if client.is_running():
        return False
    # asked here too, so that a host that cannot run instances at all is told so, and not only that the agent ended
    supervision.ways_of(places)
    places.agent.mkdir(parents=True, exist_ok=True)
    begin = places.agent_log.stat().st_size if places.agent_log.exists() else 0
    ready_read, ready_write = os.pipe()
    try:
        # the same sources as ours, also where they are not installed
        env = {**proc.CLEAN_ENV, "PYTHONPATH": str(Path(__file__).parents[2]), "STELE_READY_FD": str(ready_write)}
        child = proc.spawn(
            [sys.executable, "-m", "stele", "--data", str(places.data), "agent", "run"],
            env=env,
            pass_fds=(ready_write,),
            log_to=places.agent_log,
        )
    finally:
        os.close(ready_write)
    with open(ready_read, "rb") as ready:
        said = ready.read(5)  # blocks until the agent says so or ends
    if said == b"ready":
        return True
    child.wait(START_LIMIT_S)
    with places.agent_log.open("rb") as file:
        file.seek(begin)
        tail = file.read()[-3000:].decode("utf-8", "replace").strip()
    raise SteleError(
        f"the agent did not start: {tail or 'it said nothing'}",
        remedy="`stele doctor` shows what this host lacks",
        code="agent.did-not-start",
    )


def stop(places: Places, *, remove: bool, say: Callable[[str], None]) -> bool:
    """Stop the agent and wait until it has ended; with `remove`, clean the host also when no agent runs.

    Returns whether an agent was running.

    Raises:
        SteleError: `agent.left-something`, and what the agent refuses with.
    """
    client = AgentClient(places.agent_socket, person())
    was_running = client.is_running()
    if not was_running and remove and places.run.exists():
        # left over from a kill: only an agent knows how to take everything over and apart
        say("starting the agent to clean up what a killed one left")
        start_in_background(places)
    elif not was_running:
        return False
    client.call("POST", "/v1/shutdown", {"remove": remove}, say=say)
    with _lock_file(places) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # held by the agent as long as it lives
        if remove:
            # the gate has ended with its last instance; nothing is ever mounted in its folder
            shutil.rmtree(places.run / "gate", ignore_errors=True)
            with contextlib.suppress(OSError):  # something else is still there, and stays
                places.run.rmdir()
            if places.run.exists():
                raise SteleError(
                    f"the agent ended, but something of its instances is still on this host: see {places.run}",
                    remedy=f"run `stele agent stop --remove` again; {places.agent_log} says what could not be removed",
                    code="agent.left-something",
                )
    return was_running


@contextlib.contextmanager
def _lock_file(places: Places) -> Iterator[int]:
    places.agent.mkdir(parents=True, exist_ok=True)
    fd = os.open(places.agent / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def run(places: Places) -> None:
    """Run the agent until SIGTERM, SIGINT or a shutdown request.

    Raises:
        SteleError: `agent.already-running`, and whatever opening the host's resources refuses with.
    """
    logging.getLogger().setLevel(logging.INFO)
    places.agent.mkdir(parents=True, exist_ok=True)
    # never closed: the kernel lets go of it when this process is really gone, and that is what `stop` waits for
    if locks.hold(places.agent / "lock") is None:
        raise SteleError("an agent runs already for this data folder", remedy="talk to it: `stele status`", code="agent.already-running")
    _serve(places)


def _serve(places: Places) -> None:
    import uvicorn

    from stele.api.server import application

    opened = supervision.open_fleet(places)
    stop_requested = threading.Event()
    server: uvicorn.Server | None = None

    def finish() -> None:
        stop_requested.set()
        if server is not None:
            server.should_exit = True

    try:
        with contextlib.suppress(FileNotFoundError):
            places.agent_socket.unlink()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        old = os.umask(0o177)
        try:
            sock.bind(str(places.agent_socket))
        finally:
            os.umask(old)
        sock.listen(64)
        app = application(opened.fleet, finish)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=5))
        opened.begin()
        _say_ready()
        server.run(sockets=[sock])  # handles SIGTERM and SIGINT
    finally:
        opened.close()
        with contextlib.suppress(FileNotFoundError):
            places.agent_socket.unlink()


def _say_ready() -> None:
    fd = os.environ.pop("STELE_READY_FD", "")
    if fd.isdecimal():
        os.write(int(fd), b"ready")
        os.close(int(fd))
