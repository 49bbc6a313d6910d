"""The folder of archived checkpoints, and what the writer knows to be in it, so that opening need not list what ever was published.

`.state/archive` says which state of the folder was seen, and the newest checkpoint in that (docs/spec/ledger.md, Recovery). It is a cache:
where the folder is in any other state, it is listed.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

import msgspec

from stele.host import durable
from stele.ledger import regular
from stele.trust import canonical
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WORTH = 1024  # entries: of fewer, listing their checkpoints costs no more than leaving word
SECOND_NS = 1_000_000_000
_MAX = 4096  # bytes of `.state/archive`
_SIZE = re.compile(r"[1-9][0-9]{0,18}", re.ASCII).fullmatch


class _State(msgspec.Struct, frozen=True):
    """What changes with every name that comes or goes."""

    dev: int
    ino: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> _State:
        """From what stat says."""
        return cls(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)


class _Word(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `.state/archive` says."""

    newest: int
    dev: int
    ino: int
    mtime_ns: int
    ctime_ns: int

    @property
    def state(self) -> _State:
        """Of the folder, when it was seen."""
        return _State(self.dev, self.ino, self.mtime_ns, self.ctime_ns)


class Archive:
    """`checkpoints/` of a ledger that is written. Not thread-safe: its owner serialises."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "checkpoints"
        self._record = folder / ".state" / "archive"
        self._newest = 0
        self._state: _State | None = None  # in which there is nothing newer; None: that is not known
        with contextlib.suppress(OSError, SteleError, msgspec.ValidationError):
            said = msgspec.convert(canonical.decode(regular.read(self._record, _MAX)), _Word)
            if said.state == self._now():
                self._newest, self._state = said.newest, said.state

    def _now(self) -> _State | None:
        try:
            return _State.of(os.stat(self.path, follow_symlinks=False))
        except OSError:
            return None

    def _stamped(self) -> _State | None:
        """The folder's state with a time that no change gives it: what is changed within the same tick of the kernel's clock would show
        the same time. None where that cannot be set.
        """
        try:
            found = os.stat(self.path, follow_symlinks=False)
            time_ns = found.st_mtime_ns // SECOND_NS * SECOND_NS + int.from_bytes(os.urandom(4)) % SECOND_NS
            os.utime(self.path, ns=(found.st_atime_ns, time_ns), follow_symlinks=False)
        except OSError:
            return None
        now = self._now()
        return now if now is not None and now.mtime_ns == time_ns else None

    def newer(self, size: int) -> list[tuple[int, Path]]:
        """Size and path of every checkpoint of `size` entries or more, the smallest first."""
        if self._state is not None and self._state == self._now() and self._newest < size:
            return []
        now = self._stamped()
        found = sizes(self.path)
        self._newest, self._state = found[-1] if found else 0, now
        return [(each, self.path / str(each)) for each in found if each >= size]

    @contextlib.contextmanager
    def adding(self, size: int) -> Iterator[None]:
        """Within it a checkpoint is written, and nobody else changes the folder: if they did, it is listed at the next opening."""
        is_known = self._state is not None and self._state == self._now()
        self._state = None
        yield
        if is_known:
            self._newest, self._state = max(self._newest, size), self._stamped()

    def keep(self) -> None:
        """Leave word for the next opening. Failing to is no further harm."""
        if self._state is None or self._newest < WORTH or self._state != self._now():
            return
        with contextlib.suppress(OSError):
            durable.replace(self._record, canonical.encode({"newest": self._newest, **msgspec.structs.asdict(self._state)}), mode=0o600)


def sizes(path: Path) -> list[int]:
    """Of every checkpoint in a folder, the smallest first."""
    try:
        return sorted(int(name) for name in os.listdir(path) if _SIZE(name))
    except FileNotFoundError:
        return []
