"""Contents, and which of them were asked for: what was decided by them is to be decided anew when they change."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stele.model.ports import ContentReader

CHUNK = 1 << 20


class Noted:
    """Adapter of the port `ContentReader` over another. `read_digests`: of all that was asked for (64 hex digits)."""

    def __init__(self, contents: ContentReader) -> None:
        self._contents = contents
        self.read_digests: set[str] = set()

    def chunks(self, digest: str, size: int = CHUNK) -> Iterator[bytes]:
        """See the port."""
        self.read_digests.add(digest)
        return self._contents.chunks(digest, size)

    def read(self, digest: str) -> bytes:
        """See the port."""
        self.read_digests.add(digest)
        return self._contents.read(digest)
