"""How many reports an instance may cause: repetitions become counts, floods a sum. Pure: time comes in."""

from __future__ import annotations

import msgspec

from stele.model.report import Report

WINDOW_NS = 1_000_000_000
PATHS = 20  # different reports of one kind and instance within a window


class Pace:
    """Lets the first of each through at once, and what followed within a second as one with a count.

    Beyond `PATHS` different ones a second, the rest is one report without a path: the ledger cannot be flooded.
    """

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str], tuple[int, dict[str, Report | None]]] = {}
        self._rest: dict[tuple[str, str], Report] = {}

    def take(self, report: Report, now_ns: int) -> Report | None:
        """The report, if it is to be told now; else it is counted and comes with `settle`."""
        group = (report.instance, report.kind)
        _, known = self._windows.setdefault(group, (now_ns, {}))
        name = f"{report.path}\0{report.syscall}\0{report.detail.get('what', '')}"
        if name in known:
            known[name] = _with_count(known[name] or msgspec.structs.replace(report, count=0), report.count)
            return None
        if len(known) < PATHS:
            known[name] = None
            return report
        if group not in self._rest:
            detail = {
                **report.detail,
                "more": f"more than {PATHS} different ones within a second; this is one of them: {report.path[:200]}",
            }
            self._rest[group] = msgspec.structs.replace(report, path="", count=0, detail=detail)
        self._rest[group] = _with_count(self._rest[group], report.count)
        return None

    def settle(self, now_ns: int, *, at_once: bool = False) -> list[Report]:
        """What was counted in windows that are over (or in all of them)."""
        out = []
        for group, (since, known) in list(self._windows.items()):
            if not at_once and now_ns - since < WINDOW_NS:
                continue
            del self._windows[group]
            counted = [report for report in known.values() if report is not None]
            out += counted
            if group in self._rest:
                out.append(self._rest.pop(group))
            if counted and not at_once:
                # what goes on is told once a second, not once more each time its window is new
                self._windows[group] = (now_ns, dict.fromkeys((name for name, report in known.items() if report is not None), None))
        return out

    def is_full(self, instance: str, kind: str) -> bool:
        """Whether another report of this kind would only be counted, whatever it says: then it need not be looked into."""
        return (instance, kind) in self._rest

    @property
    def is_counting(self) -> bool:
        """Whether `settle` will have something to do later."""
        return bool(self._windows)

    def forget(self, instance: str) -> None:
        """An instance is gone."""
        for group in [group for group in self._windows if group[0] == instance]:
            del self._windows[group]
        for group in [group for group in self._rest if group[0] == instance]:
            del self._rest[group]


def _with_count(report: Report, more: int) -> Report:
    return msgspec.structs.replace(report, count=report.count + more)
