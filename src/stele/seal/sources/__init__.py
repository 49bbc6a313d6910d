"""Sources: a folder, an image in an archive, a layout or a registry, or what a build makes becomes one tree and its contents.

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
    from collections.abc import Sequence
    from pathlib import Path

    from stele.seal.hands import Hands
    from stele.seal.sources.source import Limits, Source
    from stele.seal.sources.statcache import StatCache

_REMEDY = "give the path of a folder or an archive, or an image as registry.example.com/team/shop:1.4, in lower case and without https://"


def load(
    source: Path,
    *,
    kind: Literal["auto", "folder", "docker-archive", "oci-layout", "root-tar", "debian", "containerfile"] = "auto",
    reference: str = "",
    time: int = DEFAULT_TIME,
    limits: Limits | None = None,
    cache: StatCache | None = None,
    hands: Hands | None = None,
    platform: str = "",
    network: bool = False,
    arguments: Sequence[str] = (),
    data: bool = False,
) -> Source:
    """Read a source that is a path (`registry.load` reads an image of a registry). The result is a context manager, and must be closed.

    Args:
        source: a folder, an OCI layout (folder or archive), a docker archive, the tar archive of a root file system, a
            Containerfile, or a Debian package list; archives may be gzip or zstd.
        kind: what it is; `auto` looks: a folder with `oci-layout` and `index.json` is an OCI layout, a file named Containerfile or
            Dockerfile is built, one named `*.debian.yaml` is a package list. A folder with a Containerfile is still a folder.
        reference: which image, where it holds several: a tag or a digest.
        time: modification time for all nodes, seconds since 1970 (the spec's `time`).
        limits: on what archives may unfold to.
        platform: which of several that an image is for, as `linux/arm64`; "": this machine's. Of a root file system: what it is for.
        network: whether a Containerfile's RUN steps may use it.
        arguments: `NAME=value`, for a Containerfile's ARG lines.
        data: whether it is to be a data set, in which nothing is mounted.
        cache: what a folder's files held at an earlier seal; without it, or of an archive, everything is read.
        hands: help with reading a folder, and stay ready for what is made of it.

    Raises:
        SteleError: `seal.source-missing`, `seal.unused-option`, and those listed in docs/spec/sources.md.
    """
    if not os.path.exists(source):  # unlike Path.exists, False also where a folder on the way may not be searched
        raise SteleError(f"there is no {source}", remedy=_REMEDY, code="seal.source-missing")
    from stele.seal.sources.source import Limits, refuse_unused

    limits = limits or Limits()
    if kind == "containerfile" or (kind == "auto" and source.is_file() and _is_containerfile(source)):
        from stele.seal.sources import containerfile

        refuse_unused("a Containerfile", reference=reference)
        return containerfile.load(source, network=network, arguments=arguments, platform=platform, time=time, limits=limits, data=data)
    refuse_unused("what is not built from a Containerfile", build_network=network, build_arg=arguments)
    if kind == "debian" or (kind == "auto" and source.name.endswith(".debian.yaml")):
        from stele.seal.sources import debian

        refuse_unused("a package list", reference=reference, platform=platform)
        return debian.load(source, time=time, limits=limits)
    if source.is_dir():
        is_layout = all(os.path.isfile(source / name) for name in ("oci-layout", "index.json"))  # False also where nothing may be read
        if kind == "folder" or (kind == "auto" and not is_layout):
            from stele.seal.sources import folder

            if kind == "auto" and _is_skopeo_dir(source):
                raise _not(
                    source,
                    "is what skopeo keeps in a `dir:`; copy it to an `oci:`, or seal the bare files with --kind folder",
                )
            refuse_unused("a folder", reference=reference, platform=platform)
            return folder.load(source, time=time, cache=cache, data=data, hands=hands)
        if kind in {"docker-archive", "root-tar"}:
            raise _not(source, "is a folder, not an archive")
        from stele.seal.sources import oci_layout
        from stele.seal.sources.blobs import FolderBlobs

        return oci_layout.load(FolderBlobs(source), reference=reference, time=time, limits=limits, platform=platform, data=data)
    if kind == "folder":
        raise _not(source, "is not a folder")
    if kind == "root-tar":
        from stele.seal.sources import root_tar

        refuse_unused("a tar archive of a root file system", reference=reference)
        return root_tar.load(source, time=time, limits=limits, platform=platform, data=data)
    return _archive(source, kind, reference, time, limits, platform, data=data)


def _is_skopeo_dir(source: Path) -> bool:
    try:
        with open(source / "version", "rb") as file:
            return file.read(64).startswith(b"Directory Transport Version: ") and os.path.isfile(source / "manifest.json")
    except OSError:
        return False


def _is_containerfile(source: Path) -> bool:
    from stele.seal.sources import containerfile

    return containerfile.find(source) is not None


def _archive(source: Path, kind: str, reference: str, time: int, limits: Limits, platform: str, *, data: bool) -> Source:
    from stele.seal.sources import docker_archive, oci_layout
    from stele.seal.sources.blobs import ArchiveBlobs

    blobs = ArchiveBlobs(source, limits)
    if kind in {"auto", "docker-archive"} and "manifest.json" in blobs:
        return docker_archive.load(blobs, reference=reference, time=time, limits=limits, platform=platform, data=data)
    if kind in {"auto", "oci-layout"} and "oci-layout" in blobs:
        return oci_layout.load(blobs, reference=reference, time=time, limits=limits, platform=platform, data=data)
    blobs.close()
    raise _not(source, "holds neither the manifest.json of a docker archive nor an OCI layout (of a root file system: --kind root-tar)")


def _not(source: Path, reason: str) -> SteleError:
    return SteleError(
        f"{source} {reason}",
        remedy="give a folder, an archive of `docker save` or `podman save`, or an OCI layout; a plain tar: unpack it and seal the folder",
        code="seal.source-missing",
    )
