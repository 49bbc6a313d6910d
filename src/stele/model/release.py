"""The release: one sealed version of a workload, named by its OCI manifest digest (docs/spec/release.md)."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from stele.model import spec as specs
from stele.model.spec import Spec
from stele.trust import canonical
from stele.trust.digest import parse_digest, sha256
from stele.trust.errors import SteleError

LABEL_FORMAT = "dev.stele.format"
LABEL_SPEC = "dev.stele.spec"
LABEL_TREE = "dev.stele.tree"
LABEL_STRATA = "dev.stele.strata"
ANNOTATION_WORKLOAD = "dev.stele.workload"
ANNOTATION_CODEC = "dev.stele.codec"
FORMAT = "0"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
TREE_TYPE = "application/vnd.stele.tree.v0"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
LAYER_TYPES = {
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "none": "application/vnd.oci.image.layer.v1.tar",
}


class Descriptor(msgspec.Struct, frozen=True, kw_only=True):
    """An OCI descriptor: what is named by digest, how large it is (bytes), and its media type."""

    media_type: str
    digest: str
    size: int


class Stratum(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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


def _bad(digest: str, reason: str) -> SteleError:
    return SteleError(
        f"{digest[:19]} is not a Stele release: {reason}",
        remedy="seal the application with `stele seal`; an ordinary image is a source, not a release",
        code="release.malformed",
    )


def parse(digest: str, manifest: bytes, config: bytes) -> Release:
    """Read a release from its manifest and config bytes, which must hash to `digest` and to what the manifest names.

    Raises:
        SteleError: `release.malformed`, `release.wrong-bytes`, `spec.*`.
    """
    if sha256(manifest) != parse_digest(digest):
        raise SteleError(
            f"the manifest of {digest[:19]} has other bytes than its digest says",
            remedy="it was altered or damaged; seal or copy it again",
            code="release.wrong-bytes",
        )
    try:
        raw, parsed = json.loads(manifest), json.loads(config)
        if raw["config"]["digest"] != sha256(config):
            raise SteleError(
                f"the config of {digest[:19]} has other bytes than its manifest says",
                remedy="it was altered or damaged; seal or copy it again",
                code="release.wrong-bytes",
            )
        labels: dict[str, str] = parsed["config"]["Labels"]
        if labels[LABEL_FORMAT] != FORMAT:
            raise _bad(digest, f"its format is {labels[LABEL_FORMAT][:20]!r}, this version knows {FORMAT!r}")
        rows = canonical.decode(labels[LABEL_STRATA].encode())
        layers = [
            Descriptor(media_type=item["mediaType"], digest=parse_digest(item["digest"]), size=item["size"]) for item in raw["layers"]
        ]
        strata = tuple(_stratum(row, layer) for row, layer in zip(rows, layers, strict=True))
        if [stratum.diff_id for stratum in strata] != parsed["rootfs"]["diff_ids"] or not strata:
            raise _bad(digest, "its strata are not its layers")
        spec = specs.from_builtins(canonical.decode(labels[LABEL_SPEC].encode()))
        return Release(
            digest=digest,
            workload=spec.name,
            spec=spec,
            tree_digest=parse_digest(labels[LABEL_TREE]),
            strata=strata,
            config_digest=raw["config"]["digest"],
            manifest_size=len(manifest),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _bad(digest, f"{type(error).__name__}: {error}"[:200]) from error


def _stratum(row: Any, layer: Descriptor) -> Stratum:
    stratum = msgspec.convert({**row, "layer": msgspec.to_builtins(layer)}, Stratum)
    for digest in (stratum.diff_id, stratum.image, "sha256:" + stratum.verity_root):
        parse_digest(digest)
    if stratum.data_size % 4096 or not 0 < stratum.data_size < stratum.image_size:
        raise ValueError("a stratum's sizes do not fit")
    return stratum
