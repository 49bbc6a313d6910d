"""Instants as people write them: UTC, RFC 3339, up to nine decimals; for looking back also days, and how long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from stele.trust.errors import SteleError

_INSTANT = re.compile(r"(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?Z\Z", re.ASCII)
_ABROAD = re.compile(r"(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?)([+-])(\d{2}):([0-5]\d)\Z", re.ASCII)
_AGO = re.compile(r"([1-9]\d{0,5})(s|m|h|d|w)\Z", re.ASCII)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}\Z", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_NS = 1_000_000_000


def parse_instant(text: str) -> int:
    """Nanoseconds since 1970 of `2026-03-01T12:00:00.5Z`.

    Raises:
        SteleError: `prove.bad-instant`.
    """
    match = _INSTANT.match(text)
    try:
        if match is None:
            raise ValueError
        moment = datetime.strptime(match[1], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    except ValueError as error:
        raise SteleError(
            f"{text[:60]!r} is not an instant in UTC",
            remedy="write it like 2026-03-01T12:00:00Z, with up to nine decimals",
            code="prove.bad-instant",
        ) from error
    return int(moment.timestamp()) * _NS + int((match[2] or "0").ljust(9, "0"))


def parse_when(text: str, now_ns: int) -> int:
    """Nanoseconds since 1970 of an instant (`Z` or an offset), a day in UTC (`2026-03-01`: its beginning), or `2h` ago (s, m, h, d, w).

    Raises:
        SteleError: `log.bad-time`.
    """
    if found := _AGO.match(text):
        return max(0, now_ns - int(found[1]) * _SECONDS[found[2]] * _NS)
    try:
        if found := _ABROAD.match(text):
            offset = (int(found[3]) * 3600 + int(found[4]) * 60) * (1 if found[2] == "+" else -1)
            return parse_instant(found[1] + "Z") - offset * _NS
        return parse_instant(f"{text}T00:00:00Z" if _DAY.match(text) else text)
    except SteleError as error:
        raise SteleError(
            f"{text[:60]!r} is not a time",
            remedy="write 2h (ago; s, m, h, d, w), a day in UTC like 2026-03-01, or an instant like 2026-03-01T12:00:00Z",
            code="log.bad-time",
        ) from error
