"""What is published of a size: one signed note, made once, with the cosignatures that were collected before anybody else saw it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from stele.host import durable
from stele.ledger import tiles
from stele.trust import merkle, note
from stele.trust import root as root_of_trust
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.ledger.archive import Archive
    from stele.trust.root import Root

# Asked between signing and publishing: the signed note, its size, and what proves consistency with an older size. Returns the note
# with lines of cosignatures added, or raises to hold publication back.
Cosign = Callable[[bytes, int, Callable[[int], list[bytes]]], bytes]


class Signs(Protocol):
    """What signs checkpoints: `note.Signer`, or one that chooses by size among several."""

    @property
    def name(self) -> str:
        """The ledger's origin."""

    @property
    def verifiers(self) -> tuple[note.Verifier, ...]:
        """Its public keys."""

    def sign(self, body: bytes, seconds: int = 0) -> bytes:
        """The signed note of a checkpoint's text. Raises `SteleError` if it may not be signed."""


class HeldBack(Exception):  # noqa: N818  it says what happened
    """Nothing may be published yet. `why`: what refused."""

    def __init__(self, why: SteleError) -> None:
        super().__init__(why.reason)
        self.why = why


class Notary:
    """Signs the checkpoints of a ledger folder."""

    def __init__(self, folder: Path, signer: Signs, cosign: Cosign | None, trusted: Sequence[note.Verifier] | Root) -> None:
        self._folder, self._signer, self._cosign, self._trusted = folder, signer, cosign, trusted

    def note(self, size: int, root: bytes, seconds: int) -> bytes:
        """The note to publish: the one that was archived for this size, if there is one; else a new one, cosigned.

        The tiles of this size are written. `seconds`: when, UTC since 1970.

        Raises:
            SteleError: `ledger.damaged`: another root was signed at this size.
            HeldBack: nothing may be published yet.
            OSError: what is archived cannot be read.
        """
        head = note.Checkpoint(self._signer.name, size, root)
        with contextlib.suppress(FileNotFoundError):
            before = (self._folder / "checkpoints" / str(size)).read_bytes()
            if root_of_trust.open_checkpoint(before, self._trusted) != head:
                raise tiles.damaged(f"another root was signed at the size {size}")
            return before
        try:
            signed = self._signer.sign(head.body(), seconds)
        except SteleError as error:  # no key of ours is valid at this size
            raise HeldBack(error) from error
        return signed if self._cosign is None else self._cosigned(signed, size, self._cosign)

    def _cosigned(self, signed: bytes, size: int, cosign: Cosign) -> bytes:
        hashes = tiles.HashReader(self._folder, size)
        try:
            cosigned = cosign(signed, size, lambda old: merkle.consistency(old, size, hashes.subtree))
        except SteleError as error:
            raise HeldBack(error) from error
        if not cosigned.startswith(signed):
            raise SteleError(
                "whoever collects cosignatures changed the checkpoint",
                remedy="report it; nothing was published",
                code="ledger.write-failed",
            )
        return cosigned

    def add(self, archive: Archive, size: int, lines: bytes) -> bool:
        """Add signature lines, which the caller has verified, to what was published of a size; False where there is nothing to add.

        The archived note first, then the head, if it is still this one: a crash between the two leaves the head as it was.

        Raises:
            OSError: they may be in the archived note and not in the head.
        """
        path = self._folder / "checkpoints" / str(size)
        try:
            before = path.read_bytes()
        except FileNotFoundError:
            return False  # it was held back
        text, found = note.split_note(before)
        known = {(name, identity) for name, identity, _ in found}
        fresh = note.lines_of(text + b"\n" + lines, lambda *key: key not in known)
        if not fresh:
            return False
        head = (self._folder / "checkpoint").read_bytes()
        with archive.adding(size):
            durable.write(path, before + fresh)
        if head == before:
            durable.write(self._folder / "checkpoint", before + fresh)
        return True
