"""The release: one sealed version of a workload, named by its OCI manifest digest (docs/spec/release.md)."""

from __future__ import annotations

import msgspec

from stele.model.spec import Spec

LABEL_FORMAT = "dev.stele.format"
LABEL_SPEC = "dev.stele.spec"
LABEL_TREE = "dev.stele.tree"
LABEL_STRATA = "dev.stele.strata"
ANNOTATION_WORKLOAD = "dev.stele.workload"
FORMAT = "0"


class Descriptor(msgspec.Struct, frozen=True, kw_only=True):
    """An OCI descriptor: what is named by digest, how large it is (bytes), and its media type."""

    media_type: str
    digest: str
    size: int


class Stratum(msgspec.Struct, frozen=True, kw_only=True):
    """One slice of the tree in its two forms.

    `diff_id`: SHA-256 of the uncompressed tar. `layer`: the compressed blob. `image`: SHA-256 of the EROFS image
    file as it is mounted (data of `data_size` bytes, then its dm-verity hash tree); `image_size`: bytes of the whole
    file. `verity_root`: 64 hex digits of the dm-verity root hash over the first `data_size` bytes.
    """

    name: str
    diff_id: str
    layer: Descriptor
    image: str
    image_size: int
    data_size: int
    verity_root: str


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """A release, as read from its manifest and config (both already checked against their digests)."""

    digest: str
    workload: str
    spec: Spec
    tree_digest: str
    strata: tuple[Stratum, ...]
    config_digest: str
    manifest_size: int
