"""Writing DER (X.690): just what our own requests and key files are made of. Pure."""

from __future__ import annotations


def element(tag: int, *parts: bytes) -> bytes:
    """An element with what it is made of."""
    body = b"".join(parts)
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + body


def integer(value: int) -> bytes:
    """An INTEGER that is not negative."""
    return element(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))
