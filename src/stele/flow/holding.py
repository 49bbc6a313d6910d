"""What the agent does while the ledger is read-only: show and guard what runs, change nothing, for nothing can be recorded."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, Protocol

from stele.ledger import read_only
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stele.flow.places import Places
    from stele.flow.world import Running, World
    from stele.model.event import Entry, Event
    from stele.model.instance import Instance

log = logging.getLogger(__name__)


class LedgerPort(Protocol):
    """What the agent needs of its ledger. `witnesses`: how it stands with each witness."""

    witnesses: Callable[[], list[dict[str, Any]]]

    @property
    def read_only(self) -> SteleError | None:
        """Why nothing can be added, or None."""

    @property
    def size(self) -> int:
        """Committed entries."""

    @property
    def published(self) -> int:
        """Of those, the ones that the newest checkpoint covers."""

    @property
    def erasing(self) -> bool:
        """Whether what a redaction in it says is not erased everywhere yet."""

    def append(self, events: Sequence[Event], /) -> object:
        """Commit events; returns when they are on disk. Raises `SteleError`."""

    def publish(self) -> int:
        """Sign what is committed; returns its size. Raises `SteleError`."""

    def uncovered(self) -> list[Entry]:
        """What is committed and not published."""

    def close(self) -> None:
        """Let go of it."""


def refuse(ledger: LedgerPort) -> None:
    """Raise the reason if nothing can be recorded."""
    if ledger.read_only is not None:
        raise SteleError(ledger.read_only.reason, remedy=ledger.read_only.remedy, code=ledger.read_only.code)


def state(ledger: LedgerPort) -> dict[str, Any]:
    """The ledger as the API shows it: how many entries are committed, and of these published; who witnesses them."""
    why = ledger.read_only
    said = None if why is None else {"code": why.code, "reason": why.reason, "remedy": why.remedy}
    return {"committed": ledger.size, "published": ledger.published, "read_only": said, "witnesses": ledger.witnesses()}


def publish(ledger: LedgerPort) -> None:
    """Sign what is committed, unless witnesses hold that back: then it is done as soon as they are there.

    Raises:
        SteleError: like `LedgerPort.publish`.
    """
    try:
        ledger.publish()
    except SteleError as error:
        if error.code not in {"witness.no-quorum", "witness.forked"}:
            raise
        log.warning("%s", error.reason)


def notice(places: Places) -> tuple[str, str] | None:
    """What to tell people if the ledger of a data folder was found not to fit, and what to do; by the word that the last writer left."""
    found = read_only.marked(places.ledger)
    return (f"the ledger is READ-ONLY: {found['reason']}", str(found["remedy"])) if found else None


def not_witnessed(places: Places) -> tuple[str, str] | None:
    """What to tell people if a policy asks for witnesses, and the newest checkpoint lacks their quorum."""
    if not (places.cosigning / "policy").exists():
        return None
    from stele.flow import cosigning

    with contextlib.suppress(SteleError, OSError):
        found = cosigning.standing(places)
        if found["witnesses"] and found["published"] > found["witnessed"]:
            missing = found["published"] - found["witnessed"]
            return (
                f"the newest {missing} of {found['published']} entries are published and not witnessed",
                "`stele log witnesses` says by whom",
            )
    return None


def hold(world: World, running_of: Callable[[str], Running], instances: Sequence[Instance], frozen: dict[str, Instance]) -> None:
    """Take over what runs as it is: guarded, shown, not changed."""
    for incident, instance in frozen.items():
        running_of(instance.workload).frozen[incident] = (instance, instance.release)
    for instance in instances:
        running = running_of(instance.workload)
        try:
            release = world.store.release(instance.release)
        except SteleError as error:
            log.error("%s cannot be guarded: %s", instance.id, error.reason)  # noqa: TRY400  the reason says it all
            continue
        if world.runtime.ended(instance):
            continue
        world.gate.register(instance, release.spec)
        with contextlib.suppress(SteleError):
            world.sensor.watch(instance, release.spec)
        if running.active is None or world.history(instance.workload).active_instance == instance.id:
            running.active, running.release = instance, release
