"""What a ledger is expected to record (docs/spec/expectations.md): whoever follows it is told of everything else. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from stele.model.event import KINDS
from stele.model.spec import load_yaml
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.model.event import Entry


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Entries that are expected. Each list: texts, one of which must fit; a final `*` stands for any rest. None: anything."""

    workloads: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None
    actors: tuple[str, ...] | None = None


class Expectations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rules, any of which makes an entry an expected one. `stele_expectations`: the version, 0."""

    stele_expectations: int
    expected: tuple[Rule, ...]


def _bad(reason: str) -> SteleError:
    return SteleError(
        f"these are no expectations: {reason}",
        remedy="docs/spec/expectations.md says what the file looks like, with an example",
        code="monitor.bad-expectations",
    )


def parse(data: bytes) -> Expectations:
    """Parse a file.

    Raises:
        SteleError: `monitor.bad-expectations`.
    """
    try:
        raw: Any = load_yaml(data)
        found = msgspec.convert(raw, Expectations)
    except (SteleError, msgspec.ValidationError) as error:
        raise _bad(error.reason if isinstance(error, SteleError) else str(error)) from error
    if found.stele_expectations != 0 or not found.expected:
        raise _bad("the version is not 0, or nothing is expected")
    for rule in found.expected:
        for pattern in rule.kinds or ():
            if not any(_fits(pattern, kind) for kind in KINDS):
                raise _bad(f"no kind of event is called {pattern!r}")
        if any("*" in pattern[:-1] for patterns in (rule.workloads, rule.kinds, rule.actors) for pattern in patterns or ()):
            raise _bad("a `*` stands at the end only")
    return found


def _fits(pattern: str, text: str) -> bool:
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


def unexpected(expectations: Expectations, entry: Entry) -> str:
    """Why an entry is not expected, in a few words; "" if it is."""
    event = entry.event
    for rule in expectations.expected:
        asked = ((rule.workloads, event.workload), (rule.kinds, event.kind), (rule.actors, event.actor))
        if all(patterns is None or any(_fits(pattern, text) for pattern in patterns) for patterns, text in asked):
            return ""
    return f"{event.kind} of {event.workload or 'the host'} by {event.actor!r}"
