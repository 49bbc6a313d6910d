"""stele warm: start, stop, status."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import click

from stele.cli import render, warm_call
from stele.cli.context import Call, with_call
from stele.host import durable
from stele.trust.errors import SteleError


@click.group()
def warm() -> None:
    """A process of your own that has Stele loaded, so that plain seals need not: they take the same way, and start at once."""


@warm.command(epilog="\b\nExample:\n  stele warm start\n  stele warm start --idle 600")
@click.option(
    "--idle", type=click.IntRange(1, 30 * 24 * 3600), default=8 * 3600, show_default=True, help="Seconds without a call to end after."
)
@with_call
def start(call: Call, idle: int) -> None:
    """Start it in the background; `stele seal SOURCE -f SPEC` finds it by itself, and does without it where anything is not the same."""
    if None in {sys.__stdin__, sys.__stdout__, sys.__stderr__}:
        raise click.UsageError("standard input, output and error must be open")
    where = _folder()
    env = dict(os.environb)
    with durable.alone(Path(where)):
        if _asked(where, b"status") is not None:
            _say(call, "it is warm already", started=False)
            return
        from stele.cli import warm_server
        from stele.watch.daemon import detach

        warm_server.prepare()
        path = f"{where}/{warm_call.SOCKET}"
        Path(path).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen(16)
        _say(call, "plain seals of this user are warm from now on", started=True)
        detach(Path(where) / "warm.log")  # with its lock on the folder, which goes with the last descriptor
    os.closerange(3, listener.fileno())
    os.closerange(listener.fileno() + 1, 1 << 16)
    os.environ.clear()
    warm_server.Server(listener, where, env).serve(idle)


@warm.command(epilog="\b\nExample:\n  stele warm stop")
@with_call
def stop(call: Call) -> None:
    """Stop it; commands that it runs come to their end."""
    was = _asked(_folder(), b"stop") is not None
    if call.json:
        render.show_json({"was_running": was})
    else:
        render.say_line("it is stopped" if was else "no warm process ran")


@warm.command(epilog="\b\nExample:\n  stele warm status")
@with_call
def status(call: Call) -> None:
    """Whether it runs, how many calls it ran and refused, and why it refused the last."""
    found = _asked(_folder(), b"status")
    if call.json:
        render.show_json({"running": found is not None, "says": found or ""})
    else:
        render.say_line(found or "no warm process runs")


def _say(call: Call, text: str, *, started: bool) -> None:
    if call.json:
        render.show_json({"started": started})
    else:
        render.say_line(text)


def _folder() -> str:
    """The folder of the socket, made where it is not there.

    Raises:
        SteleError: `warm.no-place`.
    """
    where = warm_call.folder()
    if where is not None:
        try:
            os.makedirs(where, 0o700, exist_ok=True)
        except OSError:
            where = None
    if where is None or not warm_call.is_own(where):
        raise SteleError(
            "there is no folder that is this user's alone for the socket of a warm process",
            remedy="log in so that XDG_RUNTIME_DIR is set to a folder of yours, or do without: only the start of commands is slower",
            code="warm.no-place",
        )
    return where


def _asked(where: str, kind: bytes) -> str | None:
    """What the warm process says; None where there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(warm_call.ANSWER_S)
        try:
            warm_call.ask(sock, where, kind, [])
            said = b""
            while piece := sock.recv(1 << 16):
                said += piece
        except OSError:
            return None
    return said.decode("utf-8", "replace") or None
