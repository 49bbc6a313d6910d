"""Following a ledger again and again, and telling of alarms (docs/spec/monitor.md)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from stele.host import proc
from stele.trust import canonical
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stele.ledger.monitor import Alarm, Look, Monitor
    from stele.witness.heads import Heads

log = logging.getLogger(__name__)
COMMAND_TIMEOUT_S = 60.0


def plain(look: Look) -> dict[str, Any]:
    """A look as plain data."""
    alarms = [{"kind": alarm.kind, "reason": alarm.reason, "evidence": list(alarm.evidence)} for alarm in look.alarms]
    return {
        "origin": look.origin, "size": look.size, "fresh": look.fresh, "witnessed": look.witnessed, "entry_time_ns": look.entry_time_ns,
        "alarms": alarms,
    }  # fmt: skip


def follow(
    monitor: Monitor,
    *,
    once: bool,
    wait: Callable[[], bool],
    tell: Callable[[dict[str, Any]], None],
    command: Sequence[str],
    heads: Heads | None = None,
) -> bool:
    """Look until told to end; with `once`, one time.

    Args:
        monitor: what looks.
        once: one look, and its errors are raised.
        wait: waits between two looks; True: end.
        tell: takes a look that found something new.
        command: argv that is run for each new alarm, with it as JSON on standard input; () for none.
        heads: what the ledger's witnesses are known to have cosigned, and say.

    Returns:
        Whether all is well: no alarm in the one look; no alarm that ends following.

    Raises:
        SteleError: `http.*`, `ledger.none` with `once`.
    """
    known: frozenset[tuple[str, str]] = frozenset()
    said = ""
    while True:
        try:
            look = monitor.look()
        except SteleError as error:
            if once:
                raise
            if error.reason != said:
                log.warning("%s", error.reason)
            said = error.reason
            # a ledger that cannot be read is not one that grows
            look = monitor.unreachable(error.reason)
        else:
            said = ""
            if heads is not None and monitor.newest:
                found = [monitor.alarm("witness-behind", each.reason, list(each.notes)) for each in heads.look(monitor.newest)]
                look = look._replace(alarms=(*look.alarms, *found))
        alarms = frozenset((alarm.kind, alarm.reason if alarm.kind != "stale" else "") for alarm in look.alarms)
        fresh = [alarm for alarm in look.alarms if (alarm.kind, alarm.reason if alarm.kind != "stale" else "") not in known]
        if fresh or look.fresh or once:
            tell(plain(look))
        for alarm in fresh:
            _run(command, look, alarm)
        if not said:
            monitor.told()
        known = alarms
        if once or look.is_fatal:
            return not look.alarms
        if wait():
            return True


def _run(command: Sequence[str], look: Look, alarm: Alarm) -> None:
    if not command:
        return
    told = {"origin": look.origin, "size": look.size, "kind": alarm.kind, "reason": alarm.reason, "evidence": list(alarm.evidence)}
    try:
        proc.run(list(command), timeout=COMMAND_TIMEOUT_S, stdin=canonical.encode(told) + b"\n")
    except SteleError as error:
        log.error("the alarm command failed: %s", error.reason)  # noqa: TRY400
