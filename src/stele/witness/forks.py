"""What a witness that refuses a checkpoint can show instead: another one that the ledger's own key signed. Then there are two histories."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from stele.host.http_files import HttpFiles
from stele.trust import merkle, note, witnessing
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Sequence

CODE = "witness.forked"
Believed = Callable[[bytes], note.Checkpoint]


class Forks:
    """The last head of each witness that refuses what it is asked to cosign. Thread-safe."""

    def __init__(self, believed: Believed, *, timeout: float) -> None:
        """Nobody is asked yet.

        Args:
            believed: what a note says that the ledger's key signed; raises `SteleError` for any other.
            timeout: seconds in which something of an answer must come.
        """
        self._believed, self._timeout = believed, timeout
        self._shown: dict[str, note.Checkpoint] = {}
        self._lock = threading.Lock()

    def ask(self, url: str, origin: str) -> None:
        """Ask a witness for the last checkpoint that it cosigned. Only what the ledger's own key signed counts."""
        try:
            with HttpFiles(url, tries=1, stall=self._timeout) as files:
                signed = files.get(f"{witnessing.origin_hash(origin)}/checkpoint", note.MAX_NOTE)
            found = self._believed(signed) if signed is not None else None
        except SteleError:
            return
        if found is not None and found.origin == origin:
            with self._lock:
                self._shown[url] = found

    def forget(self, url: str) -> None:
        """It cosigned: what it showed before is the beginning of that."""
        with self._lock:
            self._shown.pop(url, None)

    def refuse(self, head: note.Checkpoint, prove: Callable[[int], Sequence[bytes]]) -> None:
        """Refuse the newest checkpoint of the ledger if a witness has shown one that this is not a continuation of.

        Args:
            head: all that the ledger has.
            prove: consistency proof from an earlier size to it.

        Raises:
            SteleError: `witness.forked`.
        """
        with self._lock:
            shown = dict(self._shown)
        for url, other in shown.items():
            if other.size > head.size:
                raise _forked(url, other, f"and here are {head.size}: this ledger was set back, or there is another with its key")
            if other.size and not merkle.is_consistent(
                other.size, head.size, other.root, head.root, prove(other.size) if other.size < head.size else ()
            ):
                raise _forked(url, other, "which are not the first ones here: there is another history with its key")


def _forked(url: str, other: note.Checkpoint, said: str) -> SteleError:
    return SteleError(
        f"nothing is published: the witness {url} shows a checkpoint of {other.size} entries that this ledger's key signed, {said}",
        remedy="do not go on: compare this folder with its copies; docs/guide/witness.md says how to find out which is true",
        code=CODE,
        retryable=True,  # it is asked again: what it shows then may be another
    )
