"""A cache as it is kept: a header, the SHA-256 of its body, and the body, in MessagePack (docs/spec/stat-cache.md). Pure."""

from __future__ import annotations

from hashlib import sha256
from typing import TypeVar

import msgspec

T = TypeVar("T")


def encode(header: bytes, value: object) -> bytes:
    """As it is kept."""
    body = msgspec.msgpack.encode(value)
    return header + sha256(body).digest() + body


def decode(header: bytes, data: bytes, decoder: msgspec.msgpack.Decoder[T]) -> T | None:
    """As it was kept; None where it was not."""
    begins = len(header) + 32
    body = memoryview(data)[begins:]
    if data[:begins] != header + sha256(body).digest():
        return None
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError:
        return None
