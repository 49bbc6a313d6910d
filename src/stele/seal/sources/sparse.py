"""The maps of sparse members: GNU tar's manual, Sparse Formats (old GNU, pax 0.1 and 1.0); docs/spec/sources.md, Tar.

Readers of tar could disagree on a map that is not in order, or does not fit its content: that is refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from stele.trust.errors import SteleError

    Bad = Callable[[str], SteleError]

PREFIX = b"GNU.sparse."
MAX_PIECES = 1 << 18
NAME = PREFIX + b"name"
FORM_0_1 = frozenset(PREFIX + key for key in (b"size", b"numblocks", b"map", b"name"))
FORM_1_0 = frozenset(PREFIX + key for key in (b"major", b"minor", b"realsize", b"name"))
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,18}")
_IN_HEADER, _IN_BLOCK = range(386, 482, 24), range(0, 504, 24)  # where the entries are; a byte behind them says whether there are more


class Map(NamedTuple):
    """Where the content that the archive has lies in a file of `size` bytes: (offset, size) of each piece. The rest is zeros."""

    pieces: tuple[tuple[int, int], ...]
    size: int

    @property
    def stored(self) -> int:
        """Bytes of content that the archive has."""
        return sum(size for _, size in self.pieces)


def of_gnu(header: bytes, block: Callable[[], bytes], number: Callable[[bytes, str], int], bad: Bad) -> Map:
    """The map of a member of type `S`.

    Args:
        header: the member's.
        block: the next 512 bytes of the archive.
        number: a header's number, of a field and its name.
        bad: the error for a reason.
    """
    found: list[tuple[int, int]] = []
    table, places = header, _IN_HEADER
    while True:
        more = table[places.stop : places.stop + 1] != b"\0"
        for at in places:
            if not table[at + 12]:
                if more or table[at : places.stop].strip(b"\0"):
                    raise bad("a sparse map goes on after its end")
                break
            found.append((number(table[at : at + 12], "offset"), number(table[at + 12 : at + 24], "size")))
        if not more:
            return _checked(found, number(header[483:495], "size"), bad)
        if len(found) > MAX_PIECES:
            raise bad("a sparse map is too long")
        table, places = block(), _IN_BLOCK


def of_pax(pax: dict[bytes, bytes], block: Callable[[], bytes], bad: Bad) -> Map | None:
    """The map of a member with a pax header of format 0.1 or 1.0; None where it is of neither. Arguments as of `of_gnu`."""
    keys = {key for key in pax if key.startswith(PREFIX)}
    if keys == FORM_0_1:
        text = pax[PREFIX + b"map"]
        numbers = iter([_number(part, bad) for part in text.split(b",")] if text else [])
        count, size = _number(pax[PREFIX + b"numblocks"], bad), _number(pax[PREFIX + b"size"], bad)
    elif keys == FORM_1_0 and (pax[PREFIX + b"major"], pax[PREFIX + b"minor"]) == (b"1", b"0"):
        numbers = _lines(block, bad)
        count, size = next(numbers), _number(pax[PREFIX + b"realsize"], bad)
    else:
        return None
    if count > MAX_PIECES:
        raise bad("a sparse map is too long")
    found = [(next(numbers, -1), next(numbers, -1)) for _ in range(count)]
    if (found and found[-1][1] < 0) or (keys == FORM_0_1 and next(numbers, None) is not None):
        raise bad("a sparse map has another length than it says")
    return _checked(found, size, bad)


def _lines(block: Callable[[], bytes], bad: Bad) -> Iterator[int]:
    held = b""
    while True:
        line, newline, rest = held.partition(b"\n")
        if newline:
            held = rest
            yield _number(line, bad)
        elif len(held) > 19:
            raise bad("a sparse map is malformed")
        else:
            held += block()


def _number(text: bytes, bad: Bad) -> int:
    if not _NUMBER.fullmatch(text):
        raise bad("a sparse map is malformed")
    return int(text)


def _checked(found: Iterable[tuple[int, int]], size: int, bad: Bad) -> Map:
    pieces, end = tuple(found), 0
    for offset, length in pieces:
        if offset < end:
            raise bad("a sparse map is not in order")
        end = offset + length
    if end > size:
        raise bad("a sparse map reaches beyond its file")
    return Map(pieces, size)
