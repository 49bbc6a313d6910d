"""The short way of sealing: of a folder that was sealed before, where only the content of plain files has changed.

What is said of unchanged files is what the last seal said of them (docs/spec/stat-cache.md, The last seal).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from stele.flow import caches
from stele.host.lookers import Looking
from stele.seal.again import last as last_seals
from stele.seal.again.changes import NotPlain
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stele.flow.asked import Asked, Way
    from stele.flow.places import Places
    from stele.host.states import Folder
    from stele.model.release import Release
    from stele.seal.again.changes import Edit
    from stele.seal.again.last import LastSeal
    from stele.seal.again.remake import Remade
    from stele.seal.codec import Compression
    from stele.seal.release import Sealed
    from stele.store.layout import Layout

TREE_LIMIT = 4 << 30  # bytes


@contextlib.contextmanager
def looking(places: Places, asked: Asked) -> Iterator[Again | None]:
    """Look at a folder that was sealed before, as long as this context lasts; None where nothing is known of it.

    Args:
        places: the data folder.
        asked: what is to be sealed, a folder.
    """
    assert isinstance(asked.source, Path)
    data = caches.read(places, asked.source, caches.LAST)
    last = last_seals.decode(data) if data else None
    if last is None:
        yield None
        return
    root = Path(os.path.realpath(asked.source))
    folders = last.listed()
    with Looking(os.fsencode(root), folders, last.states) as children:
        yield Again(places, asked, last, root, folders, children)


class Again:
    """One seal by a last one."""

    def __init__(self, places: Places, asked: Asked, last: LastSeal, root: Path, folders: list[Folder], looking: Looking) -> None:
        self._places, self._asked, self._last, self._next = places, asked, last, last
        self._root, self._folders, self._looking = root, folders, looking

    def seal(self, way: Way) -> tuple[Release, dict[str, Any]] | None:
        """Seal it; returns the release and what to tell of it, None where the whole way is to be gone. See `sealing.seal`.

        Raises:
            SteleError: `seal.source-changed`, `seal.unreadable`, `store.*`, `ledger.*`.
        """
        assert isinstance(self._asked.source, Path)
        self._way = way
        way.say(f"looking at {self._asked.source}")
        store = self._opened_store()
        if store is None:
            return None
        with contextlib.ExitStack() as stack:
            stack.enter_context(store.adding())
            stack.enter_context(store.together())
            fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            release = self._whole(store)
            tree = self._tree(store, release) if release is not None else None
            numbers = self._looking.changed() if release is not None else None
            if numbers is None or release is None or tree is None:
                return None
            try:
                made = self._make(store, release, tree, fd, numbers)
            except NotPlain:
                return None
        return made

    def _opened_store(self) -> Layout | None:
        """The store, if code, compression, spec and the sources of settings are what they were."""
        from stele.flow import opening
        from stele.seal import codec

        self._packing = cast("Compression", self._asked.compression)
        if self._last.made_with != last_seals.made_with(codec.codec_name(self._packing)):
            return None
        if hashlib.sha256(self._asked.spec).hexdigest() != self._last.spec:
            return None
        for source, digest in self._last.sources:
            try:
                if hashlib.sha256((self._asked.spec_file.parent / source).read_bytes()).hexdigest() != digest:
                    return None
            except OSError:
                return None
        return opening.open_store(self._places)

    def _whole(self, store: Layout) -> Release | None:
        """The last seal's release, if its signature holds and its images are there."""
        try:
            release = store.release(self._last.release)
        except SteleError:
            return None
        return release if all(map(store.is_whole, release.strata)) else None

    @staticmethod
    def _tree(store: Layout, release: Release) -> bytes | None:
        """The tree of a release; None where it is not there."""
        try:
            return store.blob(release.tree_digest, TREE_LIMIT)
        except SteleError:
            return None

    def _make(self, store: Layout, old: Release, tree: bytes, fd: int, numbers: Sequence[int]) -> tuple[Release, dict[str, Any]]:
        """Make, sign and publish the release of now."""
        from stele.seal import bom_identity
        from stele.seal import release as releases
        from stele.seal.again import changes, remake

        changed, kept = changes.find(fd, self._last, self._folders, numbers)
        remade = remake.tree(tree, self._last, changed, kept, os.fstat(fd))
        looked = self._examined(remade, old)
        self._way.say(f"sealing {self._last.told.paths} paths, of which {len(remade.edits)} changed")
        from stele.host.beside import Beside

        with Beside(lambda: releases.keep_pieces(store, remade.pieces()) if remade.edits else releases.keep_tree(store, tree)) as keeping:
            table = remake.table(remade, self._last, old, fd, store, store, self._packing)
            described = keeping.result()
        sealed = releases.assemble(old.spec, store, described, table, compression=self._packing, platform=old.platform)
        release = sealed.release
        more = sum(edit.new.size - edit.old.size for edit in remade.edits)
        self._next = msgspec.structs.replace(
            self._last,
            release=release.digest,
            states=changes.patched(self._last.states, changed, kept, self._way.begun_ns),
            runs=remade.runs.tobytes(),
            parts=remade.parts,
            bom=bom_identity.renamed(self._last.bom, old.spec, old.tree_digest, release.tree_digest),
            told=msgspec.structs.replace(self._last.told, bytes=self._last.told.bytes + more),
        )
        told = self._next.told
        # while the disk is waited for; should the release not come to be, the next seal goes the whole way
        with Beside(self._meanwhile) as keeping:
            made_from = self._publish(store, sealed)
            keeping.result()
        return release, {
            "paths": told.paths,
            "bytes": told.bytes,
            "sbom": {"packages": told.packages},
            "secrets": {**looked, "told": told.findings, "allowed": told.allowed},
            "provenance": made_from,
            "notes": told.notes,
            "warnings": told.warnings,
        }

    def _examined(self, remade: Remade, old: Release) -> dict[str, int]:
        """Look for credentials in what changed.

        Raises:
            NotPlain: there may be one: the whole way says so as it should be said.
        """
        if not remade.edits:
            return {"looked_at": 0, "bytes": 0}
        from stele.model.tree import Tree
        from stele.seal import secrets
        from stele.seal.contents import Contents, InFolder

        def place(edit: Edit) -> bytes | InFolder:
            return edit.changed.data if edit.changed.data is not None else InFolder(edit.new.path, edit.new.size)

        root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with contextlib.closing(Contents({edit.new.sha256: place(edit) for edit in remade.edits}, folder=root)) as contents:
            report = secrets.scan(Tree(tuple(edit.new for edit in remade.edits)), contents, old.spec)
        if report.refused or report.told or any(not item.place.startswith("spec:") for item in report.allowed):
            raise NotPlain
        return {"looked_at": report.files, "bytes": report.size}

    def _meanwhile(self) -> None:
        from stele.flow import opening

        assert isinstance(self._asked.source, Path)
        caches.keep(self._places, self._asked.source, caches.LAST, last_seals.encode(self._next))
        opening.prepare()

    def _publish(self, store: Layout, sealed: Sealed) -> dict[str, Any]:
        from stele.flow import attesting
        from stele.seal.secret_rules import VERSION
        from stele.seal.sign import sign
        from stele.store import taking_back

        self._way.say("signing")
        came_from = attesting.From(kind="folder", names=self._names)
        made_from = attesting.materials(self._asked, came_from, [source for source, _ in self._last.sources], sealed.release)
        looked = {"rules": VERSION, "told": len(self._last.told.findings), "allowed": len(self._last.told.allowed)}
        new = attesting.attach(
            sealed.release, came_from, self._asked,
            store=store, key=self._way.key, bom=self._next.bom, made_from=made_from, looked=looked, now=int(time.time()),
        )  # fmt: skip
        with taking_back.published(store, sign(sealed._replace(referrers=(*sealed.referrers, *new)), self._way.key, store)):
            self._way.record(sealed.release)
        return attesting.commit_of(made_from)

    def _names(self) -> list[bytes]:
        """Paths of all that is no folder; what is a file or a symlink is told by those who look at them."""
        return [folder.path + b"/" + name if folder.path else name for folder in self._folders for name in folder.listed()]
