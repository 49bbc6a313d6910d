"""Collecting cosignatures for what a ledger publishes: all witnesses at once, until the policy's quorum is there or time is up.

A thread for each witness works on the newest checkpoint until it has its cosignatures, however long that takes. The ledger waits
for the quorum only, and in the mode `publish` not for witnesses that have just failed.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from stele.trust import note, quorum
from stele.trust.errors import SteleError
from stele.witness import forks
from stele.witness.ask import BEHIND, Asker, Behind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

log = logging.getLogger(__name__)
FIRST_PAUSE_S, LAST_PAUSE_S = 0.2, 30.0
MAX_TEXT = 512  # bytes of a checkpoint's text: a name, a size, a root
Late = Callable[[int, bytes], None]
Alarm = Callable[[Behind], None]


class Standing(NamedTuple):
    """How it stands with a witness: what it cosigned last and when, and what went wrong since ("" for nothing)."""

    name: str
    url: str
    size: int
    seconds: int
    error: str


class _Job:
    """One checkpoint. `lines`: what came, by address. `failed`: who has tried in vain."""

    def __init__(self, signed: bytes, prove: Callable[[int], Sequence[bytes]]) -> None:
        self.signed = signed
        self.text = signed.rpartition(b"\n\n")[0] + b"\n"
        self.head = note.parse_body(self.text)
        self.lines: dict[str, bytes] = {}
        self.failed: set[str] = set()
        self.waited_for = True
        self.forked: SteleError | None = None
        self._prove, self._proving = prove, threading.Lock()

    def prove(self, old: int) -> Sequence[bytes]:
        with self._proving:
            return self._prove(old)


class Collector:
    """The `cosign` of a ledger. Its threads end with `close`."""

    def __init__(
        self,
        policy: quorum.Policy,
        ledgers: Sequence[note.Verifier],
        *,
        block: bool,
        timeout: float,
        late: Late = lambda size, lines: None,
        cosigned: Mapping[note.Verifier, int] | None = None,
        believed: forks.Believed | None = None,
    ) -> None:
        """Start the threads.

        Args:
            policy: whom to ask, and when it is enough.
            ledgers: the ledger's keys.
            block: without the quorum nothing is published.
            timeout: seconds for which publishing waits.
            late: takes lines that came after publishing: size and lines; called from a thread of its own.
            cosigned: the largest size that carries a signature by each witness's key, as far as that is known.
            believed: what a note says that the ledger's key signed; without one, that one of `ledgers` signed.

        Raises:
            SteleError: `witness.bad-policy` if the quorum cannot be had from witnesses with an address; `http.bad-address`.
        """
        asked = [witness for witness in policy.witnesses if witness.url]
        if not policy.met([witness.verifier for witness in asked]):
            raise quorum.bad("its quorum cannot be met: a witness that is needed has no URL")
        own = {key.algorithm: key for key in ledgers}.values()  # one of each kind signs, however many there were
        if sum(map(note.line_size, (*own, *(witness.verifier for witness in asked)))) > note.MAX_NOTE - MAX_TEXT:
            raise quorum.bad(
                f"a checkpoint with all of its cosignatures would be larger than {note.MAX_NOTE} bytes, and nobody could read it"
            )
        self.policy, self.block, self.timeout, self.late = policy, block, timeout, late
        self.alarm: Alarm = lambda behind: None  # told of a witness that knows less than it cosigned; by who asks, or as `late`
        self._forks = forks.Forks(believed or (lambda signed: note.open_note(signed, ledgers).checkpoint), timeout=max(timeout, 1.0))
        before = cosigned or {}
        self._turn = threading.Condition()
        self._job: _Job | None = None
        self._ended = False
        self._alarmed: set[Behind] = set()
        self._untold: list[Behind] = []
        self._standings = {w.name: Standing(w.name, w.url, 0, 0, "") for w in policy.witnesses}
        by_url: dict[str, list[note.Verifier]] = {}
        for witness in asked:
            by_url.setdefault(witness.url, []).append(witness.verifier)
        self._askers = [
            Asker(url, keys, ledgers, timeout=max(timeout, 1.0), cosigned=max(before.get(key, 0) for key in keys))
            for url, keys in by_url.items()
        ]
        self._told: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        # a thread of its own: whoever takes late lines may have to wait for a publishing that waits for the witnesses
        threading.Thread(target=self._hand_on, name="witness-late", daemon=True).start()
        for asker in self._askers:
            threading.Thread(target=self._work, args=(asker,), name=f"witness-{asker.url}", daemon=True).start()

    def __call__(self, signed: bytes, size: int, prove: Callable[[int], Sequence[bytes]]) -> bytes:
        """The note with the cosignatures that came in time.

        Raises:
            SteleError: `witness.no-quorum`: the policy says that it must not be published so. `witness.forked`: a witness showed that
                the ledger has another history, so that nothing may be published, whatever the policy says.
        """
        del size  # the note says it
        deadline = time.monotonic() + self.timeout
        with self._turn:
            job = _Job(signed, prove)
            if self._job is not None and self._job.text == job.text:
                job.lines = dict(self._job.lines)  # cosignatures are of the text: what came for it before holds
            self._job = job
            self._turn.notify_all()
        forked = self._forked(job)
        with self._turn:
            job.forked = forked or job.forked
            while not self._enough(job) and not self._in_vain(job) and not self._ended and job.forked is None:
                if not self._turn.wait(deadline - time.monotonic()):
                    break
            job.waited_for = False
            enough, lines = self._enough(job), dict(job.lines)
        self._tell()  # here, because whoever asks may end before another thread comes to it
        if job.forked is not None:
            raise job.forked
        if not enough and self.block:
            raise self._no_quorum(job)
        return signed + b"".join(lines[url] for url in sorted(lines))

    def _forked(self, job: _Job) -> SteleError | None:
        """Why the job must not be published, if a witness has shown another history."""
        try:
            self._forks.refuse(job.head, job.prove)
        except SteleError as error:
            return error
        return None

    def _enough(self, job: _Job) -> bool:
        return self.policy.met([key for asker in self._askers if asker.url in job.lines for key in self._held(asker, job)])

    def _held(self, asker: Asker, job: _Job) -> list[note.Verifier]:
        _, found = note.split_note(job.text + b"\n" + job.lines[asker.url])
        names = {(name, identity) for name, identity, _ in found}
        return [key for key in asker.keys if (key.name, key.key_id) in names]

    def _in_vain(self, job: _Job) -> bool:
        """Whether nobody is left to wait for: only where the ledger goes on without."""
        return not self.block and all(asker.url in job.lines or asker.url in job.failed for asker in self._askers)

    def _no_quorum(self, job: _Job) -> SteleError:
        with self._turn:
            why = "; ".join(
                f"{each.name}: {each.error or 'no answer yet'}" for each in self._standings.values() if each.size < job.head.size
            )
        return SteleError(
            f"the checkpoint of size {job.head.size} is not published: the witnesses' quorum was not there in {self.timeout:g} s ({why})",
            remedy="what is committed is safe, and is tried again; `stele log witnesses` shows how it stands with each",
            code="witness.no-quorum",
            retryable=True,
        )

    def standings(self) -> list[Standing]:
        """How it stands with each witness of the policy."""
        with self._turn:
            return list(self._standings.values())

    def close(self) -> None:
        """End the threads; one that waits for an answer ends after it."""
        with self._turn:
            self._ended = True
            self._turn.notify_all()
        self._told.put(None)

    def _hand_on(self) -> None:
        while (found := self._told.get()) is not None:
            try:
                if found[1]:
                    self.late(*found)
            except Exception:
                log.exception("cosignatures that came late could not be added")
            self._tell()

    def _tell(self) -> None:
        """Tell of the witnesses that know less than they cosigned, each once."""
        with self._turn:
            untold, self._untold = self._untold, []
        for behind in untold:
            try:
                self.alarm(behind)
            except Exception:
                log.exception("that the witness %s is behind could not be recorded", behind.url)

    # ---- one witness's thread ----------------------------------------------------------------

    def _work(self, asker: Asker) -> None:
        pause = 0.0
        try:
            while (job := self._next(asker, pause)) is not None:
                try:
                    lines = asker.cosign(job.signed, job.head, job.prove)
                except Exception as refused:  # noqa: BLE001  whatever it is, the others go on and this one tries again
                    error = refused
                    pause = min(max(2 * pause, FIRST_PAUSE_S), LAST_PAUSE_S)
                    if isinstance(error, SteleError) and error.code in {"witness.ahead", "witness.refused"}:
                        self._forks.ask(asker.url, job.head.origin)
                        with contextlib.suppress(OSError):  # of proving: a ledger that is closed meanwhile
                            error = self._forked(job) or error
                    self._failed(asker, job, error)
                else:
                    pause = 0.0
                    self._forks.forget(asker.url)
                    self._done(asker, job, lines)
        finally:
            asker.close()

    def _next(self, asker: Asker, pause: float) -> _Job | None:
        """The newest checkpoint that this witness has not cosigned, after the pause; None at the end."""
        until = time.monotonic() + pause
        with self._turn:
            while not self._ended:
                job = self._job
                wanted = job is not None and asker.url not in job.lines
                left = until - time.monotonic()
                if wanted and job is not None and left <= 0:
                    return job
                if wanted and job is not None and asker.url not in job.failed:
                    job.failed.add(asker.url)  # it is in its pause: nobody shall wait for it
                    self._turn.notify_all()
                self._turn.wait(left if wanted else None)
        return None

    def _failed(self, asker: Asker, job: _Job, error: Exception) -> None:
        reason = error.reason if isinstance(error, SteleError) else f"{type(error).__name__}: {error}"
        serious = isinstance(error, SteleError) and error.code in {
            "witness.ahead",
            "witness.refused",
            "witness.bad-answer",
            BEHIND,
            forks.CODE,
        }
        with self._turn:
            job.failed.add(asker.url)
            if isinstance(error, SteleError) and error.code == forks.CODE:
                job.forked = error
            fresh = self._note(asker, error=reason)
            if asker.behind is not None and asker.behind not in self._alarmed:
                self._alarmed.add(asker.behind)
                self._untold.append(asker.behind)
                if not job.waited_for:
                    self._told.put((0, b""))  # nothing is added: it only tells
            self._turn.notify_all()
        if fresh:
            log.log(logging.ERROR if serious else logging.WARNING, "%s", reason)

    def _done(self, asker: Asker, job: _Job, lines: bytes) -> None:
        _, found = note.split_note(job.text + b"\n" + lines)  # verified by the asker, and each begins with its time
        seconds = max(int.from_bytes(signature[:8]) for *_, signature in found)
        with self._turn:
            job.lines[asker.url] = lines
            late = not job.waited_for
            self._note(asker, size=job.head.size, seconds=seconds)
            if self._job is not None and self._job is not job and self._job.text == job.text:
                self._job.lines[asker.url] = lines
            self._turn.notify_all()
        if late:
            self._told.put((job.head.size, lines))

    def _note(self, asker: Asker, *, size: int = 0, seconds: int = 0, error: str = "") -> bool:
        """Change the standings of a witness; whether the error is new."""
        fresh = False
        for name, standing in self._standings.items():
            if standing.url == asker.url:
                fresh = fresh or (bool(error) and standing.error != error)
                self._standings[name] = standing._replace(error=error, size=size or standing.size, seconds=seconds or standing.seconds)
        return fresh
