"""Which entries of the ledger somebody wants to see. Pure."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import msgspec

from stele.model.event import HOST_WORKLOAD, KINDS
from stele.model.private import PERSON
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stele.model.event import Entry

# what a person means, and the kinds that it is
GROUPS = {
    "deploys": (
        "deploy.started", "deploy.confirmed", "deploy.failed", "rollback.decided", "instance.active", "release.quarantined",
        "release.pardoned",
    ),
    "incidents": (
        "violation", "watcher.lost", "watcher.restored", "instance.frozen", "network.cut", "incident.resolved", "incident.unresolved",
        "evidence.sealed", "evidence.failed", "evidence.evicted", "quarantine.released",
    ),
    "custody": (*(kind for kind in KINDS if kind.startswith("evidence.")), "quarantine.released"),
    "releases": tuple(kind for kind in KINDS if kind.startswith("release.")),
    "instances": tuple(kind for kind in KINDS if kind.startswith("instance.")),
    "agent": ("agent.started", "agent.stopped", "heartbeat", "watcher.lost", "watcher.restored"),
}  # fmt: skip
QUIET = frozenset({"epoch", "heartbeat"})  # shown only to those who ask for them
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{4,64})", re.ASCII)


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """All of what is given must be true of an entry; "" and () ask for nothing.

    `workloads`, `actors`, `persons` (as far as these can be opened): names, or patterns with * and ?. `kinds`: those that may be, None
    for all. `since_ns`, `until_ns`: from one moment to just before another. `release`: the beginning of a digest, in hex.
    `incident`: an incident's name.
    """

    workloads: tuple[str, ...] = ()
    kinds: frozenset[str] | None = None
    actors: tuple[str, ...] = ()
    persons: tuple[str, ...] = ()
    since_ns: int = 0
    until_ns: int = 1 << 63
    release: str = ""
    incident: str = ""

    def matches(self, entry: Entry) -> bool:
        """Whether an entry is one of them."""
        event = entry.event
        return (
            (self.kinds is None or event.kind in self.kinds)
            and self.since_ns <= event.time_ns < self.until_ns
            and (not self.workloads or any(_fits(event.workload, pattern) for pattern in self.workloads))
            and (not self.actors or any(_fits(event.actor, pattern) for pattern in self.actors))
            and (not self.persons or any(_fits(str(event.private.get(PERSON, "")), pattern) for pattern in self.persons))
            and (not self.release or _names_release(event.data.values(), self.release))
            and (not self.incident or (event.data.get("incident") == self.incident and event.workload in of_incident(self.incident)))
        )


def of_incident(incident: str) -> tuple[str, str]:
    """Whose entries can name an incident: its workload, and the host."""
    return incident.rpartition("-")[0], HOST_WORKLOAD


def is_pattern(text: str) -> bool:
    """Whether a name stands for several: * for any characters, ? for one; nothing else is special."""
    return bool(set(text) & set("*?"))


def glob_of(pattern: str) -> str:
    """A pattern as fnmatch and SQLite's GLOB both take it."""
    return pattern.replace("[", "[[]")


def _fits(text: str, pattern: str) -> bool:
    return fnmatchcase(text, glob_of(pattern)) if is_pattern(pattern) else text == pattern


def _names_release(values: Iterable[object], digits: str) -> bool:
    begin = "sha256:" + digits
    return any(isinstance(value, str) and value.startswith(begin) for value in values)


def parse_release(text: str) -> str:
    """The hex digits of a release, or of the beginning of its digest.

    Raises:
        SteleError: `log.bad-filter`.
    """
    found = _DIGEST.fullmatch(text)
    if found is None:
        raise _bad(f"{text[:80]!r} is not a release", "name its digest, or at least the first 4 digits of it")
    return found[1]


def parse_kinds(texts: Iterable[str], *, everything: bool = False) -> frozenset[str] | None:
    """The kinds that somebody names: a kind, the first words of some (`instance`), a pattern (`*.failed`), or a group (`incidents`).

    Without any, all but those that only say that time passed (`everything`: these, too).

    Raises:
        SteleError: `log.bad-filter`: no kind is meant by one of them.
    """
    found: set[str] = set()
    for text in filter(None, texts):
        plain = text.rstrip(".")
        mine = set(GROUPS.get(plain, ())) | {kind for kind in KINDS if kind == plain or kind.startswith(plain + ".") or _fits(kind, text)}
        if not mine:
            raise _bad(
                f"there is no kind of event {text[:80]!r}",
                f"name a kind (docs/spec/event.md), a pattern like 'instance.*', or one of {', '.join(GROUPS)}",
            )
        found |= mine
    if found:
        return frozenset(found)
    return None if everything else frozenset(KINDS) - QUIET


def _bad(reason: str, remedy: str) -> SteleError:
    return SteleError(reason, remedy=remedy, code="log.bad-filter")
