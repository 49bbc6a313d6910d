"""Sizes and durations as people write them in a spec: `16MiB`, `1500ms`. One spelling each."""

from __future__ import annotations

import re

from stele.trust.errors import SteleError

_SIZE = re.compile(r"([1-9][0-9]{0,14})(KiB|MiB|GiB|TiB)?\Z", re.ASCII)
_DURATION = re.compile(r"(0|[1-9][0-9]{0,8})(ms|s|m|h)\Z", re.ASCII)
_SIZE_FACTOR = {None: 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_DURATION_FACTOR = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}


def parse_size(text: str) -> int:
    """Bytes of a size such as `4096`, `16MiB`.

    Raises:
        SteleError: `spec.bad-size`.
    """
    match = _SIZE.match(text)
    if not match:
        raise SteleError(f"{text!r} is not a size", remedy="write bytes or a binary unit: 4096, 64KiB, 16MiB, 1GiB", code="spec.bad-size")
    return int(match[1]) * _SIZE_FACTOR[match[2]]


def parse_duration_ms(text: str) -> int:
    """Milliseconds of a duration such as `250ms`, `10s`, `5m`.

    Raises:
        SteleError: `spec.bad-duration`.
    """
    match = _DURATION.match(text)
    if not match:
        raise SteleError(
            f"{text!r} is not a duration", remedy="write a whole number and a unit: 250ms, 10s, 5m, 1h", code="spec.bad-duration"
        )
    return int(match[1]) * _DURATION_FACTOR[match[2]]
