"""Whether what runs, or is to be started again, is still accepted: a key may be revoked while its releases run (docs/guide/keys.md)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from stele.flow import authority
from stele.store.index import damaged
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from pathlib import Path

    from stele.flow.places import Places
    from stele.store.layout import Layout

Stamp = tuple[tuple[int, int, int], ...]
_PASSING = ("ledger.", "store.damaged", "store.unknown-release")  # nothing was decided: it is looked at again


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
        reason, passing = "", False
        try:
            self._check(digest)
        except SteleError as error:
            reason, passing = error.reason, error.code.startswith(_PASSING)
        except OSError as error:
            reason, passing = f"it cannot be looked at: {error.strerror}", True
        with self._lock:
            if stamp == self._stamp and not passing:
                self._known[digest] = reason
        return reason

    def _check(self, digest: str) -> None:
        """A release, and the data sets that its instances have before them."""
        found, _ = self._store.accepted(digest)
        for item in found.spec.data:
            self._store.check_signature(item.release)

    def require(self, digest: str) -> None:
        """Refuse what may not be started.

        Raises:
            SteleError: what `Layout.check_signature` raises.
        """
        if not self.why_not(digest):
            return
        try:
            self._check(digest)
        except OSError as error:
            raise damaged(f"the release {digest[:19]} cannot be looked at: {error.strerror}") from error

    def stops(self, digest: str) -> bool:
        """Whether the policy says that a release that is no longer accepted is stopped.

        What could not be looked at is not stopped for that, and a policy that cannot be read says nothing of it.
        """
        with self._lock:
            if not self._known.get(digest):
                return False
        try:
            return authority.in_force(self._places)[0].stop
        except (SteleError, OSError):
            return False


def _identity(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)
