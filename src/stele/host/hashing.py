"""The digest of an open file, whole, in bounded memory."""

from __future__ import annotations

import hashlib
import os

_PIECE = 1 << 20


def hash_fd(fd: int) -> tuple[str, int]:
    """Digest and size in bytes of an open file, read from its beginning."""
    state = hashlib.sha256()
    buffer = bytearray(_PIECE)
    view = memoryview(buffer)
    at = 0
    while count := os.preadv(fd, [buffer], at):
        state.update(view[:count])
        at += count
    return "sha256:" + state.hexdigest(), at
