"""The sequencer: the one writer of a ledger. Batches, commits, publishes, recovers (docs/spec/ledger.md)."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
from typing import TYPE_CHECKING, NamedTuple

from stele.host import durable
from stele.ledger import tiles
from stele.ledger.epoch import epoch_event
from stele.ledger.projection import Projection
from stele.ledger.reader import LedgerReader
from stele.ledger.wal import Wal
from stele.model.event import HOST_WORKLOAD, Entry, Event, decode_entry
from stele.trust import merkle, note
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)
MAX_ENTRY = 65535
MAX_BATCH = 4096
RECYCLE_BYTES = 4 << 20


class Committed(NamedTuple):
    """Where an event stands in the log (`at`, from 0). It is in the WAL and fdatasync has returned."""

    at: int
    entry: Entry


class _Ticket:
    __slots__ = ("done", "error", "events", "result")

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.result: list[Committed] = []
        self.error: BaseException | None = None
        self.done = False


class Ledger:
    """An opened ledger. `append` and `publish` may be called from any thread."""

    def __init__(self, folder: Path, signer: note.Signer, clock: Callable[[], int], lock_fd: int) -> None:
        self._folder, self._signer, self._clock, self._lock_fd = folder, signer, clock, lock_fd
        self._queue: list[_Ticket] = []
        self._turn = threading.Condition()
        self._flushing = False
        self._publishing = threading.Lock()
        self._closed = threading.Event()
        self._wake = threading.Event()
        self._failed: SteleError | None = None
        self._entries_tail: list[bytes] = []  # entries since the last bundle boundary
        self._levels: list[list[bytes]] = [[]]  # per tile level the hashes of its partial tile
        self._pending: list[tuple[str, bytes]] = []  # full tiles and bundles not yet written
        self._heads: dict[str, tuple[int, str]] = {}
        self.size = 0
        self.published = 0
        self._wal = Wal(folder / ".state" / "wal")
        self._projection = Projection(folder / "projection.sqlite")
        self._unprojected: list[tuple[int, Entry]] = []
        self._recover()
        self._thread = threading.Thread(target=self._run, name="ledger-publish", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, folder: Path, *, signer: note.Signer, clock: Callable[[], int]) -> Ledger:
        """Open or create, recover, and hold the lock until `close`.

        Raises:
            SteleError: `ledger.locked`, `ledger.damaged`.
        """
        durable.make_dirs(folder / ".state", 0o700)
        durable.make_dirs(folder / "checkpoints")
        # flock, not fcntl: a lock that any close of the file drops is no lock
        lock = os.open(folder / ".state" / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise SteleError(
                "another process writes this ledger",
                remedy="let it finish, or talk to the agent that holds it",
                code="ledger.locked",
                retryable=True,
            ) from error
        try:
            return cls(folder, signer, clock, lock)
        except BaseException:
            os.close(lock)
            raise

    # ---- recovery ---------------------------------------------------------------------------

    def _recover(self) -> None:
        """Take what is published from the tiles and the rest from the WAL; the root at the checkpoint must come out."""
        checkpoint = self._folder / "checkpoint"
        covered = 0
        if checkpoint.exists():
            reader = LedgerReader(self._folder)
            head = note.open_checkpoint(checkpoint.read_bytes(), [self._signer.verifier])
            covered = head.size
        if self._wal.base > covered:
            raise tiles.damaged("the write-ahead log begins after the last checkpoint")
        if covered:
            for index, raw in enumerate(reader.raw_entries(0, covered)):
                if (
                    index >= self._wal.base
                    and index - self._wal.base < len(self._wal.recovered)
                    and self._wal.recovered[index - self._wal.base] != raw
                ):
                    raise tiles.damaged(f"entry {index} differs between the log and the write-ahead log")
                self._take(raw)
            self._pending.clear()
            if self._root() != head.root:
                raise tiles.damaged(f"the entries do not lead to the root of the checkpoint of size {covered}")
        for raw in self._wal.recovered[covered - self._wal.base :]:
            self._take(raw)
        self._wal.recovered = []
        self.published = covered
        self._projection.catch_up(self._unprojected)
        self._unprojected = []

    def _take(self, raw: bytes) -> Entry:
        """Count one committed entry in: heads, hashes, bundle tail."""
        entry = decode_entry(raw)
        count, head = self._heads.get(entry.event.workload, (0, ""))
        if entry.seq != count or entry.prev != head:
            raise tiles.damaged(f"entry {self.size} does not continue the chain of {entry.event.workload or 'the host'}")
        self._heads[entry.event.workload] = (count + 1, entry.digest())
        if self.size >= self._projection.applied:
            self._unprojected.append((self.size, entry))
        self._entries_tail.append(raw)
        self._push(0, merkle.leaf_hash(raw))
        self.size += 1
        if self.size % tiles.WIDTH == 0:
            self._pending.append((tiles.bundle_path(self.size // tiles.WIDTH - 1, tiles.WIDTH), tiles.pack_bundle(self._entries_tail)))
            self._entries_tail = []
        return entry

    def _push(self, level: int, digest: bytes) -> None:
        if level == len(self._levels):
            self._levels.append([])
        tile = self._levels[level]
        tile.append(digest)
        if len(tile) == tiles.WIDTH:
            number = self.size >> (8 * (level + 1))
            self._pending.append((tiles.tile_path(level, number, tiles.WIDTH), b"".join(tile)))
            self._push(level + 1, merkle.root(tile))
            self._levels[level] = []

    def _root(self) -> bytes:
        """Root of all committed entries, from the right edge."""
        carry: bytes | None = None
        for tile in self._levels:
            hashes = [*tile, carry] if carry is not None else list(tile)
            # full tiles below contribute as one hash in the next level; the partial ones fold from the right
            carry = merkle.root(hashes) if hashes else None
        return carry if carry is not None else merkle.EMPTY_ROOT

    # ---- appending ---------------------------------------------------------------------------

    def append(self, events: Sequence[Event]) -> list[Committed]:
        """Commit events in order; returns when they are on disk.

        Raises:
            SteleError: `ledger.entry-too-large` (nothing of this call is committed), `ledger.write-failed`, `ledger.closed`.
        """
        ticket = _Ticket(events)
        with self._turn:
            self._queue.append(ticket)
            while not ticket.done and self._flushing:
                self._turn.wait()
            if ticket.done:
                return self._settle(ticket)
            self._flushing = True
            batch, self._queue = self._queue[:MAX_BATCH], self._queue[MAX_BATCH:]
        try:
            self._flush(batch)
        finally:
            with self._turn:
                self._flushing = False
                for each in batch:
                    each.done = True
                self._turn.notify_all()
        self._wake.set()
        return self._settle(ticket)

    @staticmethod
    def _settle(ticket: _Ticket) -> list[Committed]:
        if ticket.error is not None:
            raise ticket.error
        return ticket.result

    def _flush(self, batch: Sequence[_Ticket]) -> None:
        """Sequence, write, fdatasync; only then count in. Runs in one thread at a time."""
        if self._failed is not None or self._closed.is_set():
            for ticket in batch:
                ticket.error = self._failed or SteleError("the ledger is closed", remedy="open it again", code="ledger.closed")
            return
        heads = dict[str, tuple[int, str]]()
        raws: list[bytes] = []
        owners: list[tuple[_Ticket, Entry]] = []
        for ticket in batch:
            trial = dict(heads)
            made: list[tuple[bytes, Entry]] = []
            try:
                for event in ticket.events:
                    count, head = trial.get(event.workload) or self._heads.get(event.workload, (0, ""))
                    entry = Entry(event=event, seq=count, prev=head)
                    raw = entry.encode()
                    if len(raw) > MAX_ENTRY:
                        raise SteleError(
                            f"an event of kind {event.kind} is {len(raw)} bytes, more than an entry holds ({MAX_ENTRY})",
                            remedy="record digests of documents, not documents", code="ledger.entry-too-large",
                        )  # fmt: skip
                    decode_entry(raw)  # what could not be read back must not be written
                    trial[event.workload] = (count + 1, entry.digest())
                    made.append((raw, entry))
            except SteleError as error:
                ticket.error = error
                continue
            heads = trial
            raws += [raw for raw, _ in made]
            owners += [(ticket, entry) for _, entry in made]
        if not raws:
            return
        try:
            self._wal.append(self.size, raws)
        except OSError as error:
            # what fdatasync left behind after an error is unknown: stop here, the next opening reads what is really there
            self._failed = SteleError(
                f"the ledger could not be written: {error}",
                remedy="free space or mend the disk, then start the agent again",
                code="ledger.write-failed",
            )
            for ticket in batch:
                ticket.error = ticket.error or self._failed
            return
        for (ticket, entry), raw in zip(owners, raws, strict=True):
            ticket.result.append(Committed(self.size, entry))
            self._take(raw)

    # ---- publishing --------------------------------------------------------------------------

    def publish(self) -> int:
        """Make sure a signed checkpoint covers everything committed so far; returns its size.

        Raises:
            SteleError: `ledger.write-failed`, `ledger.damaged`: the ledger stays readable, nothing is signed.
        """
        with self._publishing:
            if self.size == self.published:
                return self.published
            # the last leaf of every checkpoint commits to the latest entry of every workload
            with self._turn:
                while self._flushing:
                    self._turn.wait()
                self._flushing = True
                covers, heads = self.size, dict(self._heads)
            ticket = _Ticket([epoch_event(covers, heads, self._clock())])
            try:
                self._flush([ticket])
                size, root, written = self.size, self._root(), self._drain_tiles()
            finally:
                with self._turn:
                    self._flushing = False
                    self._turn.notify_all()
            self._settle(ticket)
            try:
                for name, data in written:
                    tiles.write_tile(self._folder, name, data)
                signed = self._signer.sign(note.Checkpoint(self._signer.verifier.name, size, root).body())
                durable.write(self._folder / "checkpoints" / str(size), signed)
                durable.write(self._folder / "checkpoint", signed)
            except OSError as error:
                raise SteleError(
                    f"the ledger could not be published: {error}",
                    remedy="free space or mend the disk; what is committed is safe",
                    code="ledger.write-failed",
                ) from error
            self.published = size
            self._after(size)
            return size

    def _drain_tiles(self) -> list[tuple[str, bytes]]:
        """Full tiles since the last call, and the partial ones of the present size."""
        written, self._pending = self._pending, []
        if self._entries_tail:
            written.append((tiles.bundle_path(self.size // tiles.WIDTH, len(self._entries_tail)), tiles.pack_bundle(self._entries_tail)))
        for level, tile in enumerate(self._levels):
            if tile:
                written.append((tiles.tile_path(level, self.size >> (8 * (level + 1)), len(tile)), b"".join(tile)))
        return written

    def _after(self, size: int) -> None:
        """What may wait: the projection, and recycling the WAL once the tiles are really on disk."""
        with self._turn:
            fresh, self._unprojected = self._unprojected, []
        self._projection.catch_up(fresh)
        if self._wal.used > RECYCLE_BYTES:
            with self._turn:
                while self._flushing:
                    self._turn.wait()
                self._flushing = True
            try:
                if self.size == size:
                    os.sync()
                    self._wal.recycle(size)
            finally:
                with self._turn:
                    self._flushing = False
                    self._turn.notify_all()

    def _run(self) -> None:
        """Publish whenever something was committed, at most ten times a second."""
        while not self._closed.is_set():
            self._wake.wait()
            self._wake.clear()
            if self._closed.wait(0.1):
                return
            try:
                self.publish()
            except SteleError as error:
                log.error("%s", error.reason)  # noqa: TRY400  the reason says it all

    def close(self) -> None:
        """Publish, stop the thread, release the lock."""
        try:
            with contextlib.suppress(SteleError):
                self.publish()
        finally:
            self._closed.set()
            self._wake.set()
            self._thread.join()
            self._projection.close()
            self._wal.close()
            os.close(self._lock_fd)

    def heads(self) -> dict[str, tuple[int, str]]:
        """Count and last digest of every workload's chain."""
        return {name: head for name, head in self._heads.items() if name != HOST_WORKLOAD}
