"""Blobs to and from a registry as streams: resumed where a connection breaks, checked against digest and size."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from typing import TYPE_CHECKING, BinaryIO

from stele.host import durable
from stele.host.http_registry import AGAIN, PIECE, TRIES, BrokenError, bad_answer
from stele.host.registry import wrong_bytes
from stele.host.registry_uploads import Session, State, location, offset, received
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stele.host.http_registry import Answer
    from stele.host.registry import Repository

SMALL = 8 << 20  # bytes of a blob that goes in one piece, and of the first part of a larger one
CHUNK = 64 << 20  # bytes of the largest part
SECONDS = 2.0  # that a part is to take, as fast as the one before it went


REFUSALS = frozenset({400, 404, 405, 411, 416, 501})  # of a part by registries that take none, or no more


class NoPartsError(Exception):
    """The registry takes a blob in one piece only."""


def download(repository: Repository, digest: str, size: int, fd: int) -> None:
    """Write a blob to the file `fd`; on return it has this digest and size.

    What the file has already is taken for its beginning. Where the connection breaks it goes on from there, as long as each try
    brings something. If what comes out is wrong, and not all of it came now, all is fetched once more. A file that is refused is emptied.

    Raises:
        SteleError: `registry.missing-blob`, `registry.wrong-bytes`, and `registry.*` if it could not be fetched.
    """
    start = os.fstat(fd).st_size
    try:
        if start and _fetch(repository, digest, size, fd, start):
            return
        if not _fetch(repository, digest, size, fd, 0):
            raise wrong_bytes(digest)
    except SteleError as error:
        if error.code == "registry.wrong-bytes":
            os.ftruncate(fd, 0)
        raise


def _fetch(repository: Repository, digest: str, size: int, fd: int, start: int) -> bool:
    """Fetch from byte `start` on; whether the whole has the digest then."""
    os.ftruncate(fd, start)
    state, at, tries = hashlib.sha256(), 0, 0
    while piece := os.pread(fd, PIECE, at):
        state.update(piece)
        at += len(piece)
    while at < size:
        before = at
        try:
            with repository.open_blob(digest, at) as answer:
                if at and (answer.status in {200, 416} or (answer.status == 206 and not _goes_on(answer, at))):
                    state, at, before = hashlib.sha256(), 0, size  # it does not know of ranges
                    os.ftruncate(fd, 0)
                    if answer.status != 200:
                        raise BrokenError("it does not go on where the connection broke")
                _expect(repository, answer, digest)
                for piece in answer.pieces():
                    at += len(piece)
                    if at > size:
                        raise wrong_bytes(digest)
                    state.update(piece)
                    durable.write_at(fd, piece, at - len(piece))
            if at < size:
                raise BrokenError(f"the body ended {size - at} bytes early")
        except BrokenError as error:
            tries = 0 if at > before else tries + 1
            if tries >= TRIES:
                raise repository.connections.gave_up(error) from error
            repository.connections.pause(tries, error)
    return at == size and "sha256:" + state.hexdigest() == digest


def _goes_on(answer: Answer, at: int) -> bool:
    said = answer.headers.get("Content-Range", "")
    return not said or said.startswith(f"bytes {at}-")


def _expect(repository: Repository, answer: Answer, digest: str) -> None:
    if answer.status in {200, 206}:
        return
    if answer.status == 404:
        raise SteleError(
            f"the registry {repository.registry} lacks the blob {digest[:19]}, which the release needs",
            remedy="the release was not copied there whole: push it again from where it is",
            code="registry.missing-blob",
        )
    raise bad_answer(f"HTTP status {answer.status} is not an answer to a request for a blob")


def upload(repository: Repository, digest: str, size: int, file: BinaryIO, *, mount: str = "", sessions: Path | None = None) -> bool:
    """Store a blob of `size` bytes that was checked against its digest; returns False if nothing had to be sent for it.

    Small ones in one PUT, which begins again where the connection breaks. Larger ones in parts (PATCH), of a few seconds each: where
    the connection breaks, or this process dies, the registry is asked how much it has. A registry that takes no parts, or no second one,
    or does not say how much it has, gets all of it again.

    Args:
        repository: where to.
        digest: of the blob.
        size: of the blob.
        file: the blob, seekable.
        mount: a repository of this registry that may have it, from which it is taken then.
        sessions: a folder where uploads that are under way are noted; None: nowhere.

    Raises:
        SteleError: `registry.*`.
    """
    session = Session(sessions, repository, digest)
    state = session.resume(size) if size > SMALL else State("", 0)
    in_parts, length = size > SMALL, SMALL
    best, tries, refusals = 0, 0, 0  # how far it came, and how often it broke or was refused since
    while True:
        if not state.place:
            state, is_mounted = _begin(repository, digest, mount)
            if is_mounted:
                return False
        try:
            while in_parts and state.at < size:
                begun, before = time.monotonic(), state.at
                state = _part(repository, state, min(state.at + max(length, state.least), size), file)
                session.note(state)
                if state.at == before:
                    raise BrokenError("it took nothing of a part", status=416)
                rate = (state.at - before) / max(time.monotonic() - begun, 1e-3)
                length = max(SMALL, min(int(rate * SECONDS), CHUNK))
            _finish(repository, digest, state, size, file)
            session.forget()
        except NoPartsError:
            in_parts, state = False, State("", 0)
        except BrokenError as error:
            tries, refusals = (0, 0) if state.at > best else (tries + 1, refusals)
            best, refusals = max(best, state.at), refusals + (error.status in REFUSALS)
            if tries >= TRIES:
                raise repository.connections.gave_up(error) from error
            repository.connections.pause(tries, error)
            in_parts, length = in_parts and refusals < 2, SMALL  # it took parts, and takes no more of them
            state = offset(repository, state.place, size) if in_parts else State("", 0)
        else:
            return True


def _begin(repository: Repository, digest: str, mount: str) -> tuple[State, bool]:
    """Begin an upload, or take the blob from another repository; the latter is said."""
    if mount:
        with contextlib.suppress(SteleError):  # who may not read there, or asks a registry that knows no mounts, sends it
            target, also = f"blobs/uploads/?mount={digest}&from={mount}", f"repository:{mount}:pull"
            with repository.request("POST", target, writes=True, also=also) as answer:
                if answer.status == 201:
                    return State("", 0), True
                if answer.status in {200, 202}:
                    return _begun(repository, answer), False
    with repository.request("POST", "blobs/uploads/", writes=True) as answer:
        if answer.status not in {200, 202}:
            raise repository.refusal(answer, f"the blob {digest[:19]}")
        return _begun(repository, answer), False


def _begun(repository: Repository, answer: Answer) -> State:
    said = answer.headers.get("OCI-Chunk-Min-Length", "")
    least = int(said) if said.isascii() and said.isdigit() and len(said) < 12 else 0
    return State(location(repository, answer), 0, min(least, CHUNK))


def _part(repository: Repository, state: State, end: int, file: BinaryIO) -> State:
    """Send the next part, up to byte `end`; returns where to go on.

    Raises:
        NoPartsError: the registry does not take the first part.
        BrokenError: it did not take this one.
    """
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(end - state.at)}
    headers |= {"Content-Range": f"{state.at}-{end - 1}", **repository.authorisation(state.place, repository.scope(writes=True))}
    with repository.connections.once("PATCH", state.place, headers, _pieces(repository, file, state.at, end)) as answer:
        if answer.status in {200, 202, 204}:
            done = received(answer.headers.get("Range", ""))
            return State(location(repository, answer), end if done is None else max(state.at, min(done, end)), state.least)
        if state.at == 0 and answer.status in REFUSALS:
            raise NoPartsError
        raise BrokenError(f"HTTP status {answer.status}", status=answer.status)


def _finish(repository: Repository, digest: str, state: State, size: int, file: BinaryIO) -> None:
    """Send what is left (all of it, where there were no parts), and give it its digest. Raises BrokenError."""
    url = f"{state.place}{'&' if '?' in state.place else '?'}digest={digest}"
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size - state.at)}
    headers |= repository.authorisation(url, repository.scope(writes=True))
    with repository.connections.once("PUT", url, headers, _pieces(repository, file, state.at, size)) as answer:
        if answer.status in {200, 201, 204}:
            return
        if answer.status in AGAIN | {401, 404, 416}:  # a token ran out, or the upload did
            raise BrokenError(f"HTTP status {answer.status}", status=answer.status)
        raise repository.refusal(answer, f"the blob {digest[:19]}")


def _pieces(repository: Repository, file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    file.seek(start)
    while start < end and (piece := file.read(min(PIECE, end - start))):
        start += len(piece)
        repository.connections.count_sent(len(piece))
        yield piece
