"""The sequencer: the one writer of a ledger. Batches, commits, publishes (docs/spec/ledger.md)."""

from __future__ import annotations

import contextlib
import itertools
import threading
from typing import TYPE_CHECKING, Any

from stele.host import durable, logs
from stele.ledger import erasing, notes, opening, openings, projection, read_only, recovery, tiles
from stele.ledger.edge import Placed
from stele.ledger.group import Group, Ticket
from stele.ledger.lock import Lock
from stele.ledger.notary import HeldBack, Notary, Signs
from stele.ledger.numbering import Committed, Heads, place
from stele.ledger.opening import Terms as Terms  # noqa: PLC0414  of what is here
from stele.ledger.opening import closed, stopped, write_failed
from stele.ledger.pace import Pace, Room
from stele.ledger.partials import Partials
from stele.ledger.read_only import ReadOnlyLedger
from stele.ledger.wal import NoRoom, Wal
from stele.model.epoch import epoch_event, refuse_epochs
from stele.model.event import HOST_WORKLOAD, Event, decode_entry
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from stele.model.epochmap import Node
    from stele.model.event import Entry

RECYCLE_BYTES = 1 << 20  # opening reads so much: a second is too long
MOST_NOTES = 16  # checkpoints in the write-ahead log, at closing: opening after many short commands would read one of each
PUBLISH_EVERY_S = 0.1
LONGEST_PAUSE_S = 1.0  # between two publishings under load
AHEAD_TILES = 32  # full ones, that is 4,096 entries: so many do not wait for the end of such a pause
MOST_ENTRIES = 16384  # to be published: so many do not wait for the end of such a pause, and opening replays few more
MOST_REPLAYED = 32768  # entries in the write-ahead log, while it is published and begins anew: more wait for that
PROJECTED_AT_ONCE = 2048  # entries: what the projection lacks beyond that is applied after opening
MOST_DRAFTED = 1024  # workloads: where more change at a time, all of them will have changed again
SECOND_NS = 1_000_000_000
LONE = 512  # entries to be published: of fewer, each call counts


class Ledger:
    """An opened ledger. `append`, `publish` and `close` may be called from any thread."""

    def __init__(self, folder: Path, lock: Lock, terms: Terms) -> None:
        self._folder, self._lock, self._clock, self._random = folder, lock, terms.clock, terms.random
        trusted = terms.trusted or terms.signer.verifiers
        self._room = Room()
        self._notary = Notary(folder, terms.signer, terms.cosign and self._room.wide()(terms.cosign), trusted)
        self.at_close: list[Callable[[], None]] = []
        self.witnesses: Callable[[], list[dict[str, Any]]] = list  # how it stands with each, for people
        self._group = Group(self._flush)  # who leads owns the WAL and the edge
        self._publishing = threading.Lock()
        self._closed = False
        self._pace = Pace(self._publish_and_project, self._pause, self._meanwhile)
        self._tried = 0  # how many entries there were when publishing was tried last
        self._failed: SteleError | None = None
        with contextlib.ExitStack() as opened:
            self._disk = opened.enter_context(durable.Filesystem(folder))  # before anything is written that it is to sync
            self._wal = Wal(folder / ".state")
            opened.callback(self._wal.close)
            found = recovery.recover(folder, self._wal, trusted)
            self._maps, self._archive = found.map, found.archive
            opened.callback(found.map.close)
            self._edge, self.published, self._unpublished = found.edge, found.published, found.unpublished
            self._erasing = erasing.Erasing(found.base, found.entries)
            self._openings, self._kept = found.openings, openings.Writer(folder)  # by index, of what is not published
            self._partials = Partials(folder, found.synced_names, found.shown_names)
            self._projection = projection.Projection(folder / "projection.sqlite", self.size)
            self._behind: Iterator[bytes] | None = recovery.raws_from(folder, self._projection.applied, found)
            if self.size - self._projection.applied <= PROJECTED_AT_ONCE:
                self._projection.catch_up(self._behind)
                self._behind = None
            opened.pop_all()
        self._unprojected: list[bytes] = []
        self._unmapped: list[tuple[int, Node | None, int, int]] = []  # maps of epoch entries that are not on disk yet
        if self.size > self.published or self._erasing.open or self._behind is not None:
            self._pace.wake()
        self._pace.start()

    @classmethod
    def open(cls, folder: Path, *, signer: Signs, clock: Callable[[], int], **terms: Any) -> Ledger:
        """Open or create, recover, and hold the lock until `close`. `terms`: the others of `Terms`.

        Raises:
            SteleError: `ledger.locked`, `ledger.damaged`, `ledger.write-failed`; `trust.*`: the checkpoint is not by `signer`.
        """
        opened = cls.open_or_hold(folder, Terms(signer, clock, **terms))
        if isinstance(opened, ReadOnlyLedger):
            opened.close()
            raise opened.read_only
        return opened

    @classmethod
    def open_or_hold(cls, folder: Path, terms: Terms) -> Ledger | ReadOnlyLedger:
        """Like `open`, but a ledger that does not fit is held read-only, so that nobody else writes it either.

        Raises:
            SteleError: `ledger.locked`, `ledger.write-failed`.
        """
        return opening.open_or_hold(folder, terms, cls)

    @property
    def read_only(self) -> SteleError | None:
        """Why nothing can be added any more, if that is so and no new start would change it."""
        return self._failed if self._failed is not None and read_only.is_reason(self._failed) else None

    def _fail(self, error: SteleError) -> None:
        """Accept nothing any more; the first reason stays."""
        if self._failed is None:
            self._failed = error
            if read_only.is_reason(error) and self._lock.is_ours():
                read_only.mark(self._folder, error, self._clock())

    @property
    def size(self) -> int:
        """Committed entries."""
        return self._edge.size

    @property
    def erasing(self) -> bool:
        """Whether what a redaction in it says is not erased everywhere yet."""
        return bool(self._erasing.open)

    def heads(self) -> dict[str, tuple[int, str]]:
        """Count and last digest of every workload's chain."""
        with self._group.leading():
            return {name: (chain.count, chain.head) for name, chain in self._edge.chains.all().items() if name != HOST_WORKLOAD}

    # ---- appending ---------------------------------------------------------------------------

    def append(self, events: Sequence[Event]) -> list[Committed]:
        """Commit events in order; returns when they are on disk.

        Raises:
            SteleError: `ledger.entry-too-large`, `ledger.bad-entry`, `trust.not-canonical` (nothing of this call is committed),
                `ledger.write-failed`, `ledger.damaged`, `ledger.closed`.
        """
        refuse_epochs(events)
        if self.size - self._wal.base > MOST_REPLAYED:
            self._room.wait()
        ticket = self._group.submit(tuple(events))
        self._pace.wake()
        return ticket.settle()

    def _flush(self, batch: Sequence[Ticket], *, sync: bool = True) -> None:
        """Commit a batch; without `sync`, it is committed only by `_sync`. Whatever happens, each ticket has its result or an error."""
        try:
            self._sequence(batch, sync)
        except BaseException as error:
            # in between writing and counting anything may be half done: what the next opening reads is what is true
            self._fail(error if isinstance(error, SteleError) and read_only.is_reason(error) else stopped(error))
            for ticket in batch:
                if len(ticket.result) < len(ticket.items or ()):
                    ticket.error = ticket.error or self._failed
            if not isinstance(error, Exception):
                raise

    def _sequence(self, batch: Sequence[Ticket], sync: bool) -> None:
        """Number, write, fdatasync; only then count in."""
        if self._failed is not None or self._closed:
            failed = self._failed or closed()
            for ticket in batch:
                ticket.error = SteleError(failed.reason, remedy=failed.remedy, code=failed.code)
            return
        heads: Heads = {}
        made: list[tuple[Ticket, list[Placed]]] = []
        for ticket in batch:
            try:
                made.append((ticket, place(ticket.items or (), self._edge, heads, self._random)))
            except Exception as error:  # noqa: BLE001  one caller's bad event must not hurt the others
                ticket.error = error
        placed = [each for _, several in made for each in several]
        if not placed:
            return
        raws = [each.raw for each in placed]
        self._lock.check()
        try:
            held = {position: each.opening for position, each in enumerate(placed) if each.opening}
            (self._wal.append if sync else self._wal.write)(raws, held)
        except OSError as error:
            failure = write_failed("written", error)
            if not isinstance(error, NoRoom):
                self._fail(failure)  # what a failed fdatasync left behind is unknown: the next opening reads what is there
            for ticket in batch:
                ticket.error = ticket.error or failure
            return
        self._lock.check()  # whoever took the lock since reads what was written before: nothing is acknowledged that they may lack
        at = self._edge.size
        self._edge.take_own(placed)
        self._unpublished += raws
        if self._projection.usable:
            self._unprojected += raws
        for position, slots in held.items():
            self._openings[at + position] = slots
        for index, each in enumerate(placed, at):
            if each.entry.event.kind == erasing.KIND:
                self._erasing.take(index, each.entry.event)
        for ticket, several in made:
            ticket.result = [Committed(index, each.entry) for index, each in enumerate(several, at)]
            at += len(several)

    def _sync(self) -> None:
        """Commit what was flushed without: nobody has seen it yet, and nothing is signed before.

        Raises:
            SteleError: `ledger.write-failed`.
        """
        with self._writing():
            self._wal.sync()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """What fails in it leaves the write-ahead log unknown: accept nothing any more."""
        if self._failed is not None:
            raise self._failed
        try:
            yield
        except NoRoom:
            raise
        except OSError as error:
            failure = write_failed("written", error)
            self._fail(failure)
            raise failure from error

    def _keep(self, signed: bytes) -> bool:
        """Commit a checkpoint's note, so that its files need not wait for the disk; False if it is too long for that."""
        with self._group.leading(), self._writing():
            is_kept = self._wal.note(signed)
        if is_kept:
            self._sync()
        return is_kept

    # ---- publishing --------------------------------------------------------------------------

    def publish(self) -> int:
        """Make sure a signed checkpoint covers everything committed so far; returns its size.

        Raises:
            SteleError: `ledger.write-failed`, `ledger.damaged`, `ledger.closed`: nothing is signed; what is committed is safe.
        """
        with self._publishing, self._room.narrow():
            if self.size == self.published and not self._erasing.open:
                return self.published
            if self._closed:
                raise closed()
            if self.size == self.published:
                self._recycle(self.published, self._partials.shown)
                return self.published
            self._tried = self.size
            self._draft()
            with self._group.leading():
                # the last leaf of every checkpoint commits to the latest entry of every workload; a publishing that failed
                # half-way may have left it already
                if not self._edge.ends_in_epoch:
                    ticket = Ticket([epoch_event(self.size, self._edge.chains, self._edge.trail, self._clock())])
                    chains = self._edge.chains
                    made = chains.root, chains.workloads
                    self._flush([ticket], sync=False)
                    self._unmapped += [(committed.at, *made, committed.entry.event.time_ns) for committed in ticket.settle()]
                if self._failed is not None:
                    raise self._failed
                ends = self._edge.ends()
                seconds = self._edge.trail.latest_ns // SECOND_NS  # the epoch's time
                full, covered = len(self._edge.pending), len(self._unpublished)
                kept = sorted(self._openings.items())
                written = self._edge.pending[:full]
            self._sync()
            size, root, partial = ends.size, ends.root(), ends.partial()
            try:
                self._kept.put(kept)
                for name, data in written + partial:
                    self._yield()
                    tiles.write_tile(self._folder, name, data)
                while self._unmapped:
                    self._yield()
                    self._maps.commit(*self._unmapped[0])
                    del self._unmapped[0]
                self._lock.check()
                signed = self._notary.note(size, root, seconds)
                notes.show(self._folder, self._archive, size, signed, sync=not self._keep(signed))
            except OSError as error:
                raise write_failed("published", error, "free space or mend the disk; what is committed is safe") from error
            except HeldBack as held:
                if held.why.code == "ledger.damaged":  # a witness proved that it is
                    self._fail(held.why)
                raise held.why from None
            except SteleError as error:
                if read_only.is_reason(error):
                    self._fail(error)  # somebody else wrote into it: stop, never heal by signing
                raise
            with self._group.leading():
                del self._edge.pending[:full], self._unpublished[:covered]
                for at, _ in kept:
                    del self._openings[at]
            self.published = size
            self._after(size, frozenset(name for name, _ in partial))
            return size

    def _yield(self) -> None:
        """Let lone calls go first. Under load that would only make publishing late, and what it costs is shared by many."""
        if self.size - self.published < LONE:
            self._group.give_way()

    def _draft(self) -> None:
        """Make most of the next map while others append: what is left of it to make is what they change meanwhile."""
        with self._group.leading():
            chains = self._edge.chains
            if self._edge.ends_in_epoch or chains.changed > MOST_DRAFTED:
                return
            draft = chains.draft()
        draft.work_out(self._yield)
        with self._group.leading():
            chains.adopt(draft)

    def add_cosignatures(self, size: int, lines: bytes) -> None:
        """Add cosignatures that came after publishing to the checkpoint of that size. The caller has verified them.

        Raises:
            SteleError: `ledger.write-failed`, `ledger.lock-lost`: they may have been added.
        """
        with self._publishing:
            if self._closed:
                return
            try:
                self._lock.check()
                self._notary.add(self._archive, size, lines)
            except OSError as error:
                raise write_failed("amended", error, "free space or mend the disk; the checkpoint itself is whole") from error

    def uncovered(self) -> list[Entry]:
        """What is committed and not published, in order."""
        with self._group.leading():
            return [decode_entry(raw) for raw in self._unpublished]

    def _after(self, size: int, names: frozenset[str]) -> None:
        """What may fail: old partial tiles, the projection, and recycling the WAL once the tiles are really on disk."""
        self._partials.show(names)
        if self._wal.used > RECYCLE_BYTES or self._wal.is_half_full or self._erasing.open:
            self._recycle(size, names)
        self._project()

    def _project(self) -> None:
        """Apply what the projection lacks; of what it lacked at opening, a part."""
        if self._behind is not None:
            before = self._projection.applied
            try:
                self._projection.catch_up(itertools.islice(self._behind, projection.CHUNK))
            except SteleError as error:  # the log itself cannot be read
                self._fail(error)
                raise
            if self._projection.applied - before == projection.CHUNK:
                return
            self._behind = None
        with self._group.leading():
            fresh, self._unprojected = self._unprojected, []
        self._projection.catch_up(fresh)

    def _work_ahead(self) -> None:
        """Write the full tiles of what is committed, and project it: all of publishing that needs no epoch."""
        with self._publishing, contextlib.suppress(OSError, SteleError):  # `publish` meets it again, and says so
            if self._closed or self._failed is not None:
                return
            with self._group.leading():
                full = self._edge.pending[:]
            for name, data in full:
                tiles.write_tile(self._folder, name, data)
            with self._group.leading():
                del self._edge.pending[: len(full)]
            self._project()

    def _recycle(self, size: int, names: frozenset[str]) -> None:
        """Begin the WAL anew at a checkpoint, and erase what is due. What fails is tried again, but syncfs: what it lost is unknown."""
        with self._group.leading():
            if self._failed is not None or self._disk.failed:
                return
            due = self._erasing.due(size)
        try:
            openings.erase(self._folder, due)
            self._disk.sync()
            with self._group.leading():
                try:
                    self._lock.check()
                    later = {at - size: data for at, data in self._openings.items()}
                    self._wal.recycle(size, self._unpublished, later, scrub=bool(due))
                    self._erasing.done(size)
                except (OSError, SteleError) as error:
                    if not isinstance(error, NoRoom):
                        self._fail(error if isinstance(error, SteleError) else write_failed("written", error))
                    raise
        except OSError as error:
            kept = "the ledger's write-ahead log is kept, and grows, %s: %s"
            logs.of(__name__).warning(kept, "until the agent starts again" if self._disk.failed else "for now", error)
            return
        self._partials.sync(names)

    def _pause(self, took: float) -> float:
        """Publishing happens at most ten times a second, and not more than a quarter of the time."""
        return max(PUBLISH_EVERY_S, min(3 * took, LONGEST_PAUSE_S))

    def _meanwhile(self) -> bool:
        if len(self._edge.pending) >= AHEAD_TILES:
            self._work_ahead()
        return self.size - self._tried >= MOST_ENTRIES

    def _publish_and_project(self) -> None:
        self.publish()
        self.project()

    def project(self) -> None:
        """Have the projection know all that was committed before this opening; what came since follows with what is published.

        Raises:
            SteleError: `ledger.damaged`: the entries cannot be read.
        """
        while self._behind is not None and not self._closed:
            with self._publishing:
                self._project()

    def _shorten(self) -> None:
        """Leave little to the next opening, which reads and writes again all that the write-ahead log holds."""
        with self._publishing:
            if not self._closed and self._wal.held_notes > MOST_NOTES:
                self._recycle(self.published, self._partials.shown)

    def close(self) -> None:
        """Publish, stop the thread, release the lock. Closing again does nothing; appending after it is refused."""
        try:
            if not self._closed:
                with contextlib.suppress(SteleError):
                    self.publish()
                    self._shorten()
        finally:
            with self._publishing, self._group.leading():
                was, self._closed = self._closed, True
            if not was:
                for work in self.at_close:
                    work()
                self._pace.end()
                self._archive.keep()
                self._projection.close()
                self._wal.close()
                self._maps.close()
                self._disk.close()
                self._lock.release()
