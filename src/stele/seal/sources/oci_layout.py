"""An OCI image layout as source: a folder, or the archive of one (`podman save --format oci-archive`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stele.seal.inode import Notes
from stele.seal.sources.image import choose, flatten, parse, read_small
from stele.seal.sources.stream import bad_archive

if TYPE_CHECKING:
    from stele.seal.sources.image import Blobs
    from stele.seal.sources.source import Limits, Source


class _Layout(msgspec.Struct, frozen=True, rename="camel"):
    image_layout_version: str


def load(blobs: Blobs, *, reference: str, time: int, limits: Limits, platform: str = "", data: bool = False) -> Source:
    """Read one image of an OCI layout; closes `blobs`. `platform`: which of several, as `linux/arm64`; "": this machine's.
    `data`: as in `tree_of`.

    Raises:
        SteleError: those of `image.choose` and `image.flatten`.
    """
    try:
        version = parse(read_small(blobs, "oci-layout"), _Layout, "oci-layout").image_layout_version
        if version.partition(".")[0] != "1":
            raise bad_archive("oci-layout", f"its version {version[:20]!r} is not 1")
        notes = Notes()
        image = choose(blobs, read_small(blobs, "index.json"), reference, notes, platform)
        return flatten(blobs, image, "oci-layout", time=time, limits=limits, notes=notes, data=data)
    finally:
        blobs.close()
