"""The store as one OCI layout folder (docs/spec/store.md): blobs, index.json, EROFS images, and what is being written."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Literal

from stele.host import durable, logs
from stele.model import release as releases
from stele.model import tree as trees
from stele.model.release import INDEX_TYPE, MANIFEST_TYPE, Descriptor, Publication, Referrer, Release, ReleaseEvidence, Stratum
from stele.store import attestations, drafts, images, index_file, naming, removal, signatures, strata_trees
from stele.store import index as indexes
from stele.store.together import Together
from stele.trust.digest import digest_hex, sha256
from stele.trust.errors import SteleError
from stele.trust.policy import key_id

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from stele.model.ports import Draft, Rebuilder, Unpacker
    from stele.model.release import PreparedImage
    from stele.model.tree import Node, Tree
    from stele.store.index import Index, Plain
    from stele.store.signatures import Judge, Signed
    from stele.trust.release_key import PublicKey

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
MANIFEST_LIMIT = 4 << 20  # bytes; as registries have it
TREE_LIMIT = 4 << 30  # bytes


class Layout:
    """A store. Adapter of the port `BlobSink`. Safe to use from several threads and processes."""

    def __init__(
        self, root: Path, *, trusted: Sequence[PublicKey] = (), judge: Judge | None = None, rebuild: Rebuilder | None = None
    ) -> None:
        """Open the store in the folder `root`, which need not exist yet; what dead writers left behind is swept.

        `judge` says whose signatures make a release acceptable; without one, one signature by a `trusted` key does. `rebuild` makes
        trees and images from layers; without it, missing ones stay missing.
        """
        self.root = root
        self.judge = judge or signatures.AnyOf(trusted)
        self._rebuild = rebuild
        self.unpack: Unpacker | None = None
        self._blobs = root / "blobs" / "sha256"
        self._images = images.Images(root)
        self._visible = index_file.of(root)
        self._together: Together | None = None
        drafts.sweep(root)

    # --- BlobSink

    def draft(self, kind: Literal["blob", "image"]) -> Draft:
        """Begin a blob or an image (see the port).

        Raises:
            SteleError: `store.full`, `store.not-writable`.
        """
        self._make()
        return drafts.Draft(self.root, self._blob_path if kind == "blob" else self._images.path, self._together)

    def partial(self, digest: str) -> Draft:
        """Begin a blob that is fetched, or go on with what an earlier go left of it: the file's content, unchecked. Raises like `draft`."""
        self._make()
        return drafts.Partial(self.root, self._blob_path, digest)

    def put(self, data: bytes) -> str:
        """Store a small blob; returns its digest. Raises like `draft`."""
        digest = sha256(data)
        with contextlib.suppress(SteleError):
            if self.blob(digest, len(data)) == data:
                return digest
        with self.draft("blob") as draft:
            durable.write_all(draft.fd, data)
            draft.commit(digest)
        return digest

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """While it lasts, what is stored waits for `publish`, and what was not published when it ends is gone."""
        self._together = Together()
        try:
            yield
        finally:
            self._together.discard()
            self._together = None

    def publish(self, publication: Publication) -> None:
        """Make a release and what belongs to it visible at once; it becomes the newest of its workload.

        Raises:
            SteleError: `store.full`, `store.not-writable`, `store.damaged`.
        """
        digest = publication.release.digest
        with self.changing(), drafts.writing(self.root):
            index = self._visible.read()
            referrers = indexes.merged_referrers(self._tagged(index, indexes.referrers_tag(digest)), publication.referrers)
            config, legacy = indexes.merged_signatures(self._tagged(index, indexes.signatures_tag(digest)), publication.signatures)
            self.put(config)
            new = indexes.with_publication(
                index,
                publication,
                Descriptor(media_type=INDEX_TYPE, digest=self.put(referrers), size=len(referrers)),
                Descriptor(media_type=MANIFEST_TYPE, digest=self.put(legacy), size=len(legacy)),
            )
            if self._together is not None:
                self._together.settle()
            self._visible.write(new, after=(self._blobs, self._images.folder))

    def refer(self, release: Release, referrers: Sequence[Referrer]) -> None:
        """Make more artifacts visible that refer to a release which is here; its place among the releases stays.

        Raises:
            SteleError: `store.full`, `store.not-writable`, `store.damaged`.
        """
        tag = indexes.referrers_tag(release.digest)
        with self.changing(), drafts.writing(self.root):
            index = self._visible.read()
            merged = indexes.merged_referrers(self._tagged(index, tag), referrers)
            listed = Descriptor(media_type=INDEX_TYPE, digest=self.put(merged), size=len(merged))
            durable.sync_dir(self._blobs)
            self._visible.write(indexes.with_referrers(index, release.digest, referrers, listed))

    def unrefer(self, digest: str, gone: Collection[str]) -> None:
        """Make artifacts (by their manifests' digests) no longer refer to a release; their blobs stay. Raises like `refer`."""
        tag = indexes.referrers_tag(digest)
        with self.changing(), drafts.writing(self.root):
            index = self._visible.read()
            present = self._tagged(index, tag) or {}
            left = {**present, "manifests": [item for item in present.get("manifests", []) if item.get("digest") not in gone]}
            merged = indexes.merged_referrers(left, ())
            listed = Descriptor(media_type=INDEX_TYPE, digest=self.put(merged), size=len(merged))
            durable.sync_dir(self._blobs)
            self._visible.write(indexes.with_referrers(indexes.without(index, gone), digest, (), listed))

    # --- reading

    def referrers(self, digest: str) -> list[Referrer]:
        """What refers to a manifest, as its index here lists it. Raises `store.damaged`."""
        listed = self._tagged(self._visible.read(), indexes.referrers_tag(digest)) or {}
        return [indexes.referrer(item) for item in listed.get("manifests", [])]

    def tagged(self, tag: str) -> bytes | None:
        """The manifest or index that a tag of the layout names; None where there is none. Raises `store.damaged`."""
        found = self._visible.read().tagged(tag)
        return self.blob(indexes.descriptor(found).digest) if found else None

    def has_blob(self, digest: str) -> bool:
        """Whether a blob is there; it is not read."""
        return self._blob_path(digest).exists()

    def has_image(self, stratum: Stratum) -> bool:
        """Whether a stratum's image is there; it is not read."""
        return self._images.path(stratum.image).exists()

    def has_stratum(self, stratum: Stratum) -> bool:
        """Whether a stratum is there in one form at least; neither is read."""
        return self._images.path(stratum.image).exists() or self.has_blob(stratum.layer.digest)

    def is_whole(self, stratum: Stratum) -> bool:
        """Whether a stratum's image is there, and its layer unless that is not kept, at their sizes; neither is read."""
        image, layer = (self._images.path(stratum.image), stratum.image_size), (self._blob_path(stratum.layer.digest), stratum.layer.size)
        return images.are_whole(image, layer) if layer[0].exists() else images.are_whole(image)

    def blob(self, digest: str, limit: int = MANIFEST_LIMIT) -> bytes:
        """One blob whole, checked against its digest.

        Raises:
            SteleError: `store.damaged` (also: it is not there, or larger than `limit` bytes).
        """
        try:
            path = self._blob_path(digest)
            with (path if self._together is None else self._together.where(path)).open("rb") as file:
                data = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)  # it makes room for all that it is asked for
        except FileNotFoundError as error:
            raise indexes.damaged(f"the blob {digest} is missing") from error
        except OSError as error:
            raise indexes.damaged(f"the blob {digest} cannot be read: {error.strerror}") from error
        if len(data) > limit or sha256(data) != digest:
            raise indexes.damaged(f"the blob {digest} has other bytes than its digest says")
        return data

    def releases(self) -> list[Release]:
        """All releases, the newest last. Damaged ones are named in the log and left out; signatures are not looked at."""
        return list(self._each(self._visible.read().image_digests))

    def _each(self, digests: Iterable[str]) -> Iterator[Release]:
        for digest in digests:
            try:
                yield self._read(digest)
            except SteleError as error:
                if error.code != "release.malformed":  # an image that another tool put here
                    logs.of(__name__).warning("release %s cannot be read: %s", digest, error.reason)

    def find(self, name: str) -> Release:
        """The release with this digest, unique beginning of a digest (4 digits or more), or tag; or the newest of a workload.

        Its parts are checked against the digest; its signature is not (`release` does).

        Raises:
            SteleError: `store.unknown-release`, `store.ambiguous`, `store.damaged`, `release.malformed`.
        """
        return self._find(name, self._visible.read())

    def _find(self, name: str, index: Index) -> Release:
        return self._read(naming.resolve(name, index.image_digests, lambda: self._each(reversed(index.named(name)))))

    def _read(self, digest: str) -> Release:
        manifest = self.blob(digest)
        return releases.parse(digest, manifest, self.blob(releases.config_digest(manifest)))

    def release(self, name: str) -> Release:
        """Like `find`, and its signatures make it acceptable. Raises also like `check_signature`."""
        return self.accepted(name)[0]

    def accepted(self, name: str) -> tuple[Release, Signed]:
        """Like `release`, with what made it acceptable."""
        return self._accepted(name, self._visible.read())

    def _accepted(self, name: str, index: Index) -> tuple[Release, Signed]:
        found = self._find(name, index)
        return found, signatures.check(self, index, found.digest, found.workload, self.judge)

    def check_signature(self, digest: str) -> Signed:
        """The signatures that make a release acceptable. Raises like `signatures.check`."""
        return self.accepted(digest)[1]

    def signing_keys(self, digest: str) -> tuple[PublicKey, ...]:
        """The known keys whose signatures of a release hold, whether or not they are enough. Raises what knowing them raises."""
        return signatures.find(self, self._visible.read(), digest, self.judge.known()).holding

    def evidence(self, digest: str) -> ReleaseEvidence:
        """What a proof says of a release, by any known key: whom to believe is the verifier's to say. See `signatures.evidence`."""
        index = self._visible.read()
        found = self._find(digest, index)
        signed = signatures.evidence(self, index, found.digest, found.workload, self.judge.known())
        return ReleaseEvidence(self.blob(found.digest), self.blob(found.config_digest), *signed)

    def attestations(self, digest: str, predicate_type: str) -> list[dict[str, Any]]:
        """What those whose signatures counted have attested of a release, oldest first: the predicates of one type.

        Raises:
            SteleError: like `check_signature`, `store.bad-attestation`.
        """
        index = self._visible.read()
        counted = self._accepted(digest, index)[1].counted.keys
        trusted = [key for key in self.judge.known() if key_id(key) in counted]
        return list(attestations.read(self, index, digest, predicate_type, trusted))

    def tree(self, digest: str) -> Tree:
        """The tree of a release; made again from layers or deltas where its blob is missing or damaged.

        Raises:
            SteleError: like `find`, and `release.rebuild-differs`.
        """
        release = self.find(digest)
        try:
            return trees.decode(self.blob(release.tree_digest, TREE_LIMIT))
        except SteleError as error:
            if error.code != "store.damaged":
                raise
            if self.unpack is not None and not all(self.has_blob(stratum.layer.digest) for stratum in release.strata):
                return self.unpack.tree(release)
        tree = strata_trees.joined(release, map(self.nodes, release.strata))
        with contextlib.suppress(SteleError):
            self.put(tree.encode())
        return tree

    def nodes(self, stratum: Stratum) -> Sequence[Node]:
        """What a stratum holds, by its layer. Raises like `layer`, and `release.rebuild-differs`."""
        if self._rebuild is None:
            raise indexes.damaged(f"nothing here reads the layer of {stratum.name}")
        with self.layer(stratum) as layer:
            return self._rebuild.nodes(layer, stratum)

    def open_blob(self, descriptor: Descriptor) -> AbstractContextManager[images.CheckedFile]:
        """A blob as a readable, seekable file, checked against its digest. Raises `store.damaged`."""
        return images.opened(self._blob_path(descriptor.digest), descriptor.digest)

    def layer(self, stratum: Stratum) -> AbstractContextManager[images.CheckedFile]:
        """A stratum's layer as a readable, seekable file, checked against its digest. Raises `store.damaged`."""
        return self.open_blob(stratum.layer)

    # --- images

    def open_image(self, stratum: Stratum) -> int | None:
        """A stratum's image, open for reading; None if it is not there (see the port `StrataFiles`). Not checked."""
        return self._images.open(stratum)

    def open_layer(self, stratum: Stratum) -> int | None:
        """A stratum's layer, open for reading; None if it is not there (see the port `StrataFiles`). Not checked."""
        return images.unchecked(self._blob_path(stratum.layer.digest))

    def image(self, stratum: Stratum) -> Path:
        """The path of a stratum's EROFS image; made again where it is missing, from the layer, or with its packed release. Not checked.

        Raises:
            SteleError: `store.damaged`, `store.image-missing`, `release.rebuild-differs`, `store.full`, `store.not-writable`.
        """
        path = self._images.path(stratum.image)
        if path.exists():
            return path
        if self.unpack is not None and not self.has_blob(stratum.layer.digest):
            self._unpack_one(stratum)
            return path
        if self._rebuild is None:
            raise SteleError(
                f"the image of the stratum {stratum.name} is missing, and nothing here can make it again",
                remedy="seal the release again",
                code="store.image-missing",
            )
        with self.layer(stratum) as layer, self.draft("image") as draft:
            self._rebuild.image(layer, stratum, draft.fd)
            draft.commit(stratum.image)
        durable.sync_dir(self._images.folder)
        return path

    def _unpack_one(self, stratum: Stratum) -> None:
        """Unpack a release that has this stratum."""
        assert self.unpack is not None
        failed: SteleError | None = None
        for release in self.releases():
            if stratum in release.strata:
                try:
                    self.unpack.strata(release)
                except SteleError as error:
                    failed = error
                else:
                    return
        raise failed or indexes.damaged(f"the stratum {stratum.name} is of no release that is here")

    def prepare_image(self, stratum: Stratum) -> PreparedImage:
        """A stratum's image, made immutable and then checked against the signed digest: ready to be mounted.

        Raises:
            SteleError: `store.damaged` if it is not what was sealed (the file stays as it is), and those of `image`.
        """
        return self._images.prepare(self.image(stratum), stratum)

    def remove_image(self, stratum: Stratum) -> None:
        """Remove a stratum's image; it is made again when it is needed. What is mounted stays mounted.

        Raises:
            SteleError: `store.not-writable`.
        """
        with drafts.writing(self.root):
            self._images.remove(stratum)

    def verify(self, release: Release, *, signed: bool = True) -> dict[str, int]:
        """Check all of a release: signatures (unless not `signed`), blobs and images that are there; of each stratum one must be.

        Returns the number of `blobs` and `images` that were checked, and their `bytes`.

        Raises:
            SteleError: `store.*`, `release.*`: the first that does not hold.
        """
        found = self.release(release.digest) if signed else self.find(release.digest)
        for stratum in found.strata:
            if not self.has_stratum(stratum):
                self.image(stratum)
        if not self.has_blob(found.tree_digest):
            self.put(self.tree(found.digest).encode())
        whole = [(self._images.path(s.image), s.image) for s in found.strata if self._images.path(s.image).exists()]
        held = {image for _, image in whole}
        layers = [s.layer.digest for s in found.strata if s.image not in held or self.has_blob(s.layer.digest)]
        parts = [(self._blob_path(digest), digest) for digest in (*layers, found.tree_digest)]
        total = sum(images.check_all([*whole, *parts])) + found.manifest_size
        return {"blobs": len(parts) + 2, "images": len(whole), "bytes": total}

    # --- removing

    def adding(self) -> AbstractContextManager[None]:
        """While it lasts nothing is removed: whoever relies on what is here, and publishes it, does so inside."""
        return removal.adding(self.root)

    def looking(self) -> AbstractContextManager[None]:
        """`adding`, for who only reads; also of a store on a file system that is mounted read-only."""
        return removal.looking(self.root)

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """While it lasts nobody else changes index.json. Raises like `draft`."""
        self._make()
        with drafts.locked(self.root):
            yield

    def removing(self, wait: float = 0.0) -> AbstractContextManager[None]:
        """While it lasts nobody adds. Raises `store.busy` if somebody still does after `wait` seconds, in which nobody new begins."""
        return removal.removing(self.root, wait)

    def remove(self, blobs: Iterable[str], strata: Iterable[Stratum]) -> int:
        """Remove blobs by digest, and images; only inside of `removing`. Returns the bytes.

        Raises:
            SteleError: `store.not-writable`.
        """
        paths = [self._blob_path(digest) for digest in blobs] + [self._images.path(stratum.image) for stratum in strata]
        return removal.remove(self.root, paths)[1]

    def foreign_layers(self) -> set[str]:
        """Layers of images that other tools put here.

        Raises:
            SteleError: `store.damaged`: something that may be a release cannot be read, so what it needs is not known.
        """
        found: set[str] = set()
        for digest in self._visible.read().image_digests:
            try:
                self._read(digest)
            except SteleError as error:
                if error.code != "release.malformed":
                    raise
                found.update(indexes.descriptor(item).digest for item in indexes.decode(self.blob(digest), "an image").get("layers", []))
        return found

    # --- inside

    def _blob_path(self, digest: str) -> Path:
        return self._blobs / digest_hex(digest)

    def _make(self) -> None:
        with drafts.writing(self.root):
            for folder in (self._blobs, self._images.folder, self.root / "tmp"):
                durable.make_dirs(folder)
            if not (self.root / "oci-layout").exists():
                drafts.begin(self.root, LAYOUT, indexes.encoded([]))

    def _tagged(self, index: Index, tag: str) -> Plain | None:
        """What a tag names, decoded; None where it is missing or damaged (it is then written anew)."""
        entry = index.tagged(tag)
        if entry is None:
            return None
        with contextlib.suppress(SteleError):
            return indexes.decode(self.blob(indexes.descriptor(entry).digest), tag)
        return None
