"""The contents of a release that is in the store, out of its EROFS images, or its layers where no image is there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from typing import TYPE_CHECKING, Self

from stele.seal import rebuild
from stele.seal.contents import CHUNK, Contents
from stele.seal.erofs_reader import BadImageError, ImageReader
from stele.seal.sources.spool import Spool
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from stele.model.ports import ContentReader, StrataFiles
    from stele.model.release import Release, Stratum
    from stele.model.tree import Tree
    from stele.seal.erofs_layout import Piece


def _lost(digest: str, why: str) -> SteleError:
    return SteleError(
        f"the store is damaged: a content of {digest[:12]} {why}",
        remedy="copy the release into the store again from where it is whole, or seal it again",
        code="store.damaged",
    )


class StoredContents:
    """Adapter of the port `ContentReader`; a context manager that gives up what it opened.

    Every content is hashed while it streams. Images are read where they are; a layer is unpacked, once, into a temporary file
    when a content is asked for that no image has.
    """

    def __init__(self, release: Release, paths: Mapping[str, bytes], files: StrataFiles) -> None:
        """Of `release`. `paths`: the contents that may be asked for, by SHA-256 (hex), each with a path that has it."""
        self._paths = paths
        self._files = files
        self._left = list(release.strata)  # not opened yet; the last first: settings
        self._layers: list[Stratum] = []
        self._images: list[ImageReader] = []
        self._places: dict[str, tuple[ImageReader, tuple[Piece, ...]]] = {}
        self._unpacked: Contents | None = None
        self._lock = threading.RLock()

    @classmethod
    def of(cls, release: Release, tree: Tree, files: StrataFiles) -> Self:
        """All contents of `release`, whose checked tree is `tree`."""
        paths: dict[str, bytes] = {}
        for node in tree.files():
            if node.size:
                paths.setdefault(node.sha256, node.path)
        return cls(release, paths, files)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __contains__(self, digest: object) -> bool:
        return digest in self._paths

    def close(self) -> None:
        """Give up every file."""
        with self._lock:
            for image in self._images:
                os.close(image.fd)
            if self._unpacked is not None:
                self._unpacked.close()
            self._images, self._places, self._unpacked = [], {}, None

    def chunks(self, digest: str, size: int = CHUNK) -> Iterator[bytes]:
        """The bytes of one content, in pieces of at most `size` bytes.

        Raises:
            SteleError: `store.damaged`, at the end; what was yielded is worthless then.
            KeyError: the release has no such content.
        """
        with self._lock:
            found = self._find(digest)
        if isinstance(found, Contents):
            yield from found.chunks(digest, size)
            return
        image, pieces = found
        state = hashlib.sha256()
        for piece in pieces:
            done = 0
            while done < piece.size:
                data = image.read(piece, done, size)
                if not data:
                    raise _lost(digest, "is cut short")
                state.update(data)
                done += len(data)
                yield data
        if state.hexdigest() != digest:
            raise _lost(digest, "has other bytes in the store")

    def read(self, digest: str) -> bytes:
        """One content whole; only for what is known to be small. Raises like `chunks`."""
        return b"".join(self.chunks(digest))

    def _find(self, digest: str) -> tuple[ImageReader, tuple[Piece, ...]] | Contents:
        known = self._places.get(digest)
        if known is not None:
            return known
        path = self._paths[digest]
        try:
            for image in self._opened():
                pieces = image.find(path)
                if pieces is not None:
                    self._places[digest] = image, pieces
                    return image, pieces
        except (BadImageError, OSError) as error:
            raise _lost(digest, f"cannot be read ({error})") from error
        if self._unpacked is None or digest not in self._unpacked:
            self._unpack()
        if self._unpacked is None or digest not in self._unpacked:
            raise _lost(digest, "is in no image and no layer")
        return self._unpacked

    def _opened(self) -> Iterator[ImageReader]:
        """Images that are open, then those that are opened now."""
        yield from list(self._images)
        while self._left:
            stratum = self._left.pop()
            fd = self._files.open_image(stratum)
            if fd is None:
                self._layers.append(stratum)
                continue
            self._images.append(ImageReader(fd))
            yield self._images[-1]

    def _unpack(self) -> None:
        """Unpack all layers whose images are not there."""
        spool = Spool()
        try:
            for stratum in self._layers:
                with self._files.layer(stratum) as layer:
                    for entry, data in rebuild.members(layer, stratum):
                        if entry.kind == "file":
                            spool.add(data, entry.size)
        except BaseException:
            spool.close()
            raise
        self._unpacked = Contents(spool.places, spool=spool.fd)


class Over:
    """Contents of which some are taken from `new`, the rest from `old`. Adapter of the port `ContentReader`."""

    def __init__(self, new: Contents, old: ContentReader) -> None:
        self._new = new
        self._old = old

    def _of(self, digest: str) -> ContentReader:
        return self._new if digest in self._new else self._old

    def chunks(self, digest: str, size: int = CHUNK) -> Iterator[bytes]:
        """See the port."""
        return self._of(digest).chunks(digest, size)

    def read(self, digest: str) -> bytes:
        """See the port."""
        return self._of(digest).read(digest)

    def close(self) -> None:
        """Give up the new ones; whose the old ones are, gives them up."""
        with contextlib.suppress(OSError):
            self._new.close()
