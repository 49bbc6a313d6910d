"""The release: one sealed version of a workload, named by its OCI manifest digest (docs/spec/release.md)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

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
ANNOTATION_STRATUM = "dev.stele.stratum"
FORMAT = "1"
READABLE = frozenset({"0", FORMAT})  # they differ in how the tree is cut, which readers do not rely on
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"
TREE_TYPE = "application/vnd.dev.stele.tree.v0"
DELTA_TYPE = "application/vnd.dev.stele.delta.v0"
UPDATE_TYPE = "application/vnd.dev.stele.update.v0"
CONTENT_TYPE = "application/vnd.dev.stele.content.v0"  # the content frames of both, in a blob of their own
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIMPLE_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
LAYER_TYPES = {
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "none": "application/vnd.oci.image.layer.v1.tar",
}
MAX_STRATA = 40
BLOCK = 4096


class Descriptor(msgspec.Struct, frozen=True, kw_only=True):
    """An OCI descriptor: what is named by digest, how large it is (bytes), and its media type."""

    media_type: str
    digest: str
    size: int

    def plain(self) -> dict[str, Any]:
        """As OCI spells it, plain data."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


class Stratum(msgspec.Struct, frozen=True, kw_only=True):
    """One slice of the tree in its two forms.

    `diff_id`: SHA-256 of the uncompressed tar. `layer`: the compressed blob. `image`: SHA-256 of the EROFS image
    file as it is mounted (data of `data_size` bytes, then its dm-verity hash tree); `image_size`: bytes of the whole
    file. `verity_root`: 64 hex digits of the dm-verity root hash over the first `data_size` bytes. `nodes`: digest of
    its nodes as a tree of their own; "" in releases of format 0.
    """

    name: str
    diff_id: str
    layer: Descriptor
    image: str
    image_size: int
    data_size: int
    verity_root: str
    nodes: str = ""


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """A release, as read from its manifest and config (both already checked against their digests).

    `codec`: what compressed its layers: library, version, parameters. `platform`: what it runs on, as `linux/amd64`.
    """

    digest: str
    workload: str
    spec: Spec
    tree_digest: str
    strata: tuple[Stratum, ...]
    config_digest: str
    manifest_size: int
    codec: str = ""
    platform: str = ""

    @property
    def subject(self) -> Descriptor:
        """The release as what refers to it names it."""
        return Descriptor(media_type=MANIFEST_TYPE, digest=self.digest, size=self.manifest_size)


class PreparedImage(msgspec.Struct, frozen=True, kw_only=True):
    """A stratum's EROFS image, checked against the signed digest `stratum.image` and ready to be mounted.

    `path`: absolute. `immutable`: whether the file was made immutable before it was hashed (chattr +i).
    """

    stratum: Stratum
    path: str
    immutable: bool


class Referrer(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest that refers to a release (its `subject`): the tree, a signature. As a referrers index lists it."""

    descriptor: Descriptor
    artifact_type: str
    annotations: dict[str, str] = {}


class SimpleSignature(msgspec.Struct, frozen=True, kw_only=True):
    """One signature in cosign's older form: its payload blob, and the base64 of the DER signature over it."""

    payload: Descriptor
    signature: str


class ReleaseEvidence(NamedTuple):
    """What shows that a release is what was signed: its manifest, config, signed statement, and the signatures over that."""

    manifest: bytes
    config: bytes
    payload: bytes
    signatures: tuple[bytes, ...]


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes visible in a store at once: a release, what refers to it, and its older-style signatures.

    `newest`: the release becomes the newest of its workload; otherwise it stays where it is, if it is there.
    """

    release: Release
    referrers: tuple[Referrer, ...] = ()
    signatures: tuple[SimpleSignature, ...] = ()
    newest: bool = True


def reference_name(workload: str, digest: str) -> str:
    """The tag of a release in a layout: `<workload>-<first 12 hex digits>`."""
    return f"{workload}-{parse_digest(digest)[7:19]}"


def rfc3339(seconds: int) -> str:
    """A UTC time as OCI spells it, from seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Frozen; unknown fields are refused."""


class _Descriptor(_Strict, frozen=True, kw_only=True, rename="camel"):
    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = {}

    def checked(self) -> Descriptor:
        if not 0 <= self.size < 1 << 63:
            raise ValueError("a size is out of range")
        return Descriptor(media_type=self.media_type, digest=parse_digest(self.digest), size=self.size)


class _Manifest(_Strict, frozen=True, kw_only=True, rename="camel"):
    schema_version: Literal[2]
    media_type: Literal["application/vnd.oci.image.manifest.v1+json"]
    config: _Descriptor
    layers: tuple[_Descriptor, ...]
    annotations: dict[str, str]


class _Inner(_Strict, frozen=True, kw_only=True, rename="pascal"):
    cmd: tuple[str, ...]
    env: tuple[str, ...]
    user: str
    working_dir: str
    labels: dict[str, str]
    stop_signal: str
    exposed_ports: dict[str, dict[str, str]] = {}


class _Rootfs(_Strict, frozen=True, kw_only=True):
    type: Literal["layers"]
    diff_ids: tuple[str, ...]


class _Config(_Strict, frozen=True, kw_only=True):
    architecture: str
    os: str
    created: str
    config: _Inner
    rootfs: _Rootfs


class _Row(_Strict, frozen=True, kw_only=True):
    """A line of the strata table."""

    name: str
    image: str
    image_size: int
    data_size: int
    verity_root: str
    nodes: str = ""


def encode_config(spec: Spec, tree_digest: str, strata: tuple[Stratum, ...], platform: str) -> bytes:
    """The OCI image config of a release, canonical JSON: a function of content alone.

    `platform`: as `linux/amd64`.
    """
    system, _, architecture = platform.partition("/")
    table = [{key: getattr(stratum, key) for key in _Row.__struct_fields__} for stratum in strata]
    inner: dict[str, Any] = {
        "Cmd": list(spec.command),
        "Env": [f"{key}={value}" for key, value in sorted(spec.env.items())],
        "User": spec.user,
        "WorkingDir": spec.workdir,
        "StopSignal": f"SIG{spec.stop.signal}",
        "Labels": {
            LABEL_FORMAT: FORMAT,
            LABEL_SPEC: canonical.encode(specs.sealed(spec)).decode("ascii"),
            LABEL_TREE: tree_digest,
            LABEL_STRATA: canonical.encode(table).decode("ascii"),
        },
    }
    if spec.ports:
        inner["ExposedPorts"] = {f"{port.container}/tcp": {} for port in spec.ports}
    return canonical.encode(
        {
            "architecture": architecture,
            "os": system,
            "created": rfc3339(spec.time),
            "config": inner,
            "rootfs": {"type": "layers", "diff_ids": [stratum.diff_id for stratum in strata]},
        }
    )


def encode_manifest(spec: Spec, strata: tuple[Stratum, ...], config: bytes, codec: str) -> bytes:
    """The OCI image manifest of a release, canonical JSON. `codec`: library, version and level of the compression."""
    return canonical.encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": sha256(config), "size": len(config)},
            "layers": [{**stratum.layer.plain(), "annotations": {ANNOTATION_STRATUM: stratum.name}} for stratum in strata],
            "annotations": {LABEL_FORMAT: FORMAT, ANNOTATION_WORKLOAD: spec.name, ANNOTATION_CODEC: codec},
        }
    )


def _malformed(error: Exception) -> SteleError:
    reason = error.reason if isinstance(error, SteleError) else str(error)
    return SteleError(
        f"this is not a release of a format that this version reads: {reason[:300]}",
        remedy="name a release that `stele seal` made; an ordinary image can be sealed, a newer release needs a newer Stele",
        code="release.malformed",
    )


def _wrong_bytes(what: str, digest: str) -> SteleError:
    return SteleError(
        f"the {what} of {digest[:19]} has other bytes than its digest says",
        remedy="it was altered or damaged; copy or seal the release again",
        code="release.wrong-bytes",
    )


def config_digest(manifest: bytes) -> str:
    """The digest of the config that a release's manifest names.

    Raises:
        SteleError: `release.malformed`.
    """
    try:
        return msgspec.convert(canonical.decode(manifest), _Manifest).config.checked().digest
    except (SteleError, msgspec.ValidationError, ValueError) as error:
        raise _malformed(error) from error


def parse(digest: str, manifest: bytes, config: bytes) -> Release:
    """Read a release from its manifest, which must hash to `digest`, and the config that the manifest names.

    Raises:
        SteleError: `release.wrong-bytes`, `release.malformed`.
    """
    if sha256(manifest) != parse_digest(digest):
        raise _wrong_bytes("manifest", digest)
    try:
        outer = msgspec.convert(canonical.decode(manifest), _Manifest)
        named = outer.config.checked()
    except (SteleError, msgspec.ValidationError, ValueError) as error:
        raise _malformed(error) from error
    if named != Descriptor(media_type=CONFIG_TYPE, digest=sha256(config), size=len(config)):
        raise _wrong_bytes("config", digest)
    try:
        return _release(digest, len(manifest), outer, msgspec.convert(canonical.decode(config), _Config))
    except (SteleError, msgspec.ValidationError, ValueError) as error:
        raise _malformed(error) from error


def _release(digest: str, size: int, outer: _Manifest, config: _Config) -> Release:
    labels = config.config.labels
    if labels.get(LABEL_FORMAT) not in READABLE:
        raise ValueError(f"its format is {labels.get(LABEL_FORMAT, 'not said')[:20]!r}, not {FORMAT!r}")
    if missing := {LABEL_SPEC, LABEL_TREE, LABEL_STRATA} - labels.keys():
        raise ValueError(f"the label {min(missing)} is missing")
    spec = specs.from_builtins(canonical.decode(labels[LABEL_SPEC].encode("ascii")))
    table = msgspec.convert(canonical.decode(labels[LABEL_STRATA].encode("ascii")), tuple[_Row, ...])
    if not 1 <= len(table) <= MAX_STRATA or not len(table) == len(outer.layers) == len(config.rootfs.diff_ids):
        raise ValueError("strata, layers and diff_ids differ in number, or are none or too many")
    if outer.annotations.get(ANNOTATION_WORKLOAD) != spec.name:
        raise ValueError("manifest and spec name different workloads")
    rows = zip(table, outer.layers, config.rootfs.diff_ids, strict=True)
    return Release(
        digest=digest,
        workload=spec.name,
        spec=spec,
        tree_digest=parse_digest(labels[LABEL_TREE]),
        strata=tuple(_stratum(row, layer, diff_id) for row, layer, diff_id in rows),
        config_digest=outer.config.digest,
        manifest_size=size,
        codec=outer.annotations.get(ANNOTATION_CODEC, ""),
        platform=f"{config.os}/{config.architecture}",
    )


def _stratum(row: _Row, layer: _Descriptor, diff_id: str) -> Stratum:
    if layer.annotations != {ANNOTATION_STRATUM: row.name} or layer.media_type not in LAYER_TYPES.values():
        raise ValueError("a layer is not the one of its stratum")
    if not 0 < row.data_size < row.image_size < 1 << 63 or row.data_size % BLOCK or row.image_size % BLOCK:
        raise ValueError("the sizes of a stratum are not possible")
    parse_digest("sha256:" + row.verity_root)
    return Stratum(
        name=row.name,
        diff_id=parse_digest(diff_id),
        layer=layer.checked(),
        image=parse_digest(row.image),
        image_size=row.image_size,
        data_size=row.data_size,
        verity_root=row.verity_root,
        nodes=parse_digest(row.nodes) if row.nodes else "",
    )
