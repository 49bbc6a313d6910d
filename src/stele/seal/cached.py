"""A cache as it is kept: a header, the SHA-256 of its body, and the body, in MessagePack (docs/spec/stat-cache.md). Pure."""

from __future__ import annotations

from hashlib import sha256
from typing import TypeVar

import msgspec

T = TypeVar("T")
_encoder = msgspec.msgpack.Encoder()


def encode(header: bytes, value: object) -> bytearray:
    """As it is kept; made in one piece, because it may be large."""
    begins = len(header) + 32
    data = bytearray()
    _encoder.encode_into(value, data, begins)
    data[:begins] = header + sha256(memoryview(data)[begins:]).digest()
    return data


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
