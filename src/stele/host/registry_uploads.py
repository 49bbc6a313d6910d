"""Uploads that are under way: where they go on, how much the registry has, and what is noted of them for a process that dies."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urljoin

import msgspec

from stele.host import durable
from stele.host.http_registry import BrokenError, bad_answer, origin_of
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from pathlib import Path

    from stele.host.http_registry import Answer
    from stele.host.registry import Repository

KEPT_SECONDS = 7 * 24 * 3600.0  # registries forget sooner
_RANGE = re.compile(r"(?:bytes=)?0-(0|[1-9][0-9]{0,18})\Z", re.ASCII)


class State(NamedTuple):
    """An upload: the URL where it goes on ("" where it has none yet), and how many bytes the registry has.

    `least`: how many bytes a part must have that is not the last, as the registry says.
    """

    place: str
    at: int
    least: int = 0


class _Noted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    place: str


def received(said: str) -> int | None:
    """How many bytes a `Range` header of an upload says that there are; None where it does not say.

    `0-0` is said of nothing and of one byte; it is taken for nothing.
    """
    found = _RANGE.match(said)
    if found is None:
        return None
    return int(found[1]) + 1 if found[1] != "0" else 0


def location(repository: Repository, answer: Answer) -> str:
    """Where an upload goes on, as an answer says.

    Raises:
        SteleError: `registry.bad-answer`: it does not say, or leads from https to http.
    """
    said = answer.headers.get("Location", "")
    if not said:
        raise bad_answer("it does not say where to upload to")
    base = repository.connections.base()
    url = urljoin(f"{base}/v2/", said)
    target, own = origin_of(url), origin_of(base)
    if target.scheme == "http" and own.scheme == "https":
        if target.host != own.host:
            raise bad_answer("it wants an upload without TLS")
        url = f"{base}/{url.removeprefix('http://').partition('/')[2]}"  # a registry that does not know of the proxy before it
    return url


def offset(repository: Repository, place: str, size: int) -> State:
    """Ask the registry how much of an upload it has; an upload that it does not know, or does not say, begins anew.

    Raises:
        SteleError: `registry.*` if it could not be asked.
    """
    with repository.request("GET", place, writes=True) as answer:
        if answer.status not in {200, 204}:
            return State("", 0)
        done = received(answer.headers.get("Range", ""))
        if done is None or done > size:
            return State("", 0)
        return State(location(repository, answer) if answer.headers.get("Location") else place, done)


class Session:
    """One blob's upload, noted in a folder so that another process can go on with it."""

    def __init__(self, folder: Path | None, repository: Repository, digest: str) -> None:
        name = hashlib.sha256(f"{repository.registry}/{repository.name}@{digest}".encode()).hexdigest()
        self._path = folder / name if folder is not None else None
        self._repository = repository

    def resume(self, size: int) -> State:
        """Where to go on, as the registry says; the beginning, where nothing was noted or it does not know of it."""
        if self._path is None:
            return State("", 0)
        try:
            place = msgspec.json.decode(self._path.read_bytes(), type=_Noted).place
            same = origin_of(place).scheme == origin_of(self._repository.connections.base()).scheme
            if not same or time.time() - self._path.stat().st_mtime > KEPT_SECONDS:
                return State("", 0)
            return offset(self._repository, place, size)
        except (OSError, ValueError, BrokenError, SteleError):  # what was noted is of no use
            return State("", 0)

    def note(self, state: State) -> None:
        """Note it; an upload does not depend on it."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                durable.make_dirs(self._path.parent, 0o700)
                durable.write(self._path, msgspec.json.encode(_Noted(state.place)), mode=0o600)

    def forget(self) -> None:
        """It is done."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                durable.remove(self._path)
