"""What a Python byte code file says of its source (PEP 552). Pure."""

from __future__ import annotations

PYC_HEADER = 16  # bytes: magic, flags, source mtime, source size (PEP 552)


def compiled_from(head: bytes) -> tuple[int, int] | None:
    """(mtime, size) of the source from the first 16 bytes of a file, if these can be a .pyc that checks times."""
    if len(head) < PYC_HEADER or head[2:4] != b"\r\n" or head[4:8] != b"\0\0\0\0":
        return None
    return int.from_bytes(head[8:12], "little"), int.from_bytes(head[12:16], "little")
