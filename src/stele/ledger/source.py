"""Where a published ledger's files are read from: a folder, or any web server (docs/spec/publishing.md). Nothing is checked here."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from typing import TYPE_CHECKING, Protocol, Self

from stele.host import below
from stele.ledger import tiles
from stele.trust import note
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from pathlib import Path

MAX_CHECKPOINT = note.MAX_NOTE
MAX_TILE = 32 * tiles.WIDTH
MAX_BUNDLE = tiles.MAX_BUNDLE
_NUMBER = r"(?:x(?!000)[0-9]{3}/(?:x[0-9]{3}/){0,5})?[0-9]{3}"
_PARTIAL = r"(?:\.p/(?:[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5]))?"
_PUBLIC = re.compile(rf"checkpoint|checkpoints/[1-9][0-9]{{0,17}}|tile/(?:entries|[0-9]|[1-5][0-9]|6[0-3])/{_NUMBER}{_PARTIAL}", re.ASCII)


def is_public(name: str) -> bool:
    """Whether this names a file of a ledger that anybody may read; nothing else in the folder is ever handed out."""
    return _PUBLIC.fullmatch(name) is not None


def limit_of(name: str) -> int:
    """More bytes than this no file of that name has."""
    if not name.startswith("tile/"):
        return MAX_CHECKPOINT
    return MAX_BUNDLE if name.startswith("tile/entries/") else MAX_TILE


def headers_of(name: str) -> tuple[str, str]:
    """Content-Type and Cache-Control of a public file."""
    kind = "application/octet-stream" if name.startswith("tile/") else "text/plain; charset=utf-8"
    # cosignatures that come late are added to what was published
    return kind, "public, max-age=31536000, immutable" if name.startswith("tile/") else "no-cache"


class Source(Protocol):
    """The files of one published ledger, by their names (docs/spec/ledger.md). A context manager; safe to use from several threads."""

    def read(self, name: str) -> bytes | None:
        """The bytes of a public file as they are now, at most `limit_of(name)`; None if there is none.

        Raises:
            SteleError: `http.*` or `ledger.damaged`: it cannot be read, or is too large.
        """

    def wider(self, name: str, width: int) -> list[int]:
        """Widths above `width` in which a full tile's or bundle's name may be there as a partial one, ascending; [] if unknown."""

    def close(self) -> None:
        """Give up what is held."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class FolderSource:
    """A ledger folder on this machine, beside a running sequencer, or a copy. No symlink below it is followed."""

    def __init__(self, folder: Path) -> None:
        """Open the folder.

        Raises:
            SteleError: `ledger.none`.
        """
        try:
            self._root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise no_ledger(str(folder)) from error
        except PermissionError as error:
            raise _not_readable(str(folder)) from error
        self.name = str(folder)

    def open(self, name: str) -> int | None:
        """A descriptor of a public regular file; None if there is none.

        Raises:
            SteleError: `ledger.damaged`.
        """
        if not is_public(name):
            return None
        try:
            fd = below.open_below(self._root, name.encode(), os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                return None
            if isinstance(error, PermissionError):
                raise _not_readable(f"{self.name}/{name}") from error
            raise tiles.damaged(f"{name} cannot be read: {error.strerror}") from error
        kind = os.fstat(fd).st_mode
        if stat.S_ISREG(kind):
            return fd
        os.close(fd)
        if stat.S_ISDIR(kind):
            return None
        raise tiles.damaged(f"{name} is not a regular file")

    def read(self, name: str) -> bytes | None:
        """See `Source`."""
        fd = self.open(name)
        if fd is None:
            return None
        limit = limit_of(name)
        try:
            with open(fd, "rb") as file:
                data = file.read(limit + 1)
        except OSError as error:
            raise tiles.damaged(f"{name} cannot be read: {error.strerror}") from error
        if len(data) > limit:
            raise tiles.damaged(f"{name} has more than {limit} bytes")
        return data

    def wider(self, name: str, width: int) -> list[int]:
        """See `Source`."""
        try:
            fd = below.open_below(self._root, f"{name}.p".encode(), os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return []
        try:
            found = [int(text) for text in os.listdir(fd) if is_public(f"{name}.p/{text}")]
        finally:
            os.close(fd)
        return sorted(number for number in found if number > width)

    def close(self) -> None:
        """See `Source`."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class HttpSource:
    """A ledger that a web server or an object store has: `stele serve`, nginx, a public bucket."""

    def __init__(self, url: str) -> None:
        """Nothing is asked yet.

        Raises:
            SteleError: `http.bad-address`.
        """
        from stele.host.http_files import HttpFiles  # the HTTP client is not needed for folders

        self._files = HttpFiles(url)
        self.name = self._files.base

    def read(self, name: str) -> bytes | None:
        """See `Source`."""
        return self._files.get(name, limit_of(name)) if is_public(name) else None

    def wider(self, name: str, width: int) -> list[int]:
        """Nobody can ask a web server for that."""
        del name, width
        return []

    def close(self) -> None:
        """See `Source`."""
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def source_of(where: str | Path) -> FolderSource | HttpSource:
    """The source that a person names: an address with http:// or https://, or else a folder.

    Raises:
        SteleError: `ledger.none`, `http.bad-address`.
    """
    if isinstance(where, str) and where.lower().startswith(("http://", "https://")):
        return HttpSource(where)
    from pathlib import Path

    return FolderSource(Path(where))


def checkpoint_of(source: Source, name: str) -> bytes:
    """The signed note that is the ledger's head now; not verified.

    Raises:
        SteleError: `ledger.none`, and what `Source.read` raises.
    """
    found = source.read("checkpoint")
    if found is None:
        raise no_ledger(name)
    return found


def prefix(source: Source, whole: str, width: int) -> bytes | None:
    """The first `width` items of a tile or bundle from whatever form of it is there: a fuller one begins with the same items.

    Args:
        source: where to look.
        whole: name of the full form.
        width: how many items (256: the full form).

    Returns:
        The bytes of exactly so many items, or None.
    """
    names = [f"{whole}.p/{width}", whole] if width < tiles.WIDTH else [whole]
    for name in names:
        if (data := _cut(whole, source.read(name), width)) is not None:
            return data
    if width < tiles.WIDTH:
        for found in source.wider(whole, width):
            if (data := _cut(whole, source.read(f"{whole}.p/{found}"), width)) is not None:
                return data
        # it may have taken their place meanwhile
        return _cut(whole, source.read(whole), width)
    return None


def _cut(whole: str, data: bytes | None, width: int) -> bytes | None:
    if data is None:
        return None
    if not whole.startswith("tile/entries/"):
        return data[: 32 * width] if len(data) >= 32 * width else None
    with contextlib.suppress(SteleError):
        entries = tiles.unpack_bundle(data)
        return tiles.pack_bundle(entries[:width]) if width <= len(entries) <= tiles.WIDTH else None
    return None


def _not_readable(where: str) -> SteleError:
    return SteleError(
        f"you may not read {where}",
        remedy="run the command as the ledger's user, or have the folder opened to you",
        code="ledger.not-readable",
    )


def no_ledger(where: str) -> SteleError:
    """The error where there is no checkpoint."""
    return SteleError(
        f"there is no published ledger at {where}",
        remedy="seal or apply something first, or name the right folder or address",
        code="ledger.none",
    )
