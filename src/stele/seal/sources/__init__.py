"""Sources: a folder, a docker archive or an OCI layout becomes one tree and its contents.

Each kind of source is one module with one `load`. They read; they never write outside one anonymous temporary file,
never extract, never follow a symlink of the source, and refuse what cannot be represented. They know nothing of strata,
releases or the store. Called by `flow`; the rules that they share are in `seal.normalise` and docs/spec/sources.md.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from stele.model.spec import DEFAULT_TIME
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from pathlib import Path

    from stele.seal.sources.source import Limits, Source
    from stele.seal.sources.statcache import StatCache


def load(
    source: Path,
    *,
    kind: Literal["auto", "folder", "docker-archive", "oci-layout"] = "auto",
    reference: str = "",
    time: int = DEFAULT_TIME,
    limits: Limits | None = None,
    cache: StatCache | None = None,
) -> Source:
    """Read a source. The result is a context manager, and must be closed.

    Args:
        source: a folder, an OCI layout (folder or archive), or a docker archive; archives may be gzip or zstd.
        kind: what it is; `auto` looks (a folder with `oci-layout` and `index.json` is an OCI layout).
        reference: which image, where it holds several: a tag or a digest.
        time: modification time for all nodes, seconds since 1970 (the spec's `time`).
        limits: on what archives may unfold to.
        cache: what a folder's files held at an earlier seal; without it, or of an archive, everything is read.

    Raises:
        SteleError: `seal.source-missing`, and those listed in docs/spec/sources.md.
    """
    if not os.path.exists(source):  # unlike Path.exists, False also where a folder on the way may not be searched
        raise SteleError(f"there is no {source}", remedy="give the path of a folder or an archive", code="seal.source-missing")
    if source.is_dir():
        is_layout = (source / "oci-layout").is_file() and (source / "index.json").is_file()
        if kind == "folder" or (kind == "auto" and not is_layout):
            from stele.seal.sources import folder

            _no_reference(reference)
            return folder.load(source, time=time, cache=cache)
        if kind == "docker-archive":
            raise _not(source, "is a folder, not an archive")
        from stele.seal.sources import oci_layout
        from stele.seal.sources.blobs import FolderBlobs
        from stele.seal.sources.source import Limits

        return oci_layout.load(FolderBlobs(source), reference=reference, time=time, limits=limits or Limits())
    if kind == "folder":
        raise _not(source, "is not a folder")
    return _archive(source, kind, reference, time, limits)


def _archive(source: Path, kind: str, reference: str, time: int, limits: Limits | None) -> Source:
    from stele.seal.sources import docker_archive, oci_layout
    from stele.seal.sources.blobs import ArchiveBlobs
    from stele.seal.sources.source import Limits

    limits = limits or Limits()
    blobs = ArchiveBlobs(source, limits)
    if kind in {"auto", "docker-archive"} and "manifest.json" in blobs:
        return docker_archive.load(blobs, reference=reference, time=time, limits=limits)
    if kind in {"auto", "oci-layout"} and "oci-layout" in blobs:
        return oci_layout.load(blobs, reference=reference, time=time, limits=limits)
    blobs.close()
    raise _not(source, "holds neither the manifest.json of a docker archive nor an OCI layout")


def _no_reference(reference: str) -> None:
    if reference:
        raise SteleError(
            "a folder holds no images to choose from by --reference",
            remedy="leave --reference out, or give an archive or a layout",
            code="seal.source-missing",
        )


def _not(source: Path, reason: str) -> SteleError:
    return SteleError(
        f"{source} {reason}",
        remedy="give a folder, an archive of `docker save` or `podman save`, or an OCI layout; a plain tar: unpack it and seal the folder",
        code="seal.source-missing",
    )
