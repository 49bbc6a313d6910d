"""What a source yields: one tree, its contents, and what is known about where they came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, Self

import msgspec

from stele.model.ports import ContentReader
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from contextlib import ExitStack
    from types import TracebackType

    from stele.model.tree import Tree

Kind = Literal["folder", "docker-archive", "oci-layout", "registry", "root-tar", "debian", "containerfile", "release"]


class Limits(msgspec.Struct, frozen=True):
    """Bounds on what an archive may unfold to.

    `max_bytes`: of all files of all layers together. `max_entries`: of all layers together. `max_extensions`:
    bytes of all long names and xattrs together (they are kept in memory). `max_ratio`: unfolded bytes per compressed byte
    of a layer, checked beyond `free_bytes` unfolded bytes.
    """

    max_bytes: int = 64 << 30
    max_entries: int = 1_000_000
    max_extensions: int = 256 << 20
    max_ratio: int = 200
    free_bytes: int = 256 << 20


class Defaults(msgspec.Struct, frozen=True):
    """What an image's own configuration offers for a spec; nothing of it is sealed by itself."""

    command: tuple[str, ...] = ()
    env: dict[str, str] = {}
    user: str = ""
    workdir: str = ""


class Input(msgspec.Struct, frozen=True):
    """Something that a source was made of. `uri`: what it is; `digest`: `sha256:<hex>`, "" where it has none."""

    uri: str
    digest: str


class Held(ContentReader, Protocol):
    """Contents that hold descriptors."""

    def close(self) -> None:
        """Give them up."""


class Source(msgspec.Struct, frozen=True):
    """A source as read. A context manager: leaving it gives up the contents' descriptors and temporary file, and `drafts`, if there are.

    `input_digest`: the OCI manifest's digest, for a docker archive the image id; "" for a folder, whose identity is
    the tree's. `platform`: of an image, as `linux/amd64`. `inputs`: what it was made of, where that is
    known. `notes`: what a person should be told, one line each.
    """

    tree: Tree
    contents: Held
    kind: Kind
    input_digest: str = ""
    reference: str = ""
    platform: str = ""
    defaults: Defaults = Defaults()
    inputs: tuple[Input, ...] = ()
    notes: tuple[str, ...] = ()
    drafts: ExitStack | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.contents.close()
        if self.drafts is not None:
            self.drafts.__exit__(kind, error, trace)


def refuse_unused(what: str, **given: object) -> None:
    """Refuse options (by their names, `_` for `-`) that mean nothing for `what`: who gave one would get another release than they think.

    Raises:
        SteleError: `seal.unused-option`.
    """
    for name, value in given.items():
        if value:
            raise SteleError(
                f"--{name.replace('_', '-')} means nothing for {what}",
                remedy="leave it out; if the source was taken for something else than it is, say what it is with --kind",
                code="seal.unused-option",
            )
