"""Assembling a release: every stratum in both forms, the tree, image config and manifest (docs/spec/release.md)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from stele.host import durable
from stele.model import release as releases
from stele.model.release import MANIFEST_TYPE, TREE_TYPE, Descriptor, Referrer, Release, Stratum
from stele.model.tree import joined, line
from stele.seal import codec, strata
from stele.seal.makers import Makers
from stele.trust import canonical
from stele.trust.digest import sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from stele.model.ports import BlobSink, ContentReader, SmallBlobs
    from stele.model.spec import Spec
    from stele.model.tree import Node, Tree
    from stele.seal.codec import Compression
    from stele.seal.hands import Hands
    from stele.seal.packages import Package
    from stele.seal.strata import Cut, Slice

_MACHINES = {3: "386", 21: "ppc64le", 22: "s390x", 40: "arm", 62: "amd64", 183: "arm64", 243: "riscv64", 258: "loong64"}


class Sealed(NamedTuple):
    """A release that was made and is not published yet.

    `manifest`, `config`: its bytes. `referrers`: what comes with it. `packages`: what its package managers know of.
    """

    release: Release
    manifest: bytes
    config: bytes
    referrers: tuple[Referrer, ...] = ()
    packages: tuple[Package, ...] = ()


class Begun(NamedTuple):
    """What is known of a release once its strata are being made: its tree's digest and canonical bytes, packages, and how it is cut."""

    tree_digest: str
    encoded: bytes
    packages: tuple[Package, ...]
    cut: Cut


class Lines:
    """The canonical line of each node by its path, made when it is first asked for: some are in many strata."""

    def __init__(self, known: dict[bytes, bytes] | None = None) -> None:
        self._known = known or {}

    def of(self, node: Node) -> bytes:
        """With its line feed."""
        found = self._known.get(node.path)
        if found is None:
            found = self._known[node.path] = line(node)
        return found


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
    meanwhile: Callable[[Begun], None] = lambda _: None,
    hands: Hands | None = None,
) -> Sealed:
    """Make a release of a tree; its blobs and images go to `sink`, which then lacks only `publish`.

    Args:
        tree: the whole tree, settings and mount points included.
        contents: the bytes of its files.
        spec: what it is to be run by.
        sink: takes blobs and images.
        compression: of the layers; of all digests only the manifest's depends on it.
        platform: as `linux/amd64`; "" to take it from the programs in the tree.
        reuse: strata whose images `sink` holds, in this compression, by the digest of their nodes.
        known: `packages.find` of the tree, where that was asked already.
        meanwhile: done while others make the strata.
        hands: who these are, where `contents` lie in a folder that they see.

    Raises:
        SteleError: `seal.*`, and those of `sink`.
    """
    from stele.seal import packages  # who remakes strata only needs none of its readers

    lines = Lines(dict(zip([node.path for node in tree.nodes], tree.lines(), strict=True)))
    known = packages.find(tree, contents) if known is None else known
    cut = strata.explained(tree, spec, known)
    with Makers(sink, contents, compression, helping=hands) as makers:
        # the largest first, so that none is left for the end
        making = {piece.name: begin(makers, piece, lines, reuse or {}) for piece in sorted(cut.slices, key=_size)}
        whole = joined(map(lines.of, tree.nodes))
        meanwhile(Begun(sha256(whole), whole, known, cut))
        table = tuple(making[piece.name]() for piece in cut.slices)
    kept = keep_tree(sink, whole)
    made = assemble(spec, sink, kept, table, compression=compression, platform=platform or platform_of(tree, contents))
    return made._replace(packages=known)


def keep_tree(sink: SmallBlobs, data: bytes) -> Descriptor:
    """Keep the canonical bytes of a tree. Raises those of `sink`."""
    return Descriptor(media_type=TREE_TYPE, digest=sink.put(data), size=len(data))


def keep_pieces(sink: BlobSink, pieces: Iterable[bytes | memoryview]) -> Descriptor:
    """The same of a tree in pieces. Raises those of `sink`."""
    state, size = hashlib.sha256(), 0
    with sink.draft("blob") as draft:
        for piece in pieces:
            state.update(piece)
            size += len(piece)
            durable.write_all(draft.fd, piece)
        digest = "sha256:" + state.hexdigest()
        draft.commit(digest)
    return Descriptor(media_type=TREE_TYPE, digest=digest, size=size)


def assemble(
    spec: Spec, sink: BlobSink, tree: Descriptor, table: tuple[Stratum, ...], *, compression: Compression, platform: str
) -> Sealed:
    """Make a release of strata that are made, and of a tree that is kept.

    Raises:
        SteleError: those of `sink`.
    """
    config = releases.encode_config(spec, tree.digest, table, platform)
    manifest = releases.encode_manifest(spec, table, config, codec.codec_name(compression))
    sink.put(config)
    digest = sink.put(manifest)
    release = releases.parse(digest, manifest, config)
    return Sealed(release, manifest, config)


def attach(
    sink: SmallBlobs, release: Release, artifact_type: str, blob: Descriptor, annotations: dict[str, str], more: Sequence[Descriptor] = ()
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


def _size(piece: Slice) -> int:
    return -sum(node.size for node in piece.nodes)


def begin(makers: Makers, piece: Slice, lines: Lines, reuse: Mapping[str, Stratum]) -> Callable[[], Stratum]:
    """Begin to make a stratum, unless it is there; returns how to wait for it."""
    encoded = joined(map(lines.of, piece.nodes))
    nodes = sha256(encoded)
    same = reuse.get(nodes)
    if same is not None:
        return lambda: msgspec.structs.replace(same, name=piece.name)
    making = makers.begin(piece.nodes, encoded)

    def finish() -> Stratum:
        made = making()
        return Stratum(
            name=piece.name,
            diff_id=made.diff_id,
            layer=made.layer,
            image=made.image.digest,
            image_size=made.image.size,
            data_size=made.image.data_size,
            verity_root=made.image.verity_root,
            nodes=nodes,
        )

    return finish


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
