"""Recording: the one way in which events reach the ledger."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from stele.flow.person import person as caller
from stele.model import private
from stele.model.event import KINDS, ROLES, Event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Append(Protocol):
    """Commits events in order; returns only when they are on disk. Raises `SteleError` if they are not."""

    def __call__(self, events: Sequence[Event], /) -> object:
        """Commit; what it returns is not used."""


class Recorder:
    """Stamps events with time, role and person and commits them; when it returns, they are in the ledger."""

    def __init__(
        self,
        append: Append,
        *,
        actor: str,
        clock: Callable[[], int],
        person: str = "",
        observe: Callable[[Event], None] | None = None,
    ) -> None:
        assert actor in ROLES, actor
        self._append = append
        self._actor, self._person = actor, person
        self._clock = clock
        self._observe = observe

    @classmethod
    def of_caller(cls, append: Append) -> Recorder:
        """For what the person who runs this process does, where no agent holds the ledger."""
        return cls(append, actor="operator", person=caller(), clock=time.time_ns)

    def by(self, person: str) -> Recorder:
        """The same for what an operator asked for; `person`: who that is ("": not known)."""
        return Recorder(self._append, actor="operator", clock=self._clock, person=person[:200], observe=self._observe)

    def event(self, workload: str, kind: str, /, **facts: Any) -> Event:
        """Make an event of now; it is not recorded yet. What is private of the kind does not go into the log in clear."""
        assert kind in KINDS, kind
        data, hidden = private.split(kind, facts)
        if self._person:
            hidden[private.PERSON] = self._person
        return Event(workload=workload, kind=kind, time_ns=self._clock(), actor=self._actor, data=data, private=hidden)

    def commit(self, *events: Event) -> None:
        """Commit events in one batch."""
        self._append(events)
        if self._observe is not None:
            for event in events:
                self._observe(event)

    def __call__(self, workload: str, kind: str, /, **facts: Any) -> None:
        """Make and commit one event."""
        self.commit(self.event(workload, kind, **facts))
