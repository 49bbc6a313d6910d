"""Blobs to and from a registry as streams: resumed where a connection breaks, checked against digest and size."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urljoin

from stele.host.http_registry import AGAIN, PIECE, TRIES, BrokenError, bad_answer, origin_of
from stele.host.registry import wrong_bytes
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stele.host.http_registry import Answer
    from stele.host.registry import Repository


def download(repository: Repository, digest: str, size: int, fd: int) -> None:
    """Write a blob to the empty file `fd`; on return it has this digest and size.

    Where the connection breaks it goes on from there, as long as each try brings something.

    Raises:
        SteleError: `registry.missing-blob`, `registry.wrong-bytes`, and `registry.*` if it could not be fetched.
    """
    state, at, tries = hashlib.sha256(), 0, 0
    while True:
        before = at
        try:
            with repository.open_blob(digest, at) as answer:
                if at and answer.status in {200, 416}:  # it does not know of ranges
                    state, at, before = hashlib.sha256(), 0, size
                    os.ftruncate(fd, 0)
                    if answer.status == 416:
                        raise BrokenError("it does not go on where the connection broke")
                _expect(repository, answer, digest)
                for piece in answer.pieces():
                    at += len(piece)
                    if at > size:
                        raise wrong_bytes(digest)
                    state.update(piece)
                    _write(fd, piece, at - len(piece))
            if at < size:
                raise BrokenError(f"the body ended {size - at} bytes early")
            break
        except BrokenError as error:
            tries = 0 if at > before else tries + 1
            if tries >= TRIES:
                raise repository.connections.gave_up(error) from error
            repository.connections.pause(tries, error)
    if at != size or "sha256:" + state.hexdigest() != digest:
        raise wrong_bytes(digest)


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


def _write(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, at)
        view, at = view[done:], at + done


def upload(repository: Repository, digest: str, size: int, file: BinaryIO) -> None:
    """Store a blob of `size` bytes that was checked against its digest; begun again where the connection breaks.

    In one PUT: of uploads in parts every registry has its own idea.

    Raises:
        SteleError: `registry.*`.
    """
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
    for number in range(TRIES):
        with repository.request("POST", "blobs/uploads/", writes=True) as answer:
            if answer.status not in {200, 202}:
                raise repository.refusal(answer, f"the blob {digest[:19]}")
            place = _location(repository, answer)
        url = f"{place}{'&' if '?' in place else '?'}digest={digest}"
        sent = {**headers, **repository.authorisation(url, repository.scope(writes=True))}
        try:
            with repository.connections.once("PUT", url, sent, _pieces(repository, file)) as answer:
                if answer.status in {200, 201, 204}:
                    return
                if answer.status not in AGAIN:
                    raise repository.refusal(answer, f"the blob {digest[:19]}")
                broken = BrokenError(f"HTTP status {answer.status}", status=answer.status)
        except BrokenError as error:
            broken = error
        if number + 1 < TRIES:
            repository.connections.pause(number, broken)
    raise repository.connections.gave_up(broken)


def _pieces(repository: Repository, file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(PIECE):
        repository.connections.count_sent(len(piece))
        yield piece


def _location(repository: Repository, answer: Answer) -> str:
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
