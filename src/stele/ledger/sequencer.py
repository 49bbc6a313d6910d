"""The sequencer: the one writer of a ledger. Batches, commits, publishes (docs/spec/ledger.md)."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
from typing import TYPE_CHECKING, NamedTuple, Protocol

from stele.host import durable
from stele.ledger import erasing, openings, projection, recovery, tiles
from stele.ledger.wal import MAX_ENTRY, NoRoom, Wal
from stele.model import private
from stele.model.epoch import epoch_event
from stele.model.event import HOST_WORKLOAD, Entry, Event, from_plain
from stele.trust import canonical, note
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from stele.model.epochmap import Node
    from stele.trust.root import Root

log = logging.getLogger(__name__)
MAX_BATCH = 4096  # events; a larger call is a batch of its own
RECYCLE_BYTES = 4 << 20
PUBLISH_EVERY_S = 0.1
SECOND_NS = 1_000_000_000


class Signs(Protocol):
    """What signs checkpoints: `note.Signer`, or one that chooses by size among several."""

    @property
    def name(self) -> str:
        """The ledger's origin."""

    @property
    def verifiers(self) -> tuple[note.Verifier, ...]:
        """Its public keys."""

    def sign(self, body: bytes, seconds: int = 0) -> bytes:
        """The signed note of a checkpoint's text. Raises `SteleError` if it may not be signed."""


class Committed(NamedTuple):
    """Where an event stands in the log (`at`, from 0). It is in the WAL and fdatasync has returned."""

    at: int
    entry: Entry


class _Ticket:
    __slots__ = ("done", "error", "events", "result")

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = tuple(events)
        self.result: list[Committed] = []
        self.error: BaseException | None = None
        self.done = False

    def settle(self) -> list[Committed]:
        if self.error is not None:
            raise self.error
        return self.result


def _write_failed(what: str, error: OSError, remedy: str) -> SteleError:
    return SteleError(f"the ledger could not be {what}: {error}", remedy=remedy, code="ledger.write-failed")


class Ledger:
    """An opened ledger. `append`, `publish` and `close` may be called from any thread."""

    def __init__(
        self,
        folder: Path,
        signer: Signs,
        clock: Callable[[], int],
        lock_fd: int,
        random: Callable[[int], bytes] = os.urandom,
        trusted: Root | None = None,
    ) -> None:
        self._folder, self._signer, self._clock, self._lock_fd, self._random = folder, signer, clock, lock_fd, random
        self._queue: list[_Ticket] = []
        self._turn = threading.Condition()
        self._flushing = False  # one thread at a time leads: it owns the WAL and the edge
        self._publishing = threading.Lock()
        self._closed = False
        self._ending = threading.Event()
        self._wake = threading.Event()
        self._failed: SteleError | None = None
        with contextlib.ExitStack() as opened:
            self._wal = Wal(folder / ".state")
            opened.callback(self._wal.close)
            found = recovery.recover(folder, self._wal, trusted or signer.verifiers)
            self._maps = found.map
            opened.callback(found.map.close)
            self._edge, self.published, self._unpublished = found.edge, found.published, found.unpublished
            self._erasing = erasing.Erasing(found.base, found.entries)
            self._openings, self._kept = found.openings, openings.Writer(folder)  # by index, of what is not published
            self._synced_names, self._shown_names = found.synced_names, found.shown_names
            self._projection = projection.Projection(folder / "projection.sqlite", self.size)
            self._projection.catch_up(recovery.entries_from(folder, self._projection.applied, found))
            opened.pop_all()
        self._unprojected: list[tuple[int, Entry]] = []
        self._unmapped: list[tuple[int, Node | None, int, int]] = []  # maps of epoch entries that are not on disk yet
        if self.size > self.published or self._erasing.open:
            self._wake.set()
        self._thread = threading.Thread(target=self._run, name="ledger-publish", daemon=True)
        self._thread.start()

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        signer: Signs,
        clock: Callable[[], int],
        random: Callable[[int], bytes] = os.urandom,
        trusted: Root | None = None,
    ) -> Ledger:
        """Open or create, recover, and hold the lock until `close`. `random` gives so many unpredictable bytes: the salts.

        `trusted`: whose keys may have signed what is there; without one, `signer`'s.

        Raises:
            SteleError: `ledger.locked`, `ledger.damaged`, `ledger.write-failed`; `trust.*`: the checkpoint is not by `signer`.
        """
        try:
            durable.make_dirs(folder / ".state", 0o700)
            durable.make_dirs(folder / "checkpoints")
            # flock, not fcntl: a lock that any close of the file drops is no lock
            lock = os.open(folder / ".state" / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _write_failed("opened", error, "free space or mend the disk, or run as the user who owns it") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return cls(folder, signer, clock, lock, random, trusted)
        except BlockingIOError as error:
            os.close(lock)
            raise SteleError(
                "another process writes this ledger",
                remedy="let it finish, or talk to the agent that holds it",
                code="ledger.locked",
                retryable=True,
            ) from error
        except OSError as error:
            os.close(lock)
            raise _write_failed("opened", error, "free space or mend the disk, then try again") from error
        except BaseException:
            os.close(lock)
            raise

    @property
    def size(self) -> int:
        """Committed entries."""
        return self._edge.size

    def heads(self) -> dict[str, tuple[int, str]]:
        """Count and last digest of every workload's chain."""
        with self._leading():
            return {name: (chain.count, chain.head) for name, chain in self._edge.chains.all().items() if name != HOST_WORKLOAD}

    # ---- appending ---------------------------------------------------------------------------

    def append(self, events: Sequence[Event]) -> list[Committed]:
        """Commit events in order; returns when they are on disk.

        Raises:
            SteleError: `ledger.entry-too-large`, `ledger.bad-entry`, `trust.not-canonical` (nothing of this call is committed),
                `ledger.write-failed`, `ledger.damaged`, `ledger.closed`.
        """
        ticket = _Ticket(events)
        with self._turn:
            self._queue.append(ticket)
        try:
            while not ticket.done:
                self._wait_or_lead(ticket)
        except BaseException:
            with self._turn, contextlib.suppress(ValueError):
                self._queue.remove(ticket)  # interrupted before anybody took it
            raise
        self._wake.set()
        return ticket.settle()

    def _wait_or_lead(self, ticket: _Ticket) -> None:
        with self._turn:
            while self._flushing and not ticket.done:
                self._turn.wait()
            if ticket.done:
                return
            self._flushing = True
            # what arrived while the last flush ran; the caller's own may be beyond the limit: then it leads, or waits, again
            count = events = 0
            while count < len(self._queue) and (not count or events + len(self._queue[count].events) <= MAX_BATCH):
                events += len(self._queue[count].events)
                count += 1
            batch = self._queue[:count]
            del self._queue[:count]
        try:
            self._flush(batch)
        finally:
            with self._turn:
                self._flushing = False
                for each in batch:
                    each.done = True
                self._turn.notify_all()

    @contextlib.contextmanager
    def _leading(self) -> Iterator[None]:
        """Be the one who flushes, with no batch."""
        with self._turn:
            while self._flushing:
                self._turn.wait()
            self._flushing = True
        try:
            yield
        finally:
            with self._turn:
                self._flushing = False
                self._turn.notify_all()

    def _flush(self, batch: Sequence[_Ticket]) -> None:
        """Commit a batch. Whatever happens, each ticket has its result or an error."""
        try:
            self._sequence(batch)
        except BaseException as error:
            # in between writing and counting anything may be half done: what the next opening reads is what is true
            self._failed = self._failed or SteleError(
                f"the ledger stopped: {type(error).__name__}: {error}",
                remedy="start the agent again; if it happens again, report it",
                code="ledger.write-failed",
            )
            for ticket in batch:
                if len(ticket.result) < len(ticket.events):
                    ticket.error = ticket.error or self._failed
            if not isinstance(error, Exception):
                raise

    def _sequence(self, batch: Sequence[_Ticket]) -> None:
        """Number, write, fdatasync; only then count in."""
        if self._failed is not None or self._closed:
            failed = self._failed or SteleError("the ledger is closed", remedy="open it again", code="ledger.closed")
            for ticket in batch:
                ticket.error = SteleError(failed.reason, remedy=failed.remedy, code=failed.code)
            return
        heads: dict[str, tuple[int, str]] = {}
        made: list[tuple[_Ticket, bytes, Entry, str, bytes]] = []
        for ticket in batch:
            trial = dict(heads)
            try:
                mine = [(ticket, *self._place(event, trial)) for event in ticket.events]
            except Exception as error:  # noqa: BLE001  one caller's bad event must not hurt the others
                ticket.error = error
                continue
            heads = trial
            made += mine
        if not made:
            return
        try:
            held = {position: item[4] for position, item in enumerate(made) if item[4]}
            self._wal.append([item[1] for item in made], held)
        except OSError as error:
            failure = _write_failed("written", error, "free space or mend the disk, then start the agent again")
            if not isinstance(error, NoRoom):
                self._failed = failure  # what a failed fdatasync left behind is unknown: the next opening reads what is there
            for ticket in batch:
                ticket.error = ticket.error or failure
            return
        for ticket, raw, entry, digest, opening in made:
            at = self._edge.size
            self._edge.take(raw, entry, digest)
            self._unpublished.append(raw)
            if opening:
                self._openings[at] = opening
            if entry.event.kind == erasing.KIND:
                self._erasing.take(at, entry.event)
            if self._projection.usable:
                self._unprojected.append((at, entry))
            ticket.result.append(Committed(at, entry))

    def _place(self, event: Event, heads: dict[str, tuple[int, str]]) -> tuple[bytes, Entry, str, bytes]:
        known = heads.get(event.workload)
        if known is None:
            chain = self._edge.chains.get(event.workload)
            known = chain.count, chain.head
        count, head = known
        sealed, opening = self._seal(event)
        entry = Entry(event=event, seq=count, prev=head, sealed=sealed)
        plain = entry.plain()
        raw = canonical.encode(plain)
        if len(raw) > MAX_ENTRY:
            raise SteleError(
                f"an event of kind {event.kind} is {len(raw)} bytes, more than an entry holds ({MAX_ENTRY})",
                remedy="record digests of documents, not documents",
                code="ledger.entry-too-large",
            )
        from_plain(plain)  # what could not be read back must not be written
        digest = sha256(raw)
        heads[event.workload] = (count + 1, digest)
        return raw, entry, digest, opening

    def _seal(self, event: Event) -> tuple[dict[str, str], bytes]:
        if event.kind in private.PRIVATE or private.PERSON in event.data:
            private.refuse_bare(event)
            if event.kind == erasing.KIND:
                erasing.refuse_malformed(event, self._edge.size)
        if not event.private:
            return {}, b""
        return private.seal(event.private, self._random(private.SALT * len(event.private)))

    # ---- publishing --------------------------------------------------------------------------

    def publish(self) -> int:
        """Make sure a signed checkpoint covers everything committed so far; returns its size.

        Raises:
            SteleError: `ledger.write-failed`, `ledger.damaged`, `ledger.closed`: nothing is signed; what is committed is safe.
        """
        with self._publishing:
            if self.size == self.published and not self._erasing.open:
                return self.published
            if self._closed:
                raise SteleError("the ledger is closed", remedy="open it again", code="ledger.closed")
            if self.size == self.published:
                self._recycle(self.published, self._shown_names[-1])
                return self.published
            with self._leading():
                # the last leaf of every checkpoint commits to the latest entry of every workload; a publishing that failed
                # half-way may have left it already
                if not self._edge.ends_in_epoch:
                    ticket = _Ticket([epoch_event(self.size, self._edge.chains, self._edge.trail, self._clock())])
                    chains = self._edge.chains
                    made = chains.root, chains.workloads
                    self._flush([ticket])
                    self._unmapped += [(committed.at, *made, committed.entry.event.time_ns) for committed in ticket.settle()]
                if self._failed is not None:
                    raise self._failed
                size, root, partial = self.size, self._edge.root(), self._edge.partial()
                seconds = self._edge.trail.latest_ns // SECOND_NS  # the epoch's time
                full, covered = len(self._edge.pending), len(self._unpublished)
                opening = sorted(self._openings.items())
                written = self._edge.pending[:full] + partial
            try:
                self._kept.put(opening)
                for name, data in written:
                    tiles.write_tile(self._folder, name, data)
                while self._unmapped:
                    self._maps.commit(*self._unmapped[0])
                    del self._unmapped[0]
                signed = self._signer.sign(note.Checkpoint(self._signer.name, size, root).body(), seconds)
                durable.write(self._folder / "checkpoints" / str(size), signed)
                durable.write(self._folder / "checkpoint", signed)
            except OSError as error:
                raise _write_failed("published", error, "free space or mend the disk; what is committed is safe") from error
            except SteleError as error:
                self._failed = error  # somebody else wrote into it: stop, never heal by signing
                raise
            with self._leading():
                del self._edge.pending[:full], self._unpublished[:covered]
                for at, _ in opening:
                    del self._openings[at]
            self.published = size
            self._after(size, frozenset(name for name, _ in partial))
            return size

    def _after(self, size: int, names: frozenset[str]) -> None:
        """What may fail: old partial tiles, the projection, and recycling the WAL once the tiles are really on disk."""
        # those of the checkpoint before stay for whoever is reading it, those that were synced for recovery
        old, self._shown_names = self._shown_names[:-1], [*self._shown_names[-1:], names]
        self._drop(frozenset[str]().union(*old))
        with self._leading():
            fresh, self._unprojected = self._unprojected, []
        self._projection.catch_up(fresh)
        if self._wal.used > RECYCLE_BYTES or self._erasing.open:
            self._recycle(size, names)

    def _recycle(self, size: int, names: frozenset[str]) -> None:
        """Begin the WAL anew at the checkpoint of this size, and erase what redactions below it ask for. What fails is tried again."""
        with self._leading():
            if self._failed is not None:
                return
            due = self._erasing.due(size)
        try:
            openings.erase(self._folder, due)
            durable.sync_filesystem(self._folder)
            with self._leading():
                try:
                    later = {at - size: data for at, data in self._openings.items()}
                    self._wal.recycle(size, self._unpublished, later, scrub=bool(due))
                    self._erasing.done(size)
                except NoRoom:
                    raise
                except OSError as error:
                    self._failed = _write_failed("written", error, "mend the disk, then start the agent again")
                    raise
        except OSError as error:
            log.warning("the ledger's write-ahead log could not be recycled yet: %s", error)
            return
        old_names, self._synced_names = self._synced_names, names
        self._drop(old_names)

    def _drop(self, names: frozenset[str]) -> None:
        for name in names - self._synced_names - frozenset().union(*self._shown_names):
            tiles.remove_tile(self._folder, name)

    def _run(self) -> None:
        """Publish whenever something was committed, at most ten times a second."""
        while not self._ending.is_set():
            self._wake.wait()
            self._wake.clear()
            if self._ending.wait(PUBLISH_EVERY_S):
                return
            try:
                self.publish()
            except SteleError as error:
                log.error("%s", error.reason)  # noqa: TRY400  the reason says it all
            except Exception:
                log.exception("the ledger could not be published")

    def close(self) -> None:
        """Publish, stop the thread, release the lock. Closing again does nothing; appending after it is refused."""
        try:
            if not self._closed:
                with contextlib.suppress(SteleError):
                    self.publish()
        finally:
            with self._publishing, self._leading():
                was, self._closed = self._closed, True
            if not was:
                self._ending.set()
                self._wake.set()
                self._thread.join()
                self._projection.close()
                self._wal.close()
                self._maps.close()
                os.close(self._lock_fd)
