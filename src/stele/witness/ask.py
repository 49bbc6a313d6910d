"""Asking one witness for its cosignatures (C2SP tlog-witness, the log's side)."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from stele.host.http_post import HttpPosts
from stele.trust import note, witnessing
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BEHIND = "witness.behind"
TRIES = 3  # a witness that others ask for the same log may know yet another size


class Behind(NamedTuple):
    """A witness that says that it knows fewer entries than it cosigned: `named` of the `cosigned`. `name`: of its key."""

    name: str
    url: str
    cosigned: int
    named: int


class Asker:
    """One witness at one address, with the keys by which it is known there. One request at a time."""

    def __init__(
        self, url: str, keys: Sequence[note.Verifier], ledgers: Sequence[note.Verifier], *, timeout: float, cosigned: int = 0
    ) -> None:
        """Nothing is asked yet.

        Args:
            url: submission prefix.
            keys: its keys.
            ledgers: the log's keys.
            timeout: seconds in which something of an answer must come.
            cosigned: the largest size that is known to carry its signature.

        Raises:
            SteleError: `http.bad-address`.
        """
        self.url, self.keys = url, tuple(keys)
        self._ledgers = ledgers
        self._posts = HttpPosts(url, timeout=timeout)
        self.cosigned = cosigned  # its own signature says so: it can never know less
        self.behind: Behind | None = None  # what it said last, if that is less
        self._known = cosigned  # what it knows, by its word

    def close(self) -> None:
        """Close the connection."""
        self._posts.close()

    def cosign(self, signed: bytes, head: note.Checkpoint, prove: Callable[[int], Sequence[bytes]]) -> bytes:
        """Its signature lines for a checkpoint, checked; lines by keys that are not known are dropped.

        Args:
            signed: the note, with the log's own signatures.
            head: what it says.
            prove: consistency proof from an earlier size to it.

        Raises:
            SteleError: `http.*` it cannot be asked; `witness.refused`, `witness.ahead`, `witness.behind`, `witness.bad-answer`.
        """
        if head.size < self.cosigned:  # it would have to sign what it has left behind
            raise _ahead(self.url, self.cosigned, head)
        for _ in range(TRIES):
            old = min(self._known, head.size)
            proof = tuple(prove(old)) if 0 < old < head.size else ()
            body = witnessing.encode(witnessing.Submission(old, proof, signed))
            answer = self._posts.post("/add-checkpoint", body, "text/plain; charset=utf-8", witnessing.MAX_ANSWER)
            if answer.status == 200:
                lines = witnessing.take_lines(answer.body, signed, self._ledgers, self.keys)
                self._known = self.cosigned = head.size
                self.behind = None
                return lines
            if answer.status == 409 and answer.content_type == witnessing.SIZE_TYPE:
                size = witnessing.parse_size(answer.body)
                if size > head.size:
                    raise _ahead(self.url, size, head)
                if size < self.cosigned:  # what it cosigns from there on may be a second history
                    self._known = self.cosigned
                    self.behind = Behind(self.keys[0].name, self.url, self.cosigned, size)
                    raise _behind(self.behind, head.origin)
                if size == self._known and size == old:
                    break
                self._known = size
                continue
            raise _refused(self.url, answer.status, answer.body)
        raise witnessing.bad_answer(f"{self.url} names the size {self._known} and then refuses it")


def _ahead(url: str, size: int, head: note.Checkpoint) -> SteleError:
    return SteleError(
        f"the witness {url} has cosigned {size} entries of {head.origin}, and here are {head.size}: this ledger was set back, or there is"
        " another with its key",
        remedy="do not go on: compare this folder with its copies; docs/guide/witness.md says how to find out which is true",
        code="witness.ahead",
    )


def _behind(found: Behind, origin: str) -> SteleError:
    return SteleError(
        f"the witness {found.url} says that it has cosigned {found.named} entries of {origin}, and it had cosigned {found.cosigned}: it was"
        " set back, or it lies",
        remedy="nothing that it cosigns from there is taken. Ask who runs it; docs/guide/witness.md says what to do about it",
        code=BEHIND,
    )


def _refused(url: str, status: int, body: bytes) -> SteleError:
    said = ""
    with contextlib.suppress(UnicodeDecodeError):
        said = body[:200].decode("ascii").strip()
    what = {
        403: "it does not know the key that signed, or the signature does not hold",
        404: "it does not know this ledger, or the address is wrong",
        422: "it saw another history of this ledger, or the proof is wrong",
    }.get(status, "it did not say 200")
    return SteleError(
        f"the witness {url} refused the checkpoint with HTTP status {status}: {what}{f' ({said!r})' if said else ''}",
        remedy="404 and 403: give its operator this ledger's vkeys (`stele trust show` or keys/trust.keys). 422: compare with other copies",
        code="witness.refused",
        retryable=status >= 500,
    )
