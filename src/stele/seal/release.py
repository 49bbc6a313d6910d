"""Assembling a release: every stratum in both forms, the tree, image config and manifest (docs/spec/release.md)."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from stele.host import durable
from stele.model import release as releases
from stele.model.release import LAYER_TYPES, MANIFEST_TYPE, TREE_TYPE, Descriptor, Referrer, Release, Stratum
from stele.model.tree import joined
from stele.seal import codec, erofs, erofs_layout, strata, tar, verity
from stele.trust import canonical
from stele.trust.digest import sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from stele.model.ports import BlobSink, ContentReader
    from stele.model.spec import Spec
    from stele.model.tree import Node, Tree
    from stele.seal.codec import Compression
    from stele.seal.packages import Package
    from stele.seal.strata import Cut, Slice

PIECE = 1 << 20  # bytes handed to hash and compression at a time
_MACHINES = {3: "386", 21: "ppc64le", 22: "s390x", 40: "arm", 62: "amd64", 183: "arm64", 243: "riscv64", 258: "loong64"}
_WORKERS = max(2, min(4, os.cpu_count() or 1))


class Sealed(NamedTuple):
    """A release that was made and is not published yet.

    `referrers`: its tree. `manifest`, `config`: its bytes. `packages`: what its package managers know of. `cut`: how it was cut, where it
    was.
    """

    release: Release
    manifest: bytes
    config: bytes
    referrers: tuple[Referrer, ...]
    packages: tuple[Package, ...] = ()
    cut: Cut | None = None


class Image(NamedTuple):
    """A finished EROFS image with its hash tree; the fields are those of a Stratum."""

    digest: str
    size: int
    data_size: int
    verity_root: str


def seal(
    tree: Tree,
    contents: ContentReader,
    spec: Spec,
    sink: BlobSink,
    *,
    compression: Compression = "zstd",
    platform: str = "",
    reuse: Mapping[str, Stratum] | None = None,
    known: tuple[Package, ...] | None = None,
) -> Sealed:
    """Make a release of a tree; its blobs and images go to `sink`, which then lacks only `publish`.

    Args:
        tree: the whole tree, settings and mount points included.
        contents: the bytes of its files.
        spec: what it is to be run by.
        sink: takes blobs and images.
        compression: of the layers; of all digests only the manifest's depends on it.
        platform: as `linux/amd64`; "" to take it from the programs in the tree.
        reuse: strata that `sink` holds in both forms and this compression, by the digest of their nodes.
        known: `packages.find` of the tree, where that was asked already.

    Raises:
        SteleError: `seal.*`, and those of `sink`.
    """
    from stele.seal import packages  # who remakes strata only needs none of its readers

    lines = dict(zip((node.path for node in tree.nodes), tree.lines(), strict=True))
    known = packages.find(tree, contents) if known is None else known
    cut = strata.explained(tree, spec, known)
    with ThreadPoolExecutor(_WORKERS) as pool:
        making = [begin(pool, sink, piece, lines, contents, compression, reuse or {}) for piece in cut.slices]
        table = tuple(finish() for finish in making)
    made = assemble(spec, sink, joined(lines.values()), table, compression=compression, platform=platform or platform_of(tree, contents))
    return made._replace(packages=known, cut=cut)


def assemble(
    spec: Spec, sink: BlobSink, tree_bytes: bytes, table: tuple[Stratum, ...], *, compression: Compression, platform: str
) -> Sealed:
    """Make a release of strata that are made, and of the bytes of its tree.

    Raises:
        SteleError: those of `sink`.
    """
    tree_digest = sink.put(tree_bytes)
    config = releases.encode_config(spec, tree_digest, table, platform)
    manifest = releases.encode_manifest(spec, table, config, codec.codec_name(compression))
    sink.put(config)
    digest = sink.put(manifest)
    release = releases.parse(digest, manifest, config)
    tree_descriptor = Descriptor(media_type=TREE_TYPE, digest=tree_digest, size=len(tree_bytes))
    referrer = attach(sink, release, TREE_TYPE, tree_descriptor, {"org.opencontainers.image.created": releases.rfc3339(spec.time)})
    return Sealed(release, manifest, config, (referrer,))


def attach(
    sink: BlobSink, release: Release, artifact_type: str, blob: Descriptor, annotations: dict[str, str], more: Sequence[Descriptor] = ()
) -> Referrer:
    """Put an OCI artifact of one or more blobs, with the release as its subject, into `sink` (OCI image-spec 1.1, manifest.md)."""
    empty = sink.put(releases.EMPTY)
    manifest = canonical.encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": artifact_type,
            "config": {"mediaType": releases.EMPTY_TYPE, "digest": empty, "size": len(releases.EMPTY)},
            "layers": [item.plain() for item in (blob, *more)],
            "subject": release.subject.plain(),
            "annotations": annotations,
        }
    )
    descriptor = Descriptor(media_type=MANIFEST_TYPE, digest=sink.put(manifest), size=len(manifest))
    return Referrer(descriptor=descriptor, artifact_type=artifact_type, annotations=annotations)


def begin(
    pool: ThreadPoolExecutor,
    sink: BlobSink,
    piece: Slice,
    lines: Mapping[bytes, bytes],
    contents: ContentReader,
    compression: Compression,
    reuse: Mapping[str, Stratum],
) -> Callable[[], Stratum]:
    """Begin to make a stratum, unless it is there; returns how to wait for it."""
    nodes = sha256(joined(lines[node.path] for node in piece.nodes))
    same = reuse.get(nodes)
    if same is not None:
        return lambda: msgspec.structs.replace(same, name=piece.name)
    making_image = pool.submit(_image, sink, piece.nodes, contents)
    making_layer = pool.submit(keep_layer, sink, tar.stream(piece.nodes, contents), compression)

    def finish() -> Stratum:
        diff_id, layer = making_layer.result()
        image = making_image.result()
        return Stratum(
            name=piece.name,
            diff_id=diff_id,
            layer=layer,
            image=image.digest,
            image_size=image.size,
            data_size=image.data_size,
            verity_root=image.verity_root,
            nodes=nodes,
        )

    return finish


def keep_layer(sink: BlobSink, parts: Iterable[bytes | memoryview], compression: Compression) -> tuple[str, Descriptor]:
    """Keep a stratum's tar, compressed; returns its diff_id and the blob. Raises what `sink` and `parts` raise."""
    with sink.draft("blob") as draft:
        diff_id, digest, size = write_layer(draft.fd, parts, compression)
        draft.commit(digest)
    return diff_id, Descriptor(media_type=LAYER_TYPES[compression], digest=digest, size=size)


def write_layer(fd: int, parts: Iterable[bytes | memoryview], compression: Compression) -> tuple[str, str, int]:
    """Write a stratum's tar, compressed, to `fd`; returns its diff_id, and digest and size of what was written."""
    encoder = codec.encoder(compression)
    plain, packed = hashlib.sha256(), hashlib.sha256()
    size = 0

    def put(data: bytes) -> None:
        nonlocal size
        packed.update(data)
        size += len(data)
        durable.write_all(fd, data)

    buffer: list[bytes | memoryview] = []
    held = 0
    for part in parts:
        buffer.append(part)
        held += len(part)
        if held >= PIECE:
            data = b"".join(buffer)
            plain.update(data)
            put(encoder.compress(data))
            buffer, held = [], 0
    data = b"".join(buffer)
    plain.update(data)
    put(encoder.compress(data) + encoder.flush())
    return "sha256:" + plain.hexdigest(), "sha256:" + packed.hexdigest(), size


def _image(sink: BlobSink, nodes: tuple[Node, ...], contents: ContentReader) -> Image:
    with sink.draft("image") as draft:
        layout = erofs_layout.plan(nodes)
        uuid = erofs.write(draft.fd, nodes, layout, contents)
        image = finish_image(draft.fd, layout.data_size, uuid)
        draft.commit(image.digest)
    return image


def finish_image(fd: int, data_size: int, uuid: bytes) -> Image:
    """Append the hash area to the image in `fd`, and hash the whole."""
    root = verity.append(fd, data_size, uuid)
    state = hashlib.sha256()
    buffer = bytearray(PIECE)
    view = memoryview(buffer)
    at = 0
    while count := os.preadv(fd, [buffer], at):
        state.update(view[:count])
        at += count
    return Image("sha256:" + state.hexdigest(), at, data_size, root)


def platform_of(tree: Tree, contents: ContentReader) -> str:
    """The platform of the first ELF program in the tree, in path order; `linux/amd64` if there is none."""
    for node in tree.files():
        if not node.mode & 0o111 or node.size < 20:
            continue
        head = next(iter(contents.chunks(node.sha256, 4096)), b"")[:20]
        if head[:4] == b"\x7fELF" and head[5] in {1, 2}:
            machine = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
            if machine in _MACHINES:
                return f"linux/{_MACHINES[machine]}"
    return "linux/amd64"
