"""Ports: what a stage needs of another without knowing it. Adapters are joined to them in `flow`."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from stele.model.release import Publication, Release, Stratum
    from stele.model.tree import Node, Tree


class Draft(Protocol):
    """A file that is being written and has no name yet; a context manager.

    Leaving it discards what was not committed, and turns an OSError of writing it into the errors of `BlobSink.draft`.
    """

    @property
    def fd(self) -> int:
        """Open for reading and writing; write at any offset. Valid until `commit` or `discard`."""

    def commit(self, digest: str) -> None:
        """Make it durable under its digest (`sha256:<hex>` of all its bytes, which the caller vouches for).

        Idempotent across drafts: committing what is there already is fine. Its name is durable when `publish` returns.
        """

    def discard(self) -> None:
        """Give it up. Fine at any time, also after `commit`."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class BlobSink(Protocol):
    """Where a seal puts what it makes. Nothing is visible before `publish`. Safe to use from several threads."""

    def draft(self, kind: Literal["blob", "image"]) -> Draft:
        """Begin a file: a blob of the layout, or an EROFS image.

        Raises:
            SteleError: `store.not-writable`, `store.full`.
        """

    def put(self, data: bytes) -> str:
        """Store a small blob durably and return its digest. Idempotent. Raises like `draft`."""

    def publish(self, publication: Publication) -> None:
        """Make a release and what belongs to it visible, atomically and durably.

        Everything that it names is committed. Idempotent; signatures and referrers are added to those that are there.
        """


class SmallBlobs(Protocol):
    """Where small blobs are put."""

    def put(self, data: bytes) -> str:
        """Keep a blob and return its digest. Idempotent."""


class ContentReader(Protocol):
    """The bytes of regular files by SHA-256 (64 hex digits). Safe to use from several threads."""

    def chunks(self, digest: str, size: int = ...) -> Iterator[bytes]:
        """The bytes of one content, in pieces of at most `size` bytes; raises if they are not what the digest says."""

    def read(self, digest: str) -> bytes:
        """One content whole; only for what is known to be small."""


class Rebuilder(Protocol):
    """Makes again from a layer what can be made from it. `layer`: its compressed bytes, seekable, already checked."""

    def image(self, layer: BinaryIO, stratum: Stratum, fd: int) -> None:
        """Write the stratum's EROFS image with its hash tree to the empty file `fd`.

        Raises:
            SteleError: `release.rebuild-differs` if it does not come out at the signed digest.
        """

    def nodes(self, layer: BinaryIO, stratum: Stratum) -> tuple[Node, ...]:
        """The nodes of the stratum, sorted. Raises like `image`."""


class StrataFiles(Protocol):
    """The two forms of a release's strata in a store, as far as they are there."""

    def open_image(self, stratum: Stratum) -> int | None:
        """A descriptor of the stratum's EROFS image, open for reading, which becomes the caller's; None if there is none.

        Its bytes are not checked.
        """

    def open_layer(self, stratum: Stratum) -> int | None:
        """The same for the stratum's layer."""

    def layer(self, stratum: Stratum) -> AbstractContextManager[BinaryIO]:
        """The stratum's layer, checked against its digest. Raises `store.damaged`, also where it is missing."""


class Unpacker(Protocol):
    """Brings back releases that a store keeps as deltas."""

    def tree(self, release: Release) -> Tree:
        """The tree of a packed release, at its signed digest. Raises `store.damaged`, `delta.*`."""

    def strata(self, release: Release) -> None:
        """Make the images that a release lacks. Raises like `tree`, and `release.rebuild-differs`, `store.full`."""
