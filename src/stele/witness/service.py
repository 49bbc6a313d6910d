"""What a witness answers (C2SP tlog-witness). Each log's check and the durable write of its new head are one step."""

from __future__ import annotations

import logging
import re
import threading
from typing import TYPE_CHECKING, NamedTuple

from stele.trust import note, witnessing
from stele.trust.errors import SteleError
from stele.witness import state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = logging.getLogger(__name__)
_TEXT = "text/plain; charset=utf-8"
_HEAD_PATH = re.compile(r"/([0-9a-f]{64})/checkpoint\Z", re.ASCII)


class Answer(NamedTuple):
    """Status, content type, body."""

    status: int
    content_type: str
    body: bytes


def _refuse(status: int, why: str) -> Answer:
    return Answer(status, _TEXT, why.encode() + b"\n")


class Witness:
    """A running witness. `answer` may be called from any thread."""

    def __init__(self, folder: Path, *, clock: Callable[[], int]) -> None:
        """Open the folder.

        Args:
            folder: as `stele witness init` made it.
            clock: UTC seconds since 1970.

        Raises:
            SteleError: `witness.none`, `witness.locked`, `witness.damaged`, `witness.bad-policy`, `trust.bad-key`.
        """
        self._folder, self._clock = folder, clock
        self.keys = state.read_keys(folder)
        self._state = state.State(folder, self.keys)
        self._locks: dict[str, threading.Lock] = {}
        self._logs_lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._logs: dict[str, tuple[note.Verifier, ...]] = {}
        try:
            self.logs()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the lock."""
        self._state.close()

    def logs(self) -> dict[str, tuple[note.Verifier, ...]]:
        """The logs that are served, with their keys: the list as it is now."""
        with self._logs_lock:
            path = self._folder / "logs"
            found = path.stat()
            seen = found.st_ino, found.st_mtime_ns, found.st_size
            if seen != self._seen:
                self._logs, self._seen = state.parse_logs(path.read_bytes()), seen
            return self._logs

    def _lock(self, origin: str) -> threading.Lock:
        with self._logs_lock:
            return self._locks.setdefault(origin, threading.Lock())

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        """The answer to a request."""
        head = _HEAD_PATH.match(path)
        if head:
            if method != "GET":
                return _refuse(405, "only GET")
            found = self._state.head(head[1])
            return Answer(200, _TEXT, found) if found is not None else _refuse(404, "nothing was cosigned of this log")
        if path != "/add-checkpoint":
            return _refuse(404, "this witness has /add-checkpoint and /<hash of an origin>/checkpoint")
        if method != "POST":
            return _refuse(405, "only POST")
        try:
            return self._add(body)
        except OSError as error:
            log.error("nothing was cosigned: the disk says %s", error)  # noqa: TRY400  no traceback for a full disk
            return _refuse(503, "this witness cannot write its state: it cosigns nothing")

    def _add(self, body: bytes) -> Answer:
        try:
            asked = witnessing.parse(body)
            origin = note.unverified(asked.note).origin
        except SteleError as error:
            return _refuse(400, error.reason)
        try:
            ledgers = self.logs().get(origin)
        except SteleError as error:
            log.error("the list of logs cannot be read: %s", error.reason)  # noqa: TRY400
            return _refuse(503, "this witness cannot read its list of logs")
        if ledgers is None:
            return _refuse(404, "this witness does not know the log")
        try:
            opened = note.open_note(asked.note, ledgers)
        except SteleError as error:
            return _refuse(400 if error.code == "trust.bad-note" else 403, error.reason)
        with self._lock(origin):
            return self._cosign(asked, opened)

    def _cosign(self, asked: witnessing.Submission, opened: note.Opened) -> Answer:
        head = opened.checkpoint
        last = self._state.last(head.origin)
        known = last.checkpoint if last else note.Checkpoint(head.origin, 0, b"")
        if asked.old > head.size:
            return _refuse(400, "the old size is larger than the checkpoint's")
        if asked.old != known.size:
            return Answer(409, witnessing.SIZE_TYPE, f"{known.size}\n".encode())
        text, _, _ = asked.note.rpartition(b"\n\n")
        # without lines by strangers: with them anybody could make as many notes of one as evidence has room for
        held = {(each.verifier.name, each.verifier.key_id) for each in opened.signatures}
        signed = text + b"\n\n" + note.lines_of(asked.note, lambda *key: key in held)
        if not witnessing.follows(known.size, known.root, head, asked.proof):
            # two signed roots of one size prove it; else it may be the proof alone that is wrong
            why = "split-view" if known.size == head.size and known.root != head.root and last else "unproven"
            log.error("%s: a signed checkpoint of size %d does not continue that of size %d", head.origin, head.size, known.size)
            try:
                self._state.keep_evidence(signed, head.origin, why)
            except OSError:
                log.exception("the evidence could not be kept")
            return _refuse(422, "the checkpoint is not proven to continue the one that was cosigned last")
        now = self._clock()
        if last and now < max(each.seconds or 0 for each in last.signatures):
            log.error("the clock was set back: nothing is cosigned before it has caught up")
            return _refuse(503, "this witness's clock was set back")
        lines = self.keys.lines(text + b"\n", now)
        self._state.advance(signed + lines, note.Opened(head, tuple(note.Signature(key, now) for key in self.keys.verifiers)))
        return Answer(200, _TEXT, lines)
