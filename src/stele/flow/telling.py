"""Reading from a ledger what its timeline needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from stele.flow import timeline
from stele.model.event import HOST_WORKLOAD
from stele.model.selection import Selection
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.flow.log_view import LogView


def tell(view: LogView, workload: str, *, since_ns: int, until_ns: int) -> timeline.Timeline:
    """The timeline of a workload ("": of all), from one moment to another.

    Raises:
        SteleError: `workload.unknown`, and what reading raises.
    """
    names = (workload, HOST_WORKLOAD) if workload else ()
    selection = Selection(workloads=names, kinds=timeline.KINDS, until_ns=until_ns)
    found = view.entries(selection)
    line = timeline.build(found, begin_ns=since_ns, end_ns=min(until_ns, _last(view)), time_before=lambda index: _time(view, index - 1))
    if workload and not line.lanes and not any(True for _ in view.entries(Selection(workloads=(workload,)), last=1)):
        raise SteleError(
            f"the ledger has nothing about a workload {workload!r}",
            remedy="see `stele log timeline` for those that there are",
            code="workload.unknown",
        )
    return line


def _time(view: LogView, index: int) -> int:
    return view.entry(index).event.time_ns if index >= 0 else 0


def _last(view: LogView) -> int:
    return _time(view, view.size - 1)


def plain(line: timeline.Timeline) -> Any:
    """As plain data."""
    return msgspec.to_builtins(line)
