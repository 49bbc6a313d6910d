"""Ranges of contents, read in one pass; and where in a large old content a piece of the new one has its like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.seal.delta import plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stele.model.ports import ContentReader
    from stele.seal.delta.plan import Pair, Range

_NEEDLE = 64  # bytes that are looked for
_NEEDLES = 8  # of a piece


class ShortContentError(ValueError):
    """A content ends before the range that was asked for."""


class Windows:
    """Reads ranges of contents. Those of one content whose starts do not go back are read in one pass over it.

    Memory: from the start of the last range to what was read of its content.
    """

    def __init__(self, contents: ContentReader) -> None:
        self._contents = contents
        self._digest = ""
        self._at = 0
        self._held = bytearray()
        self._chunks: Iterator[bytes] = iter(())

    def _fill(self, digest: str, start: int, end: int) -> None:
        """Hold the bytes from `start` to `end`, or to the end of the content if it comes first."""
        if digest != self._digest or start < self._at:
            self._digest, self._at, self._held = digest, 0, bytearray()
            self._chunks = iter(self._contents.chunks(digest))
        while self._at + len(self._held) < end:
            drop = min(start - self._at, len(self._held))
            if drop > 0:
                del self._held[:drop]
                self._at += drop
            chunk = next(self._chunks, b"")
            if not chunk:
                return
            self._held += chunk
        if start > self._at:
            del self._held[: start - self._at]
            self._at = start

    def read(self, piece: Range) -> bytes:
        """The bytes of a range.

        Raises:
            ShortContentError: there are not as many.
            SteleError: what the reader raises, which compares a content with its digest when it was read to its end.
        """
        end = piece.start + piece.size
        self._fill(piece.digest, piece.start, end + 1)  # a byte more, where there is one, lets the reader meet the end
        data = bytes(memoryview(self._held)[piece.start - self._at : end - self._at])
        if len(data) != piece.size:
            raise ShortContentError(piece.digest)
        return data

    def all(self, ranges: Sequence[Range]) -> bytes:
        """The bytes of several ranges, one after the other. Raises like `read`."""
        return b"".join(map(self.read, ranges))

    def find(self, digest: str, needles: Sequence[tuple[int, bytes]], low: int, high: int) -> int | None:
        """Where between `low` and `high` something begins that holds a needle at its offset: the first needle that is there."""
        self._fill(digest, low, high)
        for offset, needle in needles:
            at = self._held.find(needle, max(0, low - self._at), high - self._at)
            if at >= 0:
                return self._at + at - offset
        return None


def starts(pairs: Sequence[Pair], old: ContentReader, new: ContentReader) -> list[int]:
    """Where the old pieces that the delta has to place begin: where bytes of the piece are found again, near to where they were.

    Insertions and deletions of up to a piece's size between two pieces are followed.
    """
    before, after = Windows(old), Windows(new)
    found: list[int] = []
    shift = last = 0
    for pair in pairs:
        if pair.old is None or not pair.placed:
            continue
        if not pair.piece.start:
            shift = last = 0
        expected = min(max(pair.piece.start + shift, last, 0), pair.whole - 1)
        data = after.read(pair.piece)
        low, high = max(last, expected - plan.PIECE), min(pair.whole, expected + 2 * plan.PIECE)
        at = before.find(pair.old.digest, _needles(data), low, high)
        if at is None:  # nothing of it: what is there as far as the shift is known, and not less than a whole piece
            at = min(expected, pair.whole - plan.PIECE)
        else:
            shift = at - pair.piece.start
        last = min(max(at, last), pair.whole - 1)
        found.append(last)
    return found


def _needles(data: bytes) -> list[tuple[int, bytes]]:
    """Some stretches of a piece, with their offsets, that are unlikely to be anywhere else by accident."""
    step = max(_NEEDLE, len(data) // _NEEDLES)
    found = []
    for at in range(0, len(data) - _NEEDLE, step):
        needle = data[at : at + _NEEDLE]
        if len(set(needle)) >= 16:
            found.append((at, needle))
    return found
