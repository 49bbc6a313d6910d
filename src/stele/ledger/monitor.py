"""Following a ledger from outside: is it the one that it was, is every new entry right, is it alive (docs/spec/monitor.md).

A look costs what is new. What was verified is on disk before it is reported, so that a restart goes on where it was; a monitor that
finds two histories keeps both signed notes and stays with the first.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import msgspec

from stele.host import durable, locks
from stele.ledger import recovery, tiles, unsigned
from stele.ledger import source as sources
from stele.ledger.edge import Edge
from stele.ledger.mapfile import MapFile
from stele.ledger.published import Published
from stele.model import expectations as expecting
from stele.model.event import HOST_WORKLOAD, decode_entry
from stele.model.signing import root_document
from stele.trust import canonical, note
from stele.trust import root as roots
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from stele.ledger.source import Source
    from stele.model.expectations import Expectations
    from stele.trust.trust_keys import Trust

log = logging.getLogger(__name__)
SECOND_NS = 1_000_000_000
MAX_UNEXPECTED = 100  # alarms of one look; the rest is counted
BEHIND = b'"kind":"witness.behind"'
FATAL = frozenset({"split-view", "rolled-back", "bad-entry", "bad-checkpoint"})


class Alarm(NamedTuple):
    """Something that should not be. `kind`: docs/spec/monitor.md. `evidence`: files that were kept."""

    kind: str
    reason: str
    evidence: tuple[str, ...] = ()


class Look(NamedTuple):
    """What one look found. `size`: entries that are verified; `fresh`: of these, new ones; `witnessed`: the size that a quorum saw."""

    origin: str
    size: int
    fresh: int
    witnessed: int
    entry_time_ns: int
    alarms: tuple[Alarm, ...]

    @property
    def is_fatal(self) -> bool:
        """Whether nothing more can be followed."""
        return any(alarm.kind in FATAL for alarm in self.alarms)


class _Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Times by the monitor's clock, UTC ns: of the last growth, and of the last growth that a quorum had witnessed, with its size.

    `untold`: alarms about entries that are verified, as kind, reason and evidence, until `Monitor.told`.
    """

    grew_ns: int
    witnessed_ns: int
    witnessed: int
    entry_time_ns: int
    untold: tuple[tuple[str, str, tuple[str, ...]], ...] = ()


class Monitor:
    """One ledger's follower. Not thread-safe; one process at a time for each folder."""

    def __init__(
        self, folder: Path, source: Source, trust: Trust, *, clock: Callable[[], int], expected: Expectations | None, stale_ns: int
    ) -> None:
        """Open the folder, or make it.

        Args:
            folder: the monitor's own.
            source: the ledger.
            trust: whose signatures count.
            clock: UTC nanoseconds since 1970.
            expected: which entries are; None for any.
            stale_ns: without growth for so long, it is stale; 0 for never.

        Raises:
            SteleError: `monitor.locked`, `trust.*`: what it kept was altered.
        """
        self._folder, self._source, self._trust, self._clock = folder, source, trust, clock
        self._expected, self._stale_ns = expected, stale_ns
        durable.make_dirs(folder / "evidence")
        lock = locks.hold(folder / "lock")
        if lock is None:
            raise SteleError(
                "another process follows with this folder", remedy="give each monitor a folder of its own (--state)", code="monitor.locked"
            )
        self._lock = lock
        try:
            self._documents = [path.read_bytes() for path in sorted((folder / "documents").glob("[0-9]*"))]
            self._last, self._seen = self._kept()
            self._maps = MapFile(folder, write=True)
        except BaseException:
            os.close(self._lock)
            raise
        self._edge: Edge | None = None
        self._boundary: list[tuple[str, bytes]] = []  # the last full bundle: the edge's last entry, where it ends a bundle

    def close(self) -> None:
        """Let go of the folder."""
        self._maps.close()
        os.close(self._lock)

    def _kept(self) -> tuple[bytes, _Seen]:
        try:
            raw = (self._folder / "checkpoint").read_bytes()
            seen = msgspec.json.decode((self._folder / "seen.json").read_bytes(), type=_Seen)
        except FileNotFoundError:
            return b"", _Seen(0, 0, 0, 0)
        except msgspec.DecodeError:
            return raw, _Seen(0, 0, 0, 0)
        self._open(raw, self._documents, newest=False)  # the theft may be known since
        return raw, seen

    def _open(self, raw: bytes, documents: Sequence[bytes], *, newest: bool = True) -> note.Opened:
        """A note that trusted keys, or those of a trusted root that the documents lead to, signed. Raises `trust.*`."""
        root = self._trust.root(note.unverified(raw).origin, documents)
        opens = roots.open_newest if newest else roots.open_past
        return opens(raw, root or self._trust.ledgers, self._trust.witnesses)

    def _new_documents(self, raw: bytes) -> list[bytes]:
        """Root documents in the new entries, where a root is trusted: they say whose signature counts, and vouch for themselves."""
        if not self._trust.roots:
            return []
        head, last = note.unverified(raw), self._head()
        found: list[bytes] = []

        def vouched() -> bool:
            with contextlib.suppress(SteleError):
                self._open(raw, [*self._documents, *found])
                return True
            return False

        for _, entry in unsigned.entries(Published(self._source, head), min(last.size if last else 0, head.size), vouched):
            with contextlib.suppress(SteleError):  # what does not read is told of when it is taken
                document = root_document(decode_entry(entry).event)
                if document is not None and document not in self._documents:  # a look that was cut off may have kept it
                    found.append(document)
        return found

    # ---- one look ----------------------------------------------------------------------------

    def look(self) -> Look:
        """Fetch the head, verify it against what was seen, and every new entry.

        Raises:
            SteleError: `http.*`, `ledger.none`: it cannot be read now; nothing has changed.
        """
        now = self._clock()
        raw = sources.checkpoint_of(self._source, str(self._folder))
        try:
            documents = self._new_documents(raw)
            opened = self._open(raw, [*self._documents, *documents])
        except SteleError as error:
            if error.code.startswith("http."):
                raise
            return self._found(now, 0, [self.alarm("bad-checkpoint", f"its checkpoint is not believed: {error.reason}", [raw])])
        alarms = [Alarm(*untold) for untold in self._seen.untold]
        fresh = 0
        try:
            fresh = self._follow(raw, opened, now, alarms, documents)
        except _Wrong as wrong:
            alarms.append(wrong.alarm)
        return self._found(now, fresh, alarms)

    @property
    def newest(self) -> bytes:
        """The last note that was verified; b"" before the first."""
        return self._last

    def believed(self, raw: bytes) -> note.Opened:
        """A note of this ledger, at whatever size, opened.

        Raises:
            SteleError: `trust.*`: nobody who is trusted signed it.
        """
        return self._open(raw, self._documents, newest=False)

    def told(self) -> None:
        """What was found was told: a restart does not tell it again."""
        if self._seen.untold:
            self._seen = msgspec.structs.replace(self._seen, untold=())
            durable.write(self._folder / "seen.json", msgspec.json.encode(self._seen))

    def unreachable(self, reason: str) -> Look:
        """What is to be said where a look was not possible: whether the ledger is stale by now."""
        found = self._found(self._clock(), 0, [])
        return found._replace(alarms=tuple(alarm._replace(reason=f"{alarm.reason}; {reason}") for alarm in found.alarms))

    def _follow(self, raw: bytes, opened: note.Opened, now: int, alarms: list[Alarm], documents: list[bytes]) -> int:
        """Verify what is new; returns how many entries that is."""
        head = opened.checkpoint
        last = self._head()
        if last and head.origin != last.origin:
            self._wrong("bad-checkpoint", f"it is of another ledger: {head.origin}", [raw])
        size = last.size if last else 0
        if last and head.size < size:
            self._wrong(
                "rolled-back",
                f"it shows {head.size} entries, and had shown {size}: it was set back, or somebody serves an old one",
                [self._last, raw],
            )
        if last and head.size == size:
            if head.root != last.root:
                self._wrong("split-view", f"it has signed two roots of size {size}", [self._last, raw])
            self._keep_head(raw, opened, now, grew=False)
            return 0
        published = self._published(head, raw)
        if last:
            self._compare(published, last, raw)
        self._take(published, size, alarms, raw)
        for document in documents:
            durable.make_dirs(self._folder / "documents")
            durable.write(self._folder / "documents" / f"{len(self._documents):06}", document)
            self._documents.append(document)
        self._keep_head(raw, opened, now, grew=True, alarms=alarms)
        return head.size - size

    def _published(self, head: note.Checkpoint, raw: bytes) -> Published:
        try:
            return Published(self._source, head)
        except SteleError as error:
            if error.code != "ledger.damaged":
                raise
            self._wrong("bad-entry", f"what is published does not lead to the signed root: {error.reason}", [raw])

    def _compare(self, published: Published, last: note.Checkpoint, raw: bytes) -> None:
        """The log that was seen must be the beginning of this one."""
        if published.root_at(last.size) == last.root:
            return
        path = [item.hex() for item in published.consistency(last.size)]
        shown = {"first_size": last.size, "root_then": published.root_at(last.size).hex(), "consistency": path}
        reason = f"the ledger of {published.size} entries does not continue the one of {last.size} that was signed before"
        self._wrong("split-view", reason, [self._last, raw, canonical.encode(shown)])

    def _take(self, published: Published, size: int, alarms: list[Alarm], raw: bytes) -> None:
        """Count in every new entry: it must be well-formed, continue its chain, and every epoch must be true."""
        edge = self._edge_at(size)
        more = 0
        try:
            for index, entry in published.entries(edge.size, published.size):
                recovery.count_in(edge, entry, self._maps)
                self._boundary = [each for each in edge.pending if each[0].startswith("tile/entries/")] or self._boundary
                edge.pending.clear()
                if index >= size and BEHIND in entry:
                    self._hear_of_witness(index, entry, alarms)
                if index >= size and self._expected is not None and (why := expecting.unexpected(self._expected, decode_entry(entry))):
                    if len(alarms) < MAX_UNEXPECTED:
                        alarms.append(
                            self.alarm("unexpected-entry", f"entry {index} is not expected: {why}", [entry], name=f"entry-{index}")
                        )
                    else:
                        more += 1
        except SteleError as error:
            if error.code.startswith(("http.", "ledger.none")):
                raise
            self._edge = None
            self._wrong("bad-entry", f"entry {edge.size}: {error.reason}", [raw])
        if more:
            alarms.append(Alarm("unexpected-entry", f"and {more} more"))
        if edge.root() != published.checkpoint.root or not edge.ends_in_epoch:
            self._edge = None
            self._wrong("bad-entry", "the entries do not lead to the signed root, or the last is not an epoch", [raw])

    def _hear_of_witness(self, index: int, entry: bytes, alarms: list[Alarm]) -> None:
        """The ledger's own word that a witness knows less than it cosigned."""
        event = decode_entry(entry).event
        if event.kind == "witness.behind" and event.workload == HOST_WORKLOAD and len(alarms) < MAX_UNEXPECTED:
            who, named, cosigned = (str(event.data.get(key))[:200] for key in ("witness", "named", "cosigned"))
            reason = f"entry {index}: the witness {who} named {named} entries to the ledger, and had cosigned {cosigned}"
            alarms.append(self.alarm("witness-behind", reason, [entry], name=f"entry-{index}"))

    # ---- what is kept ------------------------------------------------------------------------

    def _head(self) -> note.Checkpoint | None:
        return note.unverified(self._last) if self._last else None

    def _edge_at(self, size: int) -> Edge:
        """The right edge of what was verified: from memory, from the folder, or, if that is of no use, from the first entry on."""
        if self._edge is not None and self._edge.size == size:
            return self._edge
        head = self._head()
        self._edge = None
        if size and head:
            with contextlib.suppress(SteleError, OSError):
                self._edge = recovery.edge_at(self._folder, size, {size: head.root}, self._maps)
        if self._edge is None:
            if size:
                log.warning("what was kept of the ledger's edge cannot be used: all %d entries are read again", size)
            self._maps.keep(0)
            self._edge = recovery.empty_edge(self._maps)
        return self._edge

    def _keep_head(self, raw: bytes, opened: note.Opened, now: int, *, grew: bool, alarms: Sequence[Alarm] = ()) -> None:
        """Make what was verified durable. The checkpoint comes last: until then the one before counts."""
        policy = self._trust.policy
        witnessed = bool(policy.witnesses) and policy.met([each.verifier for each in opened.signatures])
        size = opened.checkpoint.size
        seen = self._seen
        if grew:
            assert self._edge is not None
            names = set()
            for name, data in [*self._edge.partial(), *(self._boundary if self._edge.size % tiles.WIDTH == 0 else [])]:
                durable.make_dirs((self._folder / name).parent)
                durable.write(self._folder / name, data)
                names.add(name)
            durable.sync_filesystem(self._folder)  # the maps
            untold = tuple((alarm.kind, alarm.reason, alarm.evidence) for alarm in alarms)
            seen = msgspec.structs.replace(seen, grew_ns=now, entry_time_ns=self._entry_time(), untold=untold)
        if witnessed and size > seen.witnessed:
            seen = msgspec.structs.replace(seen, witnessed=size, witnessed_ns=now)
        if seen != self._seen:
            durable.write(self._folder / "seen.json", msgspec.json.encode(seen))
        if raw != self._last:
            durable.write(self._folder / "checkpoint", raw)
        self._last, self._seen = raw, seen
        if grew:
            self._drop_tiles(names)

    def _drop_tiles(self, keep: set[str]) -> None:
        for path in list(self._folder.glob("tile/**/*")):
            name = str(path.relative_to(self._folder))
            if name not in keep and path.is_file():
                tiles.remove_tile(self._folder, name)

    def _entry_time(self) -> int:
        assert self._edge is not None
        bundles = [data for name, data in [*self._edge.partial(), *self._boundary] if name.startswith("tile/entries/")]
        return decode_entry(tiles.unpack_bundle(bundles[0])[-1]).event.time_ns

    # ---- alarms ------------------------------------------------------------------------------

    def _found(self, now: int, fresh: int, alarms: list[Alarm]) -> Look:
        head, seen = self._head(), self._seen
        if self._stale_ns and head:
            idle = now - min(seen.grew_ns, seen.entry_time_ns)
            if idle > self._stale_ns:
                alarms.append(Alarm("stale", f"it has not grown for {idle // SECOND_NS} s"))
            elif self._trust.policy.witnesses and now - seen.witnessed_ns > self._stale_ns:
                alarms.append(
                    Alarm("not-witnessed", f"no checkpoint with the witnesses' quorum was seen since that of size {seen.witnessed}")
                )
        return Look(head.origin if head else "", head.size if head else 0, fresh, seen.witnessed, seen.entry_time_ns, tuple(alarms))

    def _wrong(self, kind: str, reason: str, evidence: list[bytes]) -> NoReturn:
        raise _Wrong(self.alarm(kind, reason, evidence))

    def alarm(self, kind: str, reason: str, evidence: list[bytes], name: str = "") -> Alarm:
        """Keep the evidence durably before anybody is told."""
        base = name or f"{kind}-{sha256(b''.join(evidence))[7:23]}"
        kept = []
        for number, data in enumerate(evidence, 1):
            path = self._folder / "evidence" / f"{base}.{number}"
            if not path.exists():
                durable.write(path, data)
            kept.append(str(path))
        return Alarm(kind, reason, tuple(kept))


class _Wrong(Exception):  # noqa: N818  it carries an alarm, and never leaves this module
    def __init__(self, alarm: Alarm) -> None:
        super().__init__(alarm.reason)
        self.alarm = alarm
