"""OCI and Docker images: finding the one meant, checking every digest, and flattening its layers (OCI image-spec v1.1)."""

from __future__ import annotations

import hashlib
import platform
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol, TypeVar

import msgspec

from stele.seal.contents import Contents
from stele.seal.inode import Inode, Notes
from stele.seal.normalise import tree_of
from stele.seal.sources.layers import apply_layer, read_layer
from stele.seal.sources.source import Defaults, Kind, Limits, Source
from stele.seal.sources.spool import Spool
from stele.seal.sources.stream import Ahead, Budget, Hashed, Reader, bad_archive, plain, unfold
from stele.seal.sources.tar import TarReader
from stele.trust.digest import digest_hex, sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stele.seal.sources.stream import Readable

MAX_JSON = 8 << 20  # bytes of an index, manifest or config
MAX_NESTING = 3
MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "ppc64le": "ppc64le", "s390x": "s390x"}
CONFIGS = {"", "application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
REF_NAMES = ("org.opencontainers.image.ref.name", "io.containerd.image.name")


class Blobs(Protocol):
    """The files of an image on disk, by their names below its top (`blobs/sha256/<hex>`, `index.json`)."""

    def open(self, name: str) -> Readable:
        """A file from its beginning; raises SteleError `seal.missing-blob`. Closed with the Blobs."""

    def close(self) -> None:
        """Give up all descriptors."""


class Platform(msgspec.Struct, frozen=True):
    """What an image runs on."""

    architecture: str = ""
    os: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """An OCI descriptor as read (unknown fields are the format's to add)."""

    digest: str
    size: Annotated[int, msgspec.Meta(ge=0)]
    media_type: str = ""
    artifact_type: str = ""
    platform: Platform | None = None
    annotations: dict[str, str] | None = None


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    """An index or a manifest: which of them is told by what it holds, and it may hold only one."""

    media_type: str = ""
    manifests: list[Descriptor] | None = None
    config: Descriptor | None = None
    layers: list[Descriptor] | None = None


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: list[str] = []  # Docker leaves it out where there are no layers


class _Run(msgspec.Struct, frozen=True, rename="pascal"):
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    env: list[str] | None = None
    user: str | None = None
    working_dir: str | None = None


class Config(msgspec.Struct, frozen=True):
    """What of an image's config matters here."""

    rootfs: _RootFs
    architecture: str = ""
    os: str = ""
    variant: str = ""
    config: _Run | None = None


class Layer(NamedTuple):
    """One layer of an image: the name of its file, and, where known, what the file's digest and size must be."""

    name: str
    digest: str = ""
    size: int = -1


class Image(NamedTuple):
    """The image that was chosen. `digest`: of its manifest or, in a docker archive, its config."""

    digest: str
    reference: str
    config: Config
    layers: list[Layer]


T = TypeVar("T")


def parse(data: bytes, shape: type[T], what: str) -> T:
    """JSON of the given shape; what is null counts as left out, as Go programs, which write most images, take it.

    Raises:
        SteleError: `seal.bad-archive`.
    """
    try:
        return msgspec.convert(_without_nulls(msgspec.json.decode(data)), type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise bad_archive(what, str(error)) from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def mismatch(what: str, expected: str, found: str) -> SteleError:
    """The error for bytes that do not have the digest or size under which they are named."""
    return SteleError(
        f"{what} should be {expected} but is {found}",
        remedy="the archive is damaged or was altered: get it again from where it came",
        code="seal.digest-mismatch",
    )


def read_small(blobs: Blobs, name: str, digest: str = "") -> bytes:
    """A JSON file whole, checked against its digest if one is given.

    Raises:
        SteleError: `seal.missing-blob`, `seal.bad-archive`, `seal.digest-mismatch`.
    """
    stream = blobs.open(name)
    data = bytearray()
    while piece := stream.read(MAX_JSON + 1 - len(data)):
        data += piece
        if len(data) > MAX_JSON:
            raise bad_archive(name, "it is larger than 8 MiB")
    out = bytes(data)
    if digest and sha256(out) != digest:
        raise mismatch(name, digest, sha256(out))
    return out


def blob_name(digest: str) -> str:
    """Where an OCI layout keeps a blob.

    Raises:
        SteleError: `seal.bad-archive` for other digests than SHA-256.
    """
    try:
        return f"blobs/sha256/{digest_hex(digest)}"
    except SteleError as error:
        raise bad_archive("the image", f"{digest[:80]!r} is not a SHA-256 digest") from error


def choose(blobs: Blobs, index: bytes, reference: str, notes: Notes, wanted: str = "") -> Image:
    """The image meant in an OCI layout whose index.json is `index`. `wanted`: the platform, as `linux/arm64`; "": this machine's.

    Raises:
        SteleError: `seal.ambiguous-image`, `seal.no-platform`, `seal.missing-blob`, `seal.bad-archive`, `seal.digest-mismatch`.
    """
    listed = parse(index, _Document, "index.json").manifests or []
    found = {one.digest: one for one in _named(listed, reference)}
    if len(found) > 1 and len({_reference(one) for one in found.values()}) == 1 and all(one.platform for one in found.values()):
        chosen = _for_platform(list(found.values()), wanted, notes)
    elif len(found) == 1:
        (chosen,) = found.values()
    else:
        names = [_reference(one) or one.digest for one in listed if not _is_attachment(one)]
        raise ambiguous(names, reference, how_many=len(found))
    said = reference or _reference(chosen)
    document = _Document()
    for _ in range(MAX_NESTING):
        document = _load(blobs, chosen)
        if document.manifests is None:
            break
        chosen = _for_platform(document.manifests, wanted, notes)
    if document.config is None:
        raise bad_archive(chosen.digest, "it is not an image manifest")
    if document.config.media_type not in CONFIGS:
        raise _artifact(chosen, document.config.media_type)
    config = parse(read_small(blobs, blob_name(document.config.digest), document.config.digest), Config, "the image's config")
    check_platform(chosen.platform or platform_of(config), wanted)  # an index says the variant, which configs often leave out
    return Image(chosen.digest, said, config, [Layer(blob_name(one.digest), one.digest, one.size) for one in document.layers or []])


def _artifact(descriptor: Descriptor, kind: str) -> SteleError:
    return SteleError(
        f"{descriptor.digest} is no image, but an artifact (its config is of type {kind[:100]!r})",
        remedy="name the image that it lies beside, by tag or digest",
        code="seal.bad-archive",
    )


def _load(blobs: Blobs, descriptor: Descriptor) -> _Document:
    data = read_small(blobs, blob_name(descriptor.digest), descriptor.digest)
    if len(data) != descriptor.size:
        raise mismatch(descriptor.digest, f"{descriptor.size} bytes", f"{len(data)} bytes")
    document = parse(data, _Document, descriptor.digest)
    if (document.manifests is None) == (document.layers is None and document.config is None):
        # CVE-2021-41190: what is both is an index to one reader and a manifest to another
        raise bad_archive(descriptor.digest, "it is not plainly one of index and manifest")
    if document.media_type and descriptor.media_type and document.media_type != descriptor.media_type:
        raise bad_archive(descriptor.digest, "it states another media type than what refers to it")
    return document


def _reference(descriptor: Descriptor) -> str:
    names = descriptor.annotations or {}
    return next((names[key] for key in REF_NAMES if key in names), "")


def _named(manifests: list[Descriptor], reference: str) -> list[Descriptor]:
    images = [one for one in manifests if not _is_attachment(one)]
    if not reference:
        return images
    return [one for one in images if reference == one.digest or reference in (one.annotations or {}).values()]


def _is_attachment(descriptor: Descriptor) -> bool:
    """Whether it is no image but something about one: an attestation, a signature, any referrer."""
    noted = descriptor.annotations or {}
    return (
        descriptor.artifact_type not in CONFIGS  # some say of an image that it is one
        or "vnd.docker.reference.type" in noted
        or noted.get("kind", "").startswith("dev.cosignproject.cosign/sig")
    )


def ambiguous(names: list[str], reference: str, *, how_many: int) -> SteleError:
    """The error for a source that holds several images, or none, that `reference` could mean."""
    which = f"that {reference!r} could mean" if reference else "and none was named"
    listed = ", ".join(name.encode("ascii", "replace").decode()[:200] for name in names[:20]) or "nothing"
    return SteleError(
        f"the source holds {how_many} images {which}; it holds: {listed}",
        remedy="name one of them with --reference",
        code="seal.ambiguous-image",
    )


def this_platform() -> str:
    """This machine's platform."""
    return f"linux/{MACHINES.get(platform.machine(), platform.machine())}"


def platform_of(config: Config) -> Platform:
    """What an image's config says that it is for."""
    return Platform(config.architecture, config.os or "linux", config.variant)


def check_platform(made_for: Platform, wanted: str) -> None:
    """Refuse an image that is not for the platform that was asked for ("": none was). A variant that nobody asked for does not count.

    Raises:
        SteleError: `seal.no-platform`.
    """
    if wanted and wanted not in {str(made_for), f"{made_for.os}/{made_for.architecture}"}:
        raise SteleError(
            f"the image is for {str(made_for)[:80]}, not for {wanted}",
            remedy="leave --platform out, or get the image for that platform",
            code="seal.no-platform",
        )


def _for_platform(manifests: list[Descriptor], wanted: str, notes: Notes) -> Descriptor:
    """The one of several that is for a platform; a variant that nobody asked for is the plain one."""
    whose = "as asked for" if wanted else "this machine's"
    wanted = wanted or this_platform()
    images = [one for one in manifests if not _is_attachment(one)]
    if len(images) == 1 and images[0].platform is None:
        return images[0]  # an index need not say it; the config does
    fitting = [one for one in images if one.platform is not None and str(one.platform) == wanted]
    if not fitting:
        same = [one for one in images if one.platform is not None and f"{one.platform.os}/{one.platform.architecture}" == wanted]
        fitting = [one for one in same if one.platform is not None and one.platform.variant in {"", "v8"}] or same
    if len({one.digest for one in fitting}) == 1:
        notes.add(f"the image is for {len(images)} platforms; sealed is {wanted}, {whose}")
        return fitting[0]
    raise SteleError(
        f"the image has {'no' if not fitting else 'more than one'} variant for {wanted}; it has: "
        + ", ".join(str(one.platform or "unknown")[:60] for one in images[:20]),
        remedy="name one of them with --platform, or the manifest's digest with --reference",
        code="seal.no-platform",
    )


def _defaults(run: _Run | None) -> Defaults:
    if run is None:
        return Defaults()
    env = dict(item.partition("=")[::2] for item in run.env or [])
    return Defaults(command=(*(run.entrypoint or ()), *(run.cmd or ())), env=env, user=run.user or "", workdir=run.working_dir or "")


def flatten(blobs: Blobs, image: Image, kind: Kind, *, time: int, limits: Limits, notes: Notes, data: bool = False) -> Source:
    """Read an image's layers into one tree. `data`: as in `tree_of`.

    Raises:
        SteleError: of the layers, of the rules, `seal.digest-mismatch`, `seal.too-large`.
    """
    if image.config.os not in {"", "linux"}:
        raise SteleError(
            f"the image is for {image.config.os!r}; Stele runs Linux", remedy="seal an image for Linux", code="seal.no-platform"
        )
    made_for = platform_of(image.config)
    if made_for.architecture and f"linux/{made_for.architecture}" != this_platform():
        notes.add(f"the image is for {made_for}, which this machine is not")
    diff_ids = image.config.rootfs.diff_ids
    if len(diff_ids) != len(image.layers):
        raise bad_archive("the image", f"it has {len(image.layers)} layers, but its config names {len(diff_ids)}")
    root = Inode(kind="dir")
    budget = Budget(limits)
    spool = Spool()
    try:
        for number, (layer, diff_id) in enumerate(zip(image.layers, diff_ids, strict=True), 1):
            _layer(blobs, layer, diff_id, budget, root, number, spool, notes)
        tree = tree_of(root, time=time, notes=notes, data=data)
    except BaseException:
        spool.close()
        raise
    return Source(
        tree=tree,
        contents=Contents(spool.places, spool=spool.fd),
        kind=kind,
        input_digest=image.digest,
        reference=image.reference,
        platform=str(made_for),
        defaults=_defaults(image.config.config),
        notes=notes.lines(),
    )


def _layer(blobs: Blobs, layer: Layer, diff_id: str, budget: Budget, root: Inode, number: int, spool: Spool, notes: Notes) -> None:
    """Read one layer, check what it is, and only then apply it."""
    is_plain = layer.digest == diff_id  # the bytes as they lie are the tar, and need one hash only
    folded = Hashed(blobs.open(layer.name), wanted=bool(layer.digest))
    unfolded = hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        count = 0
        for piece in plain(folded) if is_plain else unfold(folded, layer.name):
            count += len(piece)
            budget.unfolded(len(piece), folded.count, count)
            if not is_plain:
                unfolded.update(piece)
            yield piece

    with Ahead(pieces()) as ahead:
        entries, inodes = read_layer(TarReader(Reader(ahead, layer.name), budget, need_end=False, sparse=True), spool, notes)
    if layer.digest and folded.digest() != layer.digest:
        raise mismatch(layer.name, layer.digest, folded.digest())
    if layer.size not in {-1, folded.count}:
        raise mismatch(layer.name, f"{layer.size} bytes", f"{folded.count} bytes")
    if not is_plain and f"sha256:{unfolded.hexdigest()}" != diff_id:
        raise mismatch(f"the unfolded {layer.name}", diff_id, f"sha256:{unfolded.hexdigest()}")
    apply_layer(root, number, entries, inodes)
