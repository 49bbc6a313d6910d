"""Recording: the one way in which events reach the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from stele.model.event import KINDS, Event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Append(Protocol):
    """Commits events in order; returns only when they are on disk. Raises `SteleError` if they are not."""

    def __call__(self, events: Sequence[Event], /) -> object:
        """Commit; what it returns is not used."""


class Recorder:
    """Stamps events with time and actor and commits them; when it returns, they are in the ledger."""

    def __init__(self, append: Append, *, actor: str, clock: Callable[[], int], observe: Callable[[Event], None] | None = None) -> None:
        self._append = append
        self._actor = actor
        self._clock = clock
        self._observe = observe

    def event(self, workload: str, kind: str, /, **data: Any) -> Event:
        """Make an event of now; it is not recorded yet."""
        assert kind in KINDS, kind
        return Event(workload=workload, kind=kind, time_ns=self._clock(), actor=self._actor, data=data)

    def commit(self, *events: Event) -> None:
        """Commit events in one batch."""
        self._append(events)
        if self._observe is not None:
            for event in events:
                self._observe(event)

    def __call__(self, workload: str, kind: str, /, **data: Any) -> None:
        """Make and commit one event."""
        self.commit(self.event(workload, kind, **data))
