"""The timeline in characters: bars over time, then the story in sentences. Readable without colours, and in ASCII where it must be."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from stele.flow import log_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stele.flow.timeline import Gap, Item, Lane, Span, Timeline

LABEL = 20
MAX_RELEASES = 12
MAX_LANES = 40
Line = list[tuple[str, str]]
_NS = 1_000_000_000
_STYLES = {"plain": "default", "good": "green", "turn": "yellow", "bad": "bold red"}


class Signs(NamedTuple):
    """The characters of the chart."""

    serves: str
    starts: str
    nothing: str
    agent: str
    tick: str
    marks: dict[str, str]


UNICODE = Signs("█", "░", "·", "─", "╷", {"deploy": "▶", "rollback": "↶", "incident": "✗", "failed": "!", "stopped": "■", "agent": "○"})
ASCII = Signs("#", ":", ".", "-", "|", {"deploy": ">", "rollback": "<", "incident": "x", "failed": "!", "stopped": "s", "agent": "o"})
_WORDS = {"deploy": "deploy", "rollback": "rollback", "incident": "incident", "failed": "failed", "stopped": "stopped", "agent": "no agent"}
_WEIGHT = ("deploy", "stopped", "rollback", "failed", "incident")  # the later one is shown where two fall together


class Scale:
    """Moments to columns."""

    def __init__(self, begin_ns: int, end_ns: int, columns: int) -> None:
        self.begin_ns, self.end_ns, self.columns = begin_ns, end_ns, max(10, columns)

    def column(self, time_ns: int) -> int:
        """The column of a moment, inside of the chart."""
        span = self.end_ns - self.begin_ns
        return min(self.columns - 1, max(0, (time_ns - self.begin_ns) * self.columns // span))

    def cells(self, spans: Sequence[tuple[int, int]]) -> set[int]:
        """The columns that stretches of time touch."""
        found: set[int] = set()
        for begin, end in spans:
            if end >= self.begin_ns:
                found |= set(range(self.column(begin), self.column(max(begin, end - 1)) + 1))
        return found

    def ticks(self) -> list[tuple[int, str]]:
        """Columns and labels of the time axis."""
        span = (self.end_ns - self.begin_ns) // _NS
        steps = (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 3 * 3600, 6 * 3600, 43200, 86400, 7 * 86400, 30 * 86400, 90 * 86400, 365 * 86400)
        most = max(2, self.columns // 14)
        step = next((each for each in steps if span // each <= most), max(steps[-1], span // most))
        form = "%H:%M:%S" if step < 60 else "%H:%M" if step < 43200 else "%m-%d" if step < 86400 * 30 else "%Y-%m"
        first = -(-self.begin_ns // (step * _NS)) * step
        moments = range(first, self.end_ns // _NS + 1, step)
        return [(self.column(at * _NS), _time(at, form)) for at in moments]


def _time(seconds: int, form: str) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime(form)
    except (ValueError, OverflowError, OSError):
        return "?"


def stamp(time_ns: int) -> str:
    """A moment in full, to the millisecond."""
    return _time(time_ns // _NS, "%Y-%m-%d %H:%M:%S") + f".{time_ns // 1_000_000 % 1000:03d}"


def long(nanoseconds: int) -> str:
    """A stretch of time in words."""
    seconds = nanoseconds // _NS
    if seconds < 120:
        return log_rows.took(nanoseconds)
    if seconds < 7200:
        return f"{seconds // 60} min {seconds % 60} s"
    if seconds < 2 * 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86400} days {seconds % 86400 // 3600} h"


def draw(line: Timeline, *, width: int, signs: Signs = UNICODE) -> Iterator[Line]:
    """Lines of styled parts."""
    scale = Scale(line.begin_ns, line.end_ns, width - LABEL - 1)
    yield [(f"{stamp(line.begin_ns)} to {stamp(line.end_ns)} UTC ({long(line.end_ns - line.begin_ns)})", "bold")]
    if len(line.lanes) == 1:
        yield from _one(line.lanes[0], line.gaps, scale, signs)
        return
    yield []
    yield from _axis(scale, signs)
    for lane in line.lanes[:MAX_LANES]:
        yield [_label(lane.workload, "cyan"), *_strip(lane, scale, signs)]
    if len(line.lanes) > MAX_LANES:
        yield [(f"{'':{LABEL}} and {len(line.lanes) - MAX_LANES} more, whose last change is older: name a workload", "dim")]
    yield _agent(line.gaps, scale, signs)
    yield []
    bars = "six digits of the release in its bar, | where another one begins"
    yield [(f"{signs.serves} served ({bars})   {signs.nothing} nothing served   {_legend(line.lanes, signs)}", "dim")]


def _one(lane: Lane, gaps: Sequence[Gap], scale: Scale, signs: Signs) -> Iterator[Line]:
    yield []
    yield from _axis(scale, signs)
    releases = lane.releases()
    if len(releases) > MAX_RELEASES:
        yield [(f"{'':{LABEL}} {len(releases) - MAX_RELEASES} earlier releases are not drawn", "dim")]
    for release in releases[-MAX_RELEASES:]:
        mine = [span for span in lane.spans if span.release == release]
        serves = scale.cells([(span.begin_ns, span.end_ns) for span in mine if span.serves])
        starts = scale.cells([(span.begin_ns, span.end_ns) for span in mine if not span.serves])
        cells = [signs.serves if at in serves else signs.starts if at in starts else " " for at in range(scale.columns)]
        yield [_label(log_rows.short(release) or "?", "cyan"), ("".join(cells).rstrip(), "green")]
    if nothing := _unserved(lane.spans, scale):
        yield [
            _label("nothing served", "default"),
            ("".join(signs.nothing if at in nothing else " " for at in range(scale.columns)).rstrip(), "red"),
        ]
    yield [_label("what happened", "default"), *_marks(lane.items, scale, signs)]
    yield _agent(gaps, scale, signs)
    yield []
    yield [(f"{signs.serves} served   {signs.starts} started, did not serve   {_legend([lane], signs)}", "dim")]
    yield []
    for item in story(lane.items, gaps):
        yield [
            (stamp(item.time_ns) + "  ", "dim"),
            (f"{signs.marks[item.mark]} {item.text}", _STYLES[item.tone]),
        ]


def story(items: Sequence[Item], gaps: Sequence[Gap]) -> list[Item]:
    """What happened to a workload and to the agent, in order."""
    from stele.flow.timeline import Item

    absent = [Item(time_ns=gap.begin_ns, mark="agent", tone="bad" if gap.died else "turn", text=_absence(gap)) for gap in gaps]
    return sorted([*items, *absent], key=lambda item: item.time_ns)


def _absence(gap: Gap) -> str:
    how = "it DIED" if gap.died else "it was stopped with all that ran" if gap.removed else "it was stopped"
    long_ = "since then" if gap.lasts else f"for {long(gap.end_ns - gap.begin_ns)}"
    return f"no agent {long_}: {how}" + ("" if gap.removed else "; what ran was guarded on, but nothing was recorded")


def _label(text: str, style: str) -> tuple[str, str]:
    return f"{text[: LABEL - 1]:>{LABEL}} ", style


def _axis(scale: Scale, signs: Signs) -> Iterator[Line]:
    labels, row = [" "] * (scale.columns + 12), [" "] * scale.columns
    free = 0
    for column, text in scale.ticks():
        row[column] = signs.tick
        if column >= free and column + len(text) <= scale.columns + 12:
            labels[column : column + len(text)] = text
            free = column + len(text) + 2
    yield [_label("", "default"), ("".join(labels).rstrip(), "dim")]
    yield [_label("", "default"), ("".join(row).rstrip(), "dim")]


def _unserved(spans: Sequence[Span], scale: Scale) -> set[int]:
    """Columns after the first service in which none was for a whole column."""
    serving = scale.cells([(span.begin_ns, span.end_ns) for span in spans if span.serves])
    return set(range(min(serving), scale.columns)) - serving if serving else set()


def _marks(items: Sequence[Item], scale: Scale, signs: Signs) -> Line:
    cells: dict[int, Item] = {}
    for item in sorted(items, key=lambda each: _WEIGHT.index(each.mark)):
        cells[scale.column(item.time_ns)] = item
    return [
        (signs.marks[cells[at].mark], _STYLES[cells[at].tone]) if at in cells else (" ", "default")
        for at in range(max(cells, default=-1) + 1)
    ]


def _agent(gaps: Sequence[Gap], scale: Scale, signs: Signs) -> Line:
    absent = scale.cells([(gap.begin_ns, gap.end_ns) for gap in gaps])
    return [_label("agent", "dim"), ("".join(" " if at in absent else signs.agent for at in range(scale.columns)).rstrip(), "dim")]


def _strip(lane: Lane, scale: Scale, signs: Signs) -> Line:
    """A workload on one line: its releases one after the other, with what went wrong on top."""
    cells = [" "] * scale.columns
    for at in _unserved(lane.spans, scale):
        cells[at] = signs.nothing
    before, begin = "", 0
    for span in sorted((span for span in lane.spans if span.serves), key=lambda each: each.begin_ns):
        columns = sorted(scale.cells([(span.begin_ns, span.end_ns)]))
        for at in columns:
            cells[at] = signs.serves
        if span.release != before:
            begin, before = columns[0], span.release
            text = "|" + log_rows.short(span.release)[:6]
            if len(columns) > len(text) + 1:
                cells[begin : begin + len(text)] = text
            else:
                cells[begin] = "|"
    for item in lane.items:
        if item.tone == "bad":
            cells[scale.column(item.time_ns)] = signs.marks[item.mark]
    bad = set(signs.marks.values())
    return [(cell, "bold red" if cell in bad else "green") for cell in "".join(cells).rstrip()]


def _legend(lanes: Sequence[Lane], signs: Signs) -> str:
    there = {item.mark for lane in lanes for item in lane.items}
    return "   ".join(f"{signs.marks[mark]} {_WORDS[mark]}" for mark in _WEIGHT if mark in there)
