"""Legal holds: what they are on, which stand, and what they forbid. Pure (docs/spec/holds.md)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from stele.model.event import HOST_WORKLOAD
from stele.trust.digest import parse_digest
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stele.model.event import Entry, Event

ID = re.compile(r"hold-[0-9a-f]{6}", re.ASCII)
RELEASE_FIELDS = ("release", "previous", "serving", "to")  # of `data`, that may name a release
MAX_INDEX = 2**62


class On(msgspec.Struct, frozen=True, kw_only=True):
    """What a hold is on: one of a workload, a release, an incident, or the entries from first to last."""

    workload: str = ""
    release: str = ""
    incident: str = ""
    entries: tuple[int, int] | None = None

    def plain(self) -> dict[str, Any]:
        """As an entry has it."""
        if self.entries is not None:
            return {"entries": list(self.entries)}
        return {name: value for name in ("workload", "release", "incident") if (value := getattr(self, name))}

    def __str__(self) -> str:
        """For people."""
        if self.entries is not None:
            return f"entries {self.entries[0]} to {self.entries[1]}"
        return " ".join(f"{name} {value}" for name, value in self.plain().items())


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A hold that stands. `reason`, `person`: where they could be opened."""

    id: str
    on: On
    placed_at: int
    time_ns: int
    reason: str = ""
    person: str = ""


def on_from(raw: Any) -> On:
    """What a hold is on, from plain data.

    Raises:
        SteleError: `hold.malformed`, `trust.bad-digest`.
    """
    if isinstance(raw, dict) and len(raw) == 1:
        ((name, value),) = raw.items()
        if name == "entries" and isinstance(value, list) and len(value) == 2:
            if all(isinstance(index, int) and not isinstance(index, bool) for index in value) and 0 <= value[0] <= value[1] < MAX_INDEX:
                return On(entries=(value[0], value[1]))
        elif isinstance(value, str) and 0 < len(value) <= 255 and value.isprintable():
            if name == "release":
                return On(release=parse_digest(value))
            if name == "workload":
                return On(workload=value)
            if name == "incident":
                return On(incident=value)
    raise SteleError(
        "a hold is on one workload, one release (by its whole digest), one incident, or entries from first to last",
        remedy="see `stele hold place --help`",
        code="hold.malformed",
    )


def read(event: Event) -> tuple[str, On | None]:
    """Id of the hold that an event places, and on what; None for one that ends it.

    Raises:
        SteleError: `hold.malformed`, `trust.bad-digest`.
    """
    name, placed = event.data.get("hold"), event.kind == "hold.placed"
    wanted = {"hold", "on"} if placed else {"hold"}
    if event.workload != HOST_WORKLOAD or set(event.data) != wanted or not isinstance(name, str) or not ID.fullmatch(name):
        raise SteleError(f"an event of kind {event.kind} is malformed", remedy="see docs/spec/holds.md", code="hold.malformed")
    return name, on_from(event.data["on"]) if placed else None


class Standing:
    """Which holds stand after some entries, taken in order. What is malformed means nothing."""

    def __init__(self) -> None:
        self.holds: dict[str, Hold] = {}
        self.ended: dict[str, tuple[Hold, int, Entry]] = {}  # with the entry that ended each, and its index

    def take(self, index: int, entry: Entry) -> None:
        """Take in one entry of any kind."""
        event = entry.event
        if event.kind not in {"hold.placed", "hold.released"}:
            return
        try:
            name, on = read(event)
        except SteleError:
            return
        if on is None:
            if name in self.holds:
                self.ended[name] = self.holds.pop(name), index, entry
        elif name not in self.holds and name not in self.ended:
            private = event.private
            self.holds[name] = Hold(
                id=name, on=on, placed_at=index, time_ns=event.time_ns,
                reason=str(private.get("reason", "")), person=str(private.get("person", "")),
            )  # fmt: skip


class Coverage:
    """Which of some holds are on an entry. Asked of all entries from the first on, in order: an incident's release is named early."""

    def __init__(self, holds: Iterable[Hold]) -> None:
        self._holds = tuple(holds)
        self._of: dict[str, set[str]] = {hold.on.release: set() for hold in self._holds if hold.on.release}
        # what entries under each hold name: incidents and releases
        self.named: dict[str, set[str]] = {hold.id: set() for hold in self._holds}

    def take(self, index: int, entry: Entry) -> tuple[Hold, ...]:
        """The holds that are on this entry."""
        if not self._holds:
            return ()
        data = entry.event.data
        own = {value for key in ("incident", "instance") if isinstance(value := data.get(key), str) and value}
        names = own | {value for key in RELEASE_FIELDS if isinstance(value := data.get(key), str) and value}
        for release in self._of:
            if data.get("release") == release:
                self._of[release] |= own
        found = tuple(hold for hold in self._holds if self._is_on(hold.on, index, entry, names))
        for hold in found:
            self.named[hold.id] |= names
        return found

    def _is_on(self, on: On, index: int, entry: Entry, names: set[str]) -> bool:
        if on.entries is not None:
            return on.entries[0] <= index <= on.entries[1]
        if on.workload:
            return entry.event.workload == on.workload
        if on.release:
            return on.release in names or not names.isdisjoint(self._of[on.release])
        return on.incident in names

    def keeping(self, name: str) -> tuple[Hold, ...]:
        """The holds under which an incident or a release must be kept, after all entries were taken."""
        return tuple(hold for hold in self._holds if name in self.named[hold.id] or name in {hold.on.incident, hold.on.release})


def forbid(what: str, holds: Iterable[Hold]) -> None:
    """Refuse to destroy what holds are on.

    Raises:
        SteleError: `hold.forbids`, if there is any.
    """
    found = list({hold.id: hold for hold in holds}.values())
    if found:
        named = "; ".join(f"{hold.id} on {hold.on}" for hold in found[:5]) + ("; …" if len(found) > 5 else "")
        raise SteleError(
            f"{what} must be kept: {named}",
            remedy=f"`stele hold list` says who placed it and why; whoever may end it does so with `stele hold release {found[0].id}`",
            code="hold.forbids",
        )
