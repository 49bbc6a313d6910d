"""The timeline as one HTML page that loads nothing: inline SVG, no script."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from stele.flow import chart, log_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stele.flow.timeline import Lane, Timeline

_WIDTH, _LEFT, _ROW = 1200, 150, 22
_STYLE = """body{font:14px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1240px;padding:0 1em;color:#1d1d1f;background:#fff}
h1{font-size:1.4em}h2{font-size:1.1em;margin:2em 0 .3em}svg{width:100%;height:auto}
text{font:12px ui-monospace,monospace;fill:#333}
.serves{fill:#2e7d4f}.starts{fill:#b9d8c5}.gap{fill:#c9c9cf}.axis{stroke:#ddd}.bad{fill:#b3261e;color:#b3261e}.turn{fill:#9a6700;color:#7a5200}
.good{fill:#2e7d4f;color:#22623d}.plain{fill:#555}td{padding:.1em 1em .1em 0;vertical-align:top}
td:first-child{white-space:nowrap;color:#666}footer{color:#666;margin-top:2em}"""


def draw(line: Timeline, *, origin: str) -> str:
    """The page. Whatever the ledger says is escaped."""
    title = "Timeline of " + (line.lanes[0].workload if len(line.lanes) == 1 else f"{len(line.lanes)} workloads")
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>",
        f"<p>{chart.stamp(line.begin_ns)} to {chart.stamp(line.end_ns)} UTC ({chart.long(line.end_ns - line.begin_ns)})</p>",
    ]
    for lane in line.lanes[: chart.MAX_LANES]:
        parts += [f"<h2>{escape(lane.workload)}</h2>", *_lane(lane, line), *_story(lane, line)]
    if len(line.lanes) > chart.MAX_LANES:
        parts.append(f"<p>{len(line.lanes) - chart.MAX_LANES} more, whose last change is older, are not drawn.</p>")
    parts.append(
        f"<footer>From the ledger {escape(origin)}; each entry was checked against its signed checkpoint.</footer></body></html>\n"
    )
    return "".join(parts)


def _lane(lane: Lane, line: Timeline) -> Iterator[str]:
    releases = lane.releases()
    height = _ROW * (len(releases) + 3)
    scale = chart.Scale(line.begin_ns, line.end_ns, (_WIDTH - _LEFT) // 8)
    factor = (_WIDTH - _LEFT) / max(1, line.end_ns - line.begin_ns)

    def x(time_ns: int) -> float:
        return round(_LEFT + min(max(0, time_ns - line.begin_ns), line.end_ns - line.begin_ns) * factor, 2)

    yield f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(lane.workload)}">'
    for column, text in scale.ticks():
        tick = _LEFT + column * 8
        yield f'<line class="axis" x1="{tick}" y1="16" x2="{tick}" y2="{height}"/><text x="{tick}" y="12">{escape(text)}</text>'
    for gap in line.gaps:
        at = x(gap.begin_ns)
        width = max(1, x(gap.end_ns) - at)
        yield f'<rect class="gap" x="{at}" y="{height - _ROW}" width="{width}" height="6"><title>no agent</title></rect>'
    for row, release in enumerate(releases):
        top = _ROW * (row + 1)
        yield f'<text x="0" y="{top + 13}">{escape(log_rows.short(release))}</text>'
        for span in lane.spans:
            if span.release == release:
                at = x(span.begin_ns)
                kind = "serves" if span.serves else "starts"
                said = f"{span.instance} {kind} from {chart.stamp(span.begin_ns)} for {chart.long(span.end_ns - span.begin_ns)}"
                yield f'<rect class="{kind}" x="{at}" y="{top}" width="{max(1, round(x(span.end_ns) - at, 2))}" height="16">'
                yield f"<title>{escape(said)}</title></rect>"
    top = _ROW * (len(releases) + 1) + 14
    for item in lane.items:
        sign = chart.UNICODE.marks[item.mark]
        yield f'<text class="{item.tone}" x="{x(item.time_ns)}" y="{top}">{sign}<title>{escape(item.text)}</title></text>'
    yield f'<text x="0" y="{top}">what happened</text><text x="0" y="{height - _ROW + 8}">no agent</text></svg>'


def _story(lane: Lane, line: Timeline) -> Iterator[str]:
    yield "<table>"
    for item in chart.story(lane.items, line.gaps):
        sign = chart.UNICODE.marks[item.mark]
        yield f'<tr class="{item.tone}"><td>{chart.stamp(item.time_ns)}</td><td>{sign} {escape(item.text)}</td></tr>'
    yield "</table>"
