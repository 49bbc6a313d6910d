"""The ledger's entries in other people's formats: JSON lines, CSV (RFC 4180), CloudEvents 1.0 (docs/spec/export.md). Pure."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from stele.flow import log_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stele.model.event import Entry

COLUMNS = ("index", "time", "workload", "seq", "kind", "actor", "person", "release", "instance", "incident", "data", "sealed")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


def write(entries: Iterable[tuple[int, Entry]], form: str, *, origin: str) -> Iterator[str]:
    """Pieces of the export. Entries carry what is to be shown: whoever opened private fields meant them to be exported."""
    return {"jsonl": _lines, "csv": _csv, "cloudevents": _cloud_lines, "cloudevents-batch": _cloud_batch}[form](entries, origin)


def instant(time_ns: int) -> str:
    """RFC 3339 in UTC with nine decimals."""
    moment = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns % 1_000_000_000:09d}Z"


def _dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _lines(entries: Iterable[tuple[int, Entry]], origin: str) -> Iterator[str]:
    del origin
    for index, entry in entries:
        yield _dumps(log_rows.plain(index, entry)) + "\n"


def source(origin: str) -> str:
    """A ledger's name as the source of its events: a URI-reference, whatever is in the name."""
    return "//" + quote(origin, safe="/:@-._~!$&'()*,;=")


def cloud_event(index: int, entry: Entry, origin: str) -> dict[str, Any]:
    """One entry as a CloudEvent, in structured form."""
    event = entry.event
    made = {
        "specversion": "1.0",
        "id": str(index),
        "source": source(origin),
        "type": f"stele.{event.kind}",
        "time": instant(event.time_ns),
        "datacontenttype": "application/json",
        "sequence": f"{index:020d}",
        "actor": event.actor,
        "data": log_rows.plain(index, entry),
    }
    if event.workload:
        made["subject"] = event.workload
    return made


def _cloud_lines(entries: Iterable[tuple[int, Entry]], origin: str) -> Iterator[str]:
    for index, entry in entries:
        yield _dumps(cloud_event(index, entry, origin)) + "\n"


def _cloud_batch(entries: Iterable[tuple[int, Entry]], origin: str) -> Iterator[str]:
    before = "["
    for index, entry in entries:
        yield before + "\n" + _dumps(cloud_event(index, entry, origin))
        before = ","
    yield "\n]\n" if before == "," else "[]\n"


def harmless(text: str) -> str:
    """A cell that no spreadsheet takes for a formula: an apostrophe goes before what begins like one, and before what begins with one."""
    return "'" + text if text.startswith(_FORMULA) else text


def _csv(entries: Iterable[tuple[int, Entry]], origin: str) -> Iterator[str]:
    del origin
    held = io.StringIO(newline="")
    writer = csv.writer(held, dialect="excel", lineterminator="\r\n", strict=True)

    def row(cells: Iterable[object]) -> str:
        writer.writerow(cells)
        text = held.getvalue()
        held.seek(0)
        held.truncate()
        return text

    yield row(COLUMNS)
    for index, entry in entries:
        event, facts = entry.event, log_rows.plain(index, entry)
        named = [str(facts["data"].get(key) or "") for key in ("person", "release", "instance", "incident")]
        texts = [event.kind, event.actor, *named, _dumps(facts["data"]), " ".join(facts["sealed"])]
        yield row([index, instant(event.time_ns), harmless(event.workload), entry.seq, *map(harmless, texts)])
