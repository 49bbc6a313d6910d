"""Before the demo: whose data, which port, what an earlier run left; after it: give everything to the caller."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from examples.caller import Caller, caller
from examples.demo import ports
from examples.shop import build
from stele.flow.places import Places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from examples.demo.screen import Screen
    from examples.demo.stele import Stele

NOT_READY = 4  # as `stele`: something outside the request is missing or busy
DEFAULT_PORT = 18080


class NotReadyError(Exception):
    """The demo cannot start yet; the message says why and what to do."""


class Ground(NamedTuple):
    """Where the demo plays. `tag` is what every name on the host carries that is made for `data`."""

    who: Caller
    data: Path
    work: Path
    port: int
    tag: str


def ground(port_text: str, data_text: str) -> Ground:
    """Choose the folders and the port.

    Args:
        port_text: PORT as given; "" for the default.
        data_text: the folder as given; "" for `stele-demo` below the caller's XDG state folder.

    Raises:
        NotReadyError: PORT is not a port number.
    """
    who = caller()
    if port_text and not (port_text.isascii() and port_text.isdecimal() and 1 <= int(port_text) <= 65535):
        raise NotReadyError(f"PORT={port_text} is not a port; give a number from 1 to 65535")
    base = os.environ.get("XDG_STATE_HOME") if who.uid == os.getuid() else None
    folder = Path(data_text) if data_text else (Path(base) if base else who.home / ".local" / "state") / "stele-demo"
    folder = Path(os.path.realpath(folder))
    data = folder / "data"
    return Ground(who, data, folder / "work", int(port_text or DEFAULT_PORT), Places(data).tag)


@contextlib.contextmanager
def locked(where: Ground) -> Iterator[None]:
    """Hold the demo's folder for this run; whatever is in it belongs to the caller afterwards.

    Raises:
        NotReadyError: another run holds it, or it is a folder that the demo did not make.
    """
    folder = where.data.parent
    mark = folder / "made-by-make-run"
    if folder.exists() and not mark.exists() and any(folder.iterdir()):
        raise NotReadyError(f"{folder} exists and is not the demo's; give another with STELE_DEMO=FOLDER, the demo deletes what is in it")
    where.who.make_folder(folder)
    with mark.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise NotReadyError(
                "another `make run` is at work with the same folder; wait for it, or give STELE_DEMO=FOLDER and PORT=…"
            ) from error
        try:
            yield
        finally:
            _make_mutable(folder)
            where.who.give(folder)


def clear(where: Ground, stele: Stele, screen: Screen) -> None:
    """Remove what an earlier run left: from the host by stele's own command, then the old data folder.

    Raises:
        StepFailedError: the host could not be cleaned.
    """
    if Path(f"/run/stele/{where.tag}").exists():
        screen.say("an earlier run was interrupted; cleaning up after it")
        with screen.working("stopping what it left"):
            stele.call("init", "--keys-only", show=False)  # somebody may have deleted the folder under a running agent
            stele.call("agent", "stop", "--remove")
    for folder in (where.data, where.work):
        if folder.exists():
            _make_mutable(folder)
            shutil.rmtree(folder)
    where.who.make_folder(where.work)


def _make_mutable(folder: Path) -> None:
    """The store makes images immutable where the file system can; what is left behind must be the caller's to delete."""
    if os.geteuid() == 0 and shutil.which("chattr"):
        subprocess.run(["chattr", "-R", "-f", "-i", str(folder)], capture_output=True, timeout=60, check=False)


def need_port(port: int) -> None:
    """Refuse a busy port, with the name of who keeps it busy and a free one to take instead.

    Raises:
        NotReadyError: the port is busy, or not free to bind.
    """
    if ports.is_free(port):
        return
    by = ports.holder(port) or "another program (a rule of the firewall, or another user's process)"
    raise NotReadyError(
        f"port {port} of this machine is in use by {by}\n  take another one: make run PORT={ports.next_free(max(port, 1024))}"
    )


def specs(where: Ground) -> dict[str, Path]:
    """The specs of both versions with the chosen port, in folders of their own beside their settings files."""
    found = {}
    for version in build.VERSIONS:
        folder = where.work / version
        shutil.copytree(build.HERE / version, folder)
        spec = folder / "stele.yaml"
        text = spec.read_text()
        changed = text.replace(f"host: {DEFAULT_PORT}", f"host: {where.port}")
        if changed == text and where.port != DEFAULT_PORT:
            raise NotReadyError(f"{build.HERE / version}/stele.yaml does not publish port {DEFAULT_PORT}")
        spec.write_text(changed)
        found[version] = spec
    return found


def what_is_missing(stele: Stele) -> list[str]:
    """What keeps this host, or this user, from running instances, as `stele doctor` says it; [] if nothing does."""
    _, found = stele.try_("doctor", show=False)
    if not isinstance(found, dict) or "findings" not in found:
        return [f"stele doctor gave no answer: {found}"]
    bad = [entry for entry in found["findings"] if entry["state"] == "missing" and entry["stage"] in {"run", "watch"}]
    rights = [entry for entry in bad if entry["need"] == "privileges"]
    if rights and len(bad) > 1:  # the rest follows from it, and their remedies would mislead
        follows = ", ".join(entry["need"] for entry in bad if entry not in rights)
        return [f"{rights[0]['way']}: {rights[0]['remedy']}", f"without it there is also no: {follows}"]
    return [f"{entry['need']}: missing ({entry['way']}); {entry['remedy']}" for entry in bad]
