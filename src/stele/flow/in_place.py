"""Updates that only change what is at paths that their base has: images spliced or made of the base's, no tree decoded as a whole."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from stele.model import tree as trees
from stele.seal import restore
from stele.seal.again import splice
from stele.seal.erofs_reader import BadImageError, ImageReader
from stele.seal.stored import Over, StoredContents
from stele.trust.digest import sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from stele.model.release import Release, Stratum
    from stele.seal.delta import quick
    from stele.store.layout import Layout


class Made(NamedTuple):
    """What was made: the number of `images`, and the tree, which is not in the store yet."""

    images: int
    tree: quick.Lines


class InPlace:
    """Builds releases from one that is here."""

    def __init__(self, store: Layout, base: Release, lines: quick.Lines) -> None:
        """From `base`, whose tree has these lines."""
        self.lines = lines
        self._store, self._base = store, base
        self._before = {stratum.name: stratum for stratum in base.strata}
        self._members: dict[str, Sequence[int]] = {}

    def nodes(self, before: Stratum, tree: quick.Lines) -> bytes:
        """The lines of a tree of the same paths for those of a stratum of the base, as a tree of their own; b"" without its image."""
        if before.name not in self._members:
            fd = self._store.open_image(before)
            if fd is None:
                return b""
            try:
                self._members[before.name] = self.lines.of(ImageReader(fd).paths())
            except BadImageError:
                return b""
            finally:
                os.close(fd)
        return tree.joined(self._members[before.name])

    def build(
        self, release: Release, apply: Callable[[Callable[[Mapping[str, bytes]], StoredContents]], quick.Applied | None]
    ) -> Made | None:
        """Make the images of `release` that the store lacks; None where that has to be done in another way.

        Args:
            release: signed, checked.
            apply: gives the tree and the new contents, of a reader of the base's.

        Raises:
            SteleError: what `apply` raises, `release.rebuild-differs`, `store.*`.
        """
        missing = [stratum for stratum in release.strata if not self._store.has_stratum(stratum)]
        if not all(s.name in self._before and self._store.has_image(self._before[s.name]) and s.nodes for s in missing):
            return None
        with contextlib.ExitStack() as stack:
            applied = apply(lambda paths: stack.enter_context(StoredContents(self._base, paths, self._store)))
            if applied is None:
                return None
            stack.callback(applied.contents.close)
            for stratum in missing:
                encoded = self.nodes(self._before[stratum.name], applied.tree)
                if sha256(encoded) != stratum.nodes:
                    return None
                if not self._splice(stratum, encoded, applied):
                    self._make(stratum, encoded, applied)
        return Made(len(missing), applied.tree)

    def _splice(self, stratum: Stratum, encoded: bytes, applied: quick.Applied) -> bool:
        """Make an image out of that of the base, where only contents of files changed; whether that was done."""
        before, puts, room = self._before[stratum.name], [], splice.LIMIT
        if before.image_size > room:
            return False
        for at in applied.changed.intersection(self._members[stratum.name]):
            old, new = trees.decode_line(self.lines.lines[at]), trees.decode_line(applied.tree.lines[at])
            alike = msgspec.structs.replace(old, size=new.size, sha256=new.sha256) == new
            room -= new.size
            if not alike or new.kind != "file" or new.link is not None or room < 0 or new.sha256 not in applied.contents:
                return False
            puts.append(splice.Put(old, new, applied.contents.read(new.sha256)))
        try:
            splice.image(before, stratum, self._store, puts, encoded, self._store)
        except splice.NotAlikeError:
            return False
        return True

    def _make(self, stratum: Stratum, encoded: bytes, applied: quick.Applied) -> None:
        """Make an image of its nodes."""
        nodes = trees.decode(encoded).nodes
        paths = {node.sha256: node.path for node in nodes if node.kind == "file" and node.size and node.link is None}
        with StoredContents(msgspec.structs.replace(self._base, strata=(self._before[stratum.name],)), paths, self._store) as own:
            restore.images([(stratum, nodes)], Over(applied.contents, own), self._store)
