"""Looking into a published ledger, here or elsewhere: the entries that somebody selects, each checked against the signed root."""

from __future__ import annotations

import contextlib
import itertools
import logging
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Self

from stele.flow import rooted
from stele.ledger import source as sources
from stele.ledger import tiles, unsigned
from stele.ledger.index import Index
from stele.ledger.openings import Openings
from stele.ledger.published import Published
from stele.ledger.source import FolderSource
from stele.model.event import decode_entry
from stele.model.signing import root_document
from stele.trust import note, trust_keys
from stele.trust import root as roots
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stele.flow.places import Places
    from stele.ledger.source import HttpSource
    from stele.model.event import Entry
    from stele.model.selection import Selection
    from stele.trust.root import Root
    from stele.trust.trust_keys import Trust

log = logging.getLogger(__name__)
SLACK_NS = 3_600_000_000_000  # so far a clock may have been set back; a ledger without an index is searched that much wider


class LogView:
    """A published ledger as its checkpoint has it; `refresh` takes a newer one. A context manager, for one thread.

    Private fields are opened as far as the openings are there and may be read.
    """

    def __init__(self, source: FolderSource | HttpSource, trusted: Trust, folder: Path | None, *, read_all: bool, own: bool = True) -> None:
        """Read the checkpoint and check it.

        Args:
            source: where the files are; closed with this.
            trusted: whom to believe.
            folder: of the ledger, if it is on this machine.
            read_all: look at every entry, whatever index or times say.
            own: the folder's projection says where to look, if it has one; that of a copy is whoever's who made it.
        """
        self._source, self._trusted, self._read_all = source, trusted, read_all
        self._own = own and folder is not None
        self.folder = folder
        self._openings = Openings(folder) if folder is not None else None
        self._documents: list[bytes] = []  # of the ledger's root, among the first `_looked_at` entries
        self._looked_at = 0
        self.published = self._read()

    def _read(self) -> Published:
        signed = sources.checkpoint_of(self._source, self._source.name)
        keys = rooted.believed(self._trusted, self.folder) if self.folder and self._own else self._believed_elsewhere(signed)
        return Published(self._source, roots.open_newest(signed, keys, self._trusted.witnesses).checkpoint)

    def _believed_elsewhere(self, signed: bytes) -> tuple[note.Verifier, ...] | Root:
        """Like `rooted.believed`, of a ledger without a projection: all entries are looked at for the documents that lead to its root.

        What is read so is of one tree, and not signed yet; the documents must lead from the root that is trusted.
        """
        if not self._trusted.roots:
            return self._trusted.ledgers
        found = Published(self._source, note.unverified(signed))

        def vouched() -> bool:
            with contextlib.suppress(SteleError):
                roots.open_newest(signed, self._trusted.root(found.checkpoint.origin, self._documents) or self._trusted.ledgers)
                return True
            return False

        for index, raw in unsigned.entries(found, self._looked_at, vouched):
            document = root_document(decode_entry(raw).event)
            if document is not None:
                self._documents.append(document)
            self._looked_at = index + 1
        return self._trusted.root(found.checkpoint.origin, self._documents) or self._trusted.ledgers

    @property
    def size(self) -> int:
        """Entries that the checkpoint covers."""
        return self.published.size

    @property
    def origin(self) -> str:
        """Name of the ledger."""
        return self.published.checkpoint.origin

    def refresh(self) -> bool:
        """Read the newest checkpoint; whether there is one. What it says of the past must be what was read.

        Raises:
            SteleError: `ledger.damaged`: it is older, or of another history.
        """
        now = self._read()
        before = self.published.checkpoint
        if now.size < before.size or now.root_at(before.size) != before.root:
            raise tiles.damaged(f"the checkpoint of {now.size} entries does not continue the one of {before.size} that was just read")
        self.published = now
        if self.folder is not None:
            self._openings = Openings(self.folder)  # it holds what it read
        return now.size > before.size

    def entries(
        self, selection: Selection, *, begin: int = 0, newest_first: bool = False, last: int | None = None
    ) -> Iterator[tuple[int, Entry]]:
        """Index and entry of what is selected from `begin` on, in order; at most the `last` newest of them."""
        if last is not None and not newest_first:
            newest = list(itertools.islice(self.entries(selection, begin=begin, newest_first=True), last))
            yield from reversed(newest)
            return
        found = (item for item in self._candidates(selection, begin, newest_first=newest_first) if selection.matches(item[1]))
        yield from found if last is None else itertools.islice(found, last)

    def _candidates(self, selection: Selection, begin: int, *, newest_first: bool) -> Iterator[tuple[int, Entry]]:
        if (
            self.folder is not None
            and self._own
            and not self._read_all
            and (index := Index.open(self.folder / "projection.sqlite")) is not None
        ):
            with index:
                known = min(max(index.applied, begin), self.size)
                tail = self._scan(known, self.size, newest_first=newest_first)
                if newest_first:
                    yield from tail
                yield from self._indexed(index, selection, begin, known, newest_first=newest_first)
                if not newest_first:
                    yield from tail
            return
        first, end = (begin, self.size) if self._read_all else self._bounds(selection, begin)
        yield from self._scan(first, end, newest_first=newest_first)

    def _indexed(self, index: Index, selection: Selection, begin: int, end: int, *, newest_first: bool) -> Iterator[tuple[int, Entry]]:
        seen: int | None = None
        try:
            for at in index.find(selection, begin, end, newest_first=newest_first):
                yield from self._at([at])
                seen = at
        except sqlite3.Error as error:
            log.warning("the projection cannot be read (%s): every entry is looked at; `stele log rebuild` makes it anew", error)
            if seen is not None:
                begin, end = (begin, seen) if newest_first else (seen + 1, end)
            yield from self._scan(begin, end, newest_first=newest_first)

    def _at(self, indices: Iterable[int]) -> Iterator[tuple[int, Entry]]:
        for number, group in itertools.groupby(indices, key=lambda at: at // tiles.WIDTH):
            bundle = self._bundle(number)
            for at in group:
                entry = decode_entry(bundle[at % tiles.WIDTH])
                yield at, entry if self._openings is None else self._openings.open(at, entry)

    def entry(self, index: int) -> Entry:
        """One entry."""
        return next(iter(self._at([index])))[1]

    def _bundle(self, number: int) -> list[bytes]:
        if self._kept is None or self._kept[:2] != (number, self.size):
            self._kept = (number, self.size, self.published.bundle(number))
        return self._kept[2]

    _kept: tuple[int, int, list[bytes]] | None = None

    def _scan(self, begin: int, end: int, *, newest_first: bool) -> Iterator[tuple[int, Entry]]:
        if end <= begin:
            return
        numbers = range(begin // tiles.WIDTH, -(-end // tiles.WIDTH))
        for number in reversed(numbers) if newest_first else numbers:
            first = number * tiles.WIDTH
            mine = range(max(begin, first), min(end, first + tiles.WIDTH))
            yield from self._at(reversed(mine) if newest_first else mine)

    def _bounds(self, selection: Selection, begin: int) -> tuple[int, int]:
        """Where entries of the times that are wanted can lie, if no clock was ever set back by more than SLACK_NS."""

        def first_after(moment: int) -> int:
            low, high = begin // tiles.WIDTH, -(-self.size // tiles.WIDTH)
            while low < high:
                middle = (low + high) // 2
                if decode_entry(self._bundle(middle)[0]).event.time_ns > moment:
                    high = middle
                else:
                    low = middle + 1
            return low * tiles.WIDTH

        first, end = begin, self.size
        if selection.since_ns > SLACK_NS:
            first = max(begin, first_after(selection.since_ns - SLACK_NS) - tiles.WIDTH)
        if selection.until_ns < 1 << 62:
            end = min(end, first_after(selection.until_ns + SLACK_NS))
        return first, end

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_view(places: Places, where: str | None = None, trust: Path | None = None, *, read_all: bool = False) -> LogView:
    """The view of the data folder's ledger, or of the folder or address that is named.

    Raises:
        SteleError: `ledger.none`, `ledger.damaged`, `http.*`, `trust.*`, `prove.no-keys`: nobody said whom to believe.
    """
    path = trust or places.trust
    try:
        trusted = trust_keys.parse(path.read_bytes())
    except (FileNotFoundError, PermissionError) as error:
        lacks = "may not be read by you" if isinstance(error, PermissionError) else "is not there"
        raise SteleError(
            f"a ledger is read with the keys that you trust, and {path} {lacks}",
            remedy="name the file with --trust trust.keys, as its owner gave it to you",
            code="prove.no-keys",
        ) from error
    source = sources.source_of(where if where is not None else places.ledger)
    try:
        folder = Path(source.name) if isinstance(source, FolderSource) else None
        own = folder is not None and folder.resolve() == places.ledger.resolve()
        return LogView(source, trusted, folder, read_all=read_all, own=own)
    except BaseException:
        source.close()
        raise
