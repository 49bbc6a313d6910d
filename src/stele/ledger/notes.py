"""The signed checkpoints of a ledger folder: in the write-ahead log first, then in their files (docs/spec/ledger.md).

In the write-ahead log they are on disk without the file system's journal, for whose commits every append would wait, too. The files
follow by rename; what a power cut takes of them is written again from there.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from stele.host import durable, logs
from stele.ledger import regular, tiles
from stele.trust import note
from stele.trust import root as roots
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stele.ledger.archive import Archive
    from stele.trust.root import Root


_NOTE = rb"\n([1-9][0-9]{0,17})\n[0-9A-Za-z+/]{43}=\n\n(?:\xe2\x80\x94 [!-~]+ [!-~]+\n)+"


def show(folder: Path, archive: Archive, size: int, signed: bytes, *, sync: bool) -> None:
    """Write a checkpoint to the archive, then to the head. `sync`: it is nowhere else on disk.

    Raises:
        OSError: the head is as it was.
    """
    put = durable.write if sync else durable.replace
    with archive.adding(size):
        put(archive.path / str(size), signed)
    put(folder / "checkpoint", signed)


def restore(folder: Path, archive: Archive, kept: Sequence[bytes], end: int, trusted: Sequence[note.Verifier] | Root) -> dict[int, bytes]:
    """Write again what a power cut took of files. What is there and was not torn is left for others to judge.

    Returns size and root of each that was written: they must come out.

    Args:
        folder: of the ledger.
        archive: of its checkpoints.
        kept: notes of the write-ahead log, in order.
        end: how many entries there are.
        trusted: who may have signed them.

    Raises:
        SteleError: `ledger.damaged`: one is of more entries; `trust.*`: one that is to be written is not by the ledger's keys.
        OSError: it could not be written.
    """
    notes = {note.claimed(signed).size: signed for signed in kept}  # of one size the last: those before were not shown
    newest = max(notes, default=0)
    if newest > end:
        raise tiles.damaged(f"the write-ahead log ends at {end}, before the signed checkpoint of size {newest}")
    written = dict[int, bytes]()
    for size, signed in notes.items():
        if _is_lost(f"{archive.path}/{size}", signed, [signed]):
            with archive.adding(size):
                written[size] = _write(archive.path / str(size), signed, trusted)
    if newest:
        signed = regular.read(archive.path / str(newest), note.MAX_NOTE)
        if _is_lost(folder / "checkpoint", signed, [signed, *kept]):  # the name may be older than the data
            written[newest] = _write(folder / "checkpoint", signed, trusted)
    return written


def refuse_lost(rest: bytes, end: int, trusted: Sequence[note.Verifier] | Root) -> None:
    """Refuse what no power cut leaves: a checkpoint behind the last record that reads, of more entries than there are up to that.

    They were on disk before it was signed, and what was there rotted, or the disk only said that it was.

    Args:
        rest: of the write-ahead log, after the last record.
        end: how many entries there are.
        trusted: who may have signed it.

    Raises:
        SteleError: `ledger.damaged`.
    """
    for name in {trusted.origin} if isinstance(trusted, roots.Root) else {key.name for key in trusted}:
        for found in re.finditer(re.escape(name.encode()) + _NOTE, rest):
            if int(found[1]) <= end:
                continue  # of an earlier generation
            try:
                roots.open_checkpoint(found[0], trusted)
            except SteleError:
                continue  # cut off, or nobody's
            raise tiles.damaged(f"the write-ahead log ends at {end}, and behind that it has the signed checkpoint of size {int(found[1])}")


def _is_lost(path: Path | str, signed: bytes, were: Sequence[bytes]) -> bool:
    """Whether a file is missing, what was there before, or what a power cut tore of one of those that `were` there.

    One that is whole is written once more: memory may show what a disk that failed does not have.
    """
    try:
        fd = regular.opened(path, os.O_RDWR)
        try:
            found = regular.read_fd(fd, path, note.MAX_NOTE)
            if found.startswith(signed):  # cosignatures may have been added
                durable.write_at(fd, found, 0)
                return False
        finally:
            os.close(fd)
        if any(found != each and tiles.is_torn(found, each) for each in were):
            return True
        return note.unverified(found).size < note.unverified(signed).size
    except FileNotFoundError:
        return True
    except SteleError:
        return False


def _write(path: Path, signed: bytes, trusted: Sequence[note.Verifier] | Root) -> bytes:
    root = roots.open_checkpoint(signed, trusted).root
    logs.of(__name__).warning("the checkpoint %s was lost by a crash and is written again from the write-ahead log", path.name)
    durable.write(path, signed)
    return root
