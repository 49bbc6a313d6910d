r"""Canonical JSON: the one spelling of every record that is hashed or signed (docs/spec/canonical.md).

Sorted keys, no white space, ASCII with \u escapes, integers only (no floats), no duplicate keys.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any, TypeVar

import msgspec

from stele.trust.errors import SteleError

T = TypeVar("T", bound=msgspec.Struct)
type_ok = (str, int, bool, type(None))
MAX_SAFE_INT = 2**63 - 1


def _bad(reason: str) -> SteleError:
    return SteleError(
        f"not canonical JSON: {reason}",
        remedy="the file was altered or was not written by Stele; get it again from its source",
        code="trust.not-canonical",
    )


def _pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(items)
    if len(out) != len(items):
        raise _bad("a key appears twice")
    return out


# made once: making them costs as much as using them. Cycles end at the depth that `check` allows
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False, check_circular=False)
_DECODER = json.JSONDecoder(object_pairs_hook=_pairs)
# five times as fast, and the same wherever what it gives is ASCII without DEL: it escapes neither
_FAST = msgspec.json.Encoder(order="sorted")


def check(value: Any, depth: int = 0) -> None:
    """Refuse what has no spelling. `depth`: in how many others it lies. Raises like `encode`."""
    if depth > 64 and isinstance(value, dict | list | tuple):
        raise _bad("nested deeper than 64")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise _bad("a key is not a string")
            kind = type(inner)
            if kind is not str and (kind is not int or not -MAX_SAFE_INT <= inner <= MAX_SAFE_INT):  # most are either
                check(inner, depth + 1)
    elif isinstance(value, int):
        if not -MAX_SAFE_INT <= value <= MAX_SAFE_INT:
            raise _bad("an integer is larger than 63 bits")
    elif isinstance(value, (list, tuple)):
        for inner in value:
            if type(inner) is not str:
                check(inner, depth + 1)
    elif not isinstance(value, type_ok):
        raise _bad(f"{type(value).__name__} is not allowed")


def encode(value: Any) -> bytes:
    """Encode plain Python data (dict, list, str, int, bool, None) canonically.

    Raises:
        SteleError: `trust.not-canonical` for floats, huge integers or other types.
    """
    check(value)
    try:
        raw = _FAST.encode(value)
    except (TypeError, ValueError):  # half a surrogate pair, or a subclass that it does not know
        raw = b"\x7f"
    if raw.isascii() and b"\x7f" not in raw:
        return raw
    return _ENCODER.encode(value).encode("ascii")


def decode(data: bytes) -> Any:
    """Decode canonical JSON; refuses every other spelling of the same value.

    Raises:
        SteleError: `trust.not-canonical`.
    """
    try:
        # a doubled key, and whatever else the fast one is lax about, does not come out as it went in
        value = msgspec.json.decode(data) if b"\\" not in data else _DECODER.decode(data.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise _bad(str(error)) from error
    if encode(value) != data:
        with contextlib.suppress(ValueError, RecursionError):
            _DECODER.decode(data.decode("ascii"))  # which says what, if it is a key
        raise _bad("decoding and encoding again gives other bytes")
    return value


def encode_record(record: msgspec.Struct) -> bytes | None:
    """What `encode` makes of a record's fields as a dict; None where that must be asked. All values were checked."""
    try:
        raw = _FAST.encode(record)
    except (TypeError, ValueError):
        return None
    return raw if raw.isascii() and b"\x7f" not in raw else None


def decode_record(data: bytes, decoder: msgspec.json.Decoder[T]) -> T | None:
    """A record that is spelled canonically; None where `decode` must say what it is. What a field of any type holds is for `check`."""
    if b"\\" in data:
        return None
    try:
        record = decoder.decode(data)
        return record if _FAST.encode(record) == data and data.isascii() and b"\x7f" not in data else None
    except (ValueError, TypeError, RecursionError):
        return None
