"""Instants as people write them: UTC, RFC 3339, up to nine decimals."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from stele.trust.errors import SteleError

_INSTANT = re.compile(r"(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?Z\Z", re.ASCII)


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
    return int(moment.timestamp()) * 1_000_000_000 + int((match[2] or "0").ljust(9, "0"))
