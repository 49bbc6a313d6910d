"""Where an image's files lie: in a folder, or in a tar archive that is read in place."""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
from typing import TYPE_CHECKING, NamedTuple

from stele.host.below import open_below
from stele.seal.sources.source import Limits
from stele.seal.sources.spool import anonymous_file, write_all
from stele.seal.sources.stream import Budget, FileReader, Hashed, bad_archive, is_folded, unfold
from stele.seal.sources.tar import TarReader
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from pathlib import Path

    from stele.seal.sources.stream import Readable

MAX_FILES = 100_000  # files of an image archive itself: a few per layer


def missing(name: str) -> SteleError:
    """The error for a file that the image names but the source lacks."""
    return SteleError(
        f"the source lacks {name[:300]}, which its image needs",
        remedy="the copy is incomplete: make it again (skopeo copy, docker save, podman save)",
        code="seal.missing-blob",
    )


class Stretch:
    """A part of a file, read from its beginning to its end."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd = fd
        self._at = offset
        self._left = size

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; b"" at the end."""
        piece = os.pread(self._fd, min(size, self._left), self._at)
        self._at += len(piece)
        self._left -= len(piece)
        return piece


class FolderBlobs:
    """The files of an OCI layout folder; no symlink below it is followed."""

    def __init__(self, folder: Path) -> None:
        self._stack = contextlib.ExitStack()
        try:
            self._root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SteleError(
                f"the OCI layout {folder} cannot be opened: {error.strerror}",
                remedy="give the path of a folder that you may read",
                code="seal.source-missing",
            ) from error
        self._stack.callback(os.close, self._root)

    def open(self, name: str) -> Readable:
        """A file from its beginning; raises SteleError `seal.missing-blob`, `seal.unreadable`."""
        try:
            fd = open_below(self._root, name.encode(), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except (OSError, ValueError) as error:
            if isinstance(error, PermissionError):
                raise SteleError(
                    f"{name} of the OCI layout cannot be read: {error.strerror}",
                    remedy="seal as a user who may read the layout, or correct its permissions",
                    code="seal.unreadable",
                ) from error
            raise missing(name) from error
        self._stack.callback(os.close, fd)
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise missing(name)
        return Stretch(fd, 0, info.st_size)

    def close(self) -> None:
        """Give up all descriptors."""
        self._stack.close()


class _Member(NamedTuple):
    offset: int
    size: int
    target: str = ""


class ArchiveBlobs:
    """The files of a tar archive, itself perhaps folded with gzip or zstd; its symlinks lead to its own members only."""

    def __init__(self, archive: Path, limits: Limits) -> None:
        try:
            fd = os.open(archive, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            raise SteleError(
                f"the archive {archive} cannot be opened: {error.strerror}",
                remedy="give the path of a file that you may read",
                code="seal.source-missing" if error.errno == errno.ENOENT else "seal.unreadable",
            ) from error
        self._fd = fd
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise bad_archive(str(archive), "it is not a regular file")
            if is_folded(os.pread(fd, 4, 0)):
                self._fd = _unfolded(fd, str(archive), limits)
                os.close(fd)
            self._members = self._index(str(archive))
        except BaseException:
            os.close(self._fd)
            raise

    def _index(self, what: str) -> dict[str, _Member]:
        size = os.fstat(self._fd).st_size
        reader = FileReader(lambda count, offset: os.pread(self._fd, count, offset), size, what)
        out: dict[str, _Member] = {}
        for entry in TarReader(reader, Budget(Limits(max_entries=MAX_FILES))):
            if entry.kind == "dir":
                continue
            name = entry.path.decode("utf-8", "surrogateescape")
            if name in out:
                raise bad_archive(what, f"it holds {name[:300]!r} twice")
            if entry.kind == "symlink":
                target = entry.target.decode("utf-8", "surrogateescape")
                out[name] = _Member(0, 0, posixpath.normpath(posixpath.join(posixpath.dirname(name), target)))
            elif entry.kind == "link":
                out[name] = _Member(0, 0, entry.target.decode("utf-8", "surrogateescape"))
            elif entry.kind == "file":
                out[name] = _Member(reader.offset, entry.size)
        return out

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def open(self, name: str) -> Readable:
        """A file from its beginning; raises SteleError `seal.missing-blob`."""
        member = self._members.get(posixpath.normpath(name))
        if member is not None and member.target:
            member = self._members.get(member.target)  # old `docker save` repeats a layer as a symlink; one step, no chains
        if member is None or member.target:
            raise missing(name)
        return Stretch(self._fd, member.offset, member.size)

    def close(self) -> None:
        """Give up the descriptor."""
        os.close(self._fd)


def _unfolded(fd: int, what: str, limits: Limits) -> int:
    """The descriptor of an anonymous file with the unfolded archive."""
    out = anonymous_file()
    try:
        budget = Budget(limits)
        folded = Hashed(Stretch(fd, 0, os.fstat(fd).st_size), wanted=False)
        for piece in unfold(folded, what):
            budget.unfolded(len(piece), folded.count, budget.bytes + len(piece))
            write_all(out, piece)
    except BaseException:
        os.close(out)
        raise
    return out
