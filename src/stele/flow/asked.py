"""What is asked of a seal, and how it is to be made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stele.model.reference import Reference
    from stele.model.release import Release
    from stele.trust.release_key import ReleaseSigner

SourceKind = Literal["auto", "folder", "docker-archive", "oci-layout", "root-tar", "debian", "containerfile"]
Compression = Literal["zstd", "gzip", "none"]


_READ = (1 << 20) + 1  # bytes of a spec: one more than it may have, so that its parser sees that it is too large


class Asked(msgspec.Struct, frozen=True):
    """What was asked of a seal.

    `source`: a path, an image in a registry, or the name of a release. `spec`: the bytes of `spec_file`, which is read once, as what was
    hashed must be what was sealed, and a pipe gives them once only. `started`: seconds since 1970.
    """

    source: Path | Reference | str
    spec_file: Path
    spec: bytes
    compression: str
    started: int


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to seal. `kind`, `reference`, `platform`, `network`, `arguments`: see `stele.seal.sources.load`.

    `plain_http`: no TLS to a registry. `compression`: of the layers. `paranoid`: read every file, make every stratum, whatever is known.
    `key`: what signs (see `signers.open_signer`).
    """

    kind: str = "auto"
    reference: str = ""
    platform: str = ""
    network: bool = False
    arguments: tuple[str, ...] = ()
    plain_http: bool = False
    compression: str = "zstd"
    paranoid: bool = False
    key: str = ""


def read_spec(path: Path) -> bytes:
    """The bytes of a spec; of one that is too large (a device without end, say) only so many that it is seen to be.

    Raises:
        SteleError: `spec.unreadable`.
    """
    try:
        with path.open("rb") as file:
            return file.read(_READ)
    except OSError as error:
        raise SteleError(
            f"the spec {path} cannot be read: {error.strerror}", remedy="name it with -f; `stele init` writes one", code="spec.unreadable"
        ) from error


class Way(msgspec.Struct, frozen=True):
    """How a seal goes.

    `key`: signs. `begun_ns`: when it began, UTC. `say`: told of each step. `record`: commits `release.sealed`.
    """

    options: Options
    key: ReleaseSigner
    begun_ns: int
    say: Callable[[str], None]
    record: Callable[[Release], None]
