"""Whether what runs, or is to be started again, is still accepted: a key may be revoked while its releases run (docs/guide/keys.md)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from stele.flow import authority
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from pathlib import Path

    from stele.flow.places import Places
    from stele.store.layout import Layout

Stamp = tuple[tuple[int, int, int], ...]


class Standing:
    """Answers at once as long as policy, root and signatures are the files that they were. Thread-safe."""

    def __init__(self, store: Layout, places: Places) -> None:
        self._store, self._places = store, places
        self._lock = threading.Lock()
        self._stamp: Stamp = ()
        self._known: dict[str, str] = {}

    def why_not(self, digest: str) -> str:
        """Why a release may not be started; "" if it may."""
        stamp = tuple(_identity(path) for path in (self._places.policy, self._places.root, self._store.root / "index.json"))
        with self._lock:
            if stamp != self._stamp:
                self._stamp, self._known = stamp, {}
            if digest in self._known:
                return self._known[digest]
        try:
            self._store.check_signature(digest)
            reason = ""
        except SteleError as error:
            reason = error.reason
        with self._lock:
            if stamp == self._stamp:
                self._known[digest] = reason
        return reason

    def require(self, digest: str) -> None:
        """Refuse what may not be started.

        Raises:
            SteleError: what `Layout.check_signature` raises.
        """
        if self.why_not(digest):
            self._store.check_signature(digest)

    def stops(self) -> bool:
        """Whether the policy says that what is no longer accepted is stopped; one that cannot be read says nothing of it."""
        try:
            return authority.read(self._places).stop
        except SteleError:
            return False


def _identity(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)
