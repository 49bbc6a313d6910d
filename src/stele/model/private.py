"""Private fields: what must not be in the log in clear. Commitments, and the openings that are kept apart. Pure (docs/spec/sealed.md)."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from stele.model.event import FIELD_NAME
from stele.trust import canonical
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from stele.model.event import Entry, Event

# what a watched process brought along: names of files, arguments, and texts that it chose
_SEEN = frozenset({"argv", "comm", "detail", "exe", "path"})
_WHY = frozenset({"reason"})  # free text, of people and of programs
# The one table: kind of event -> its private fields. The person who acts is private in every kind.
PRIVATE: dict[str, frozenset[str]] = {
    "change.observed": _SEEN,
    "deploy.failed": _WHY,
    "evidence.accessed": frozenset({"how"}),
    "evidence.failed": _WHY,
    "hold.placed": _WHY,
    "hold.released": _WHY,
    "incident.unresolved": _WHY,
    "instance.failed": _WHY,
    "instance.stopped": _WHY,
    "key.revoked": _WHY,
    "log.redacted": _WHY,
    "release.pardoned": _WHY,
    "release.quarantined": _WHY,
    "violation": _SEEN,
    "watcher.lost": _SEEN,
    "write.refused": _SEEN,
}
PERSON = "person"
CLOSED = "closed"  # what a person is shown in place of a value that cannot be opened: redacted, or not theirs to read

LABEL = b"stele-sealed-v1\n"
SALT = 32  # bytes
BLOCK = 64  # the length of a value is hidden up to so many bytes once it is erased
MAX_OPENINGS = 65535  # bytes of all openings of one entry
_SLOT = struct.Struct("<BH")  # length of the name, blocks
_INNER = struct.Struct(f"<{SALT}sH")  # salt, length of the value


class Opening(NamedTuple):
    """What shows that a commitment is of a value. `value`: plain data."""

    field: str
    salt: bytes
    value: Any


class Slot(msgspec.Struct, frozen=True):
    """Where in an entry's openings the erasable part for a field lies."""

    field: str
    at: int
    length: int


def closed(entry: Entry) -> list[str]:
    """Private fields of an entry that were not opened, sorted."""
    return sorted(set(entry.sealed) - set(entry.event.private)) if entry.sealed else []


def split(kind: str, facts: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Facts of an event of this kind as `data` and `private`."""
    names = PRIVATE.get(kind, frozenset())
    data: dict[str, Any] = {}
    private: dict[str, Any] = {}
    for name, value in facts.items():
        (private if name in names or name == PERSON else data)[name] = value
    return data, private


def refuse_bare(event: Event) -> None:
    """Refuse an event that carries a private field in clear.

    Raises:
        SteleError: `ledger.bad-entry`.
    """
    names = PRIVATE.get(event.kind, frozenset())
    found = sorted(name for name in event.data if name in names or name == PERSON)
    if found:
        raise _bad(f"{', '.join(found)} of {event.kind} must not be in clear")


def commitment(field: str, salt: bytes, value: Any) -> str:
    """Lower-case hex SHA-256 over label, salt and the canonical JSON of `[field, value]`.

    Raises:
        SteleError: `trust.not-canonical`.
    """
    assert len(salt) == SALT
    return _commit(field, salt, canonical.encode(value))


def _commit(field: str, salt: bytes, value: bytes) -> str:
    # `value` is canonical already, and a field's name is spelled as it is: so this is the canonical JSON of both
    return hashlib.sha256(b'%b%b["%b",%b]' % (LABEL, salt, field.encode("ascii"), value)).hexdigest()


def check_opening(entry: Entry, field: str, salt: bytes, value: Any) -> bool:
    """Whether an entry commits to just this value in this field, shown by the salt."""
    sealed = entry.sealed.get(field)
    if sealed is None or len(salt) != SALT or not FIELD_NAME.fullmatch(field):
        return False
    try:
        return commitment(field, salt, value) == sealed
    except SteleError:
        return False


def seal(private: Mapping[str, Any], salts: bytes) -> tuple[dict[str, str], bytes]:
    """Commit to private values.

    Args:
        private: field to plain value.
        salts: fresh random bytes, 32 for each field, never used for anything else.

    Returns:
        What goes into the entry, and the openings, encoded (`slots`).

    Raises:
        SteleError: `trust.not-canonical`; `ledger.entry-too-large` if the openings are larger than may be kept.
    """
    assert len(salts) == SALT * len(private)
    sealed: dict[str, str] = {}
    slots = bytearray()
    for number, field in enumerate(sorted(private)):
        if not FIELD_NAME.fullmatch(field):
            raise _bad(f"{field!r} is not a name of a private field")
        salt = salts[SALT * number : SALT * (number + 1)]
        value = canonical.encode(private[field])
        sealed[field] = _commit(field, salt, value)
        blocks = -(-(_INNER.size + len(value)) // BLOCK)
        if len(slots) + _SLOT.size + len(field) + BLOCK * blocks > MAX_OPENINGS:
            raise SteleError(
                f"the private fields of an event are larger than an entry keeps ({MAX_OPENINGS} bytes)",
                remedy="record digests of documents, not documents",
                code="ledger.entry-too-large",
            )
        slots += _SLOT.pack(len(field), blocks) + field.encode("ascii")
        slots += (_INNER.pack(salt, len(value)) + value).ljust(BLOCK * blocks, b"\0")
    return sealed, bytes(slots)


def slots(openings: bytes) -> Iterator[Slot]:
    """The slots of an entry's openings, in the order of their fields, which is sorted.

    Raises:
        ValueError: they are not what `seal` makes, nor what erasing leaves of it.
    """
    at, before = 0, ""
    while at < len(openings):
        if at + _SLOT.size > len(openings):
            raise ValueError("damaged openings")
        length, blocks = _SLOT.unpack_from(openings, at)
        at += _SLOT.size + length
        field = openings[at - length : at].decode("ascii", "replace")
        if not FIELD_NAME.fullmatch(field) or field <= before or not blocks or at + BLOCK * blocks > len(openings):
            raise ValueError("damaged openings")
        yield Slot(field, at, BLOCK * blocks)
        at, before = at + BLOCK * blocks, field


def opening(slot: Slot, openings: bytes) -> Opening | None:
    """What a slot holds; None if it was erased, or holds what `seal` does not make. Not checked against the commitment."""
    inner = openings[slot.at : slot.at + slot.length]
    salt, length = _INNER.unpack_from(inner)
    value, rest = inner[_INNER.size : _INNER.size + length], inner[_INNER.size + length :]
    if len(value) != length or len(rest) >= BLOCK or rest.strip(b"\0"):
        return None
    try:
        return Opening(slot.field, salt, canonical.decode(value))
    except SteleError:
        return None


def opened(entry: Entry, openings: bytes) -> dict[str, Opening]:
    """The openings by field that fit the entry's commitments; none where they are damaged."""
    try:
        found = [opening(slot, openings) for slot in slots(openings)]
    except ValueError:
        return {}
    return {item.field: item for item in found if item is not None and check_opening(entry, *item)}


def _bad(reason: str) -> SteleError:
    return SteleError(f"an event cannot be recorded: {reason}", remedy="report it: this is an error of Stele", code="ledger.bad-entry")
