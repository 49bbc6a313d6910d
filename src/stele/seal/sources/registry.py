"""An image in an OCI registry as source: fetched blob by blob into drafts, which another seal goes on with after a kill; each is checked.

What is read there goes the same way as an OCI layout: the same choice of image, the same layers, the same tree.
"""

from __future__ import annotations

import contextlib
import io
import json
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec

from stele.host import registry_transfer
from stele.host.http_registry import Connections, bad_answer
from stele.host.registry import Repository
from stele.seal.inode import Notes
from stele.seal.sources.blobs import Stretch, missing
from stele.seal.sources.image import choose, flatten
from stele.seal.sources.source import Input
from stele.seal.sources.spool import no_room
from stele.trust.digest import digest_hex, parse_digest
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stele.host.registry import Manifest
    from stele.model.ports import Draft
    from stele.model.reference import Reference
    from stele.seal.sources.source import Limits, Source
    from stele.seal.sources.stream import Readable

AT_ONCE = 4  # layers that are fetched at a time
SMALL = 8 << 20  # bytes of a config


class RegistryBlobs:
    """The blobs of one image in a registry, by the names that an OCI layout would have for them.

    `keep`: gives the draft of a blob, with what is there of it already; `kept` gets them.
    """

    def __init__(self, repository: Repository, limits: Limits, keep: Callable[[str], Draft], kept: contextlib.ExitStack) -> None:
        self._repository = repository
        self._limits = limits
        self._keep, self._kept = keep, kept
        self._manifests: dict[str, bytes] = {}  # by name, as far as they were fetched
        self._listed: set[str] = set()  # digests that an index calls manifests
        self._sizes: dict[str, int] = {}  # of blobs, by digest
        self._layers: list[str] = []
        self._fetched: dict[str, Future[int]] = {}
        self._pool = ThreadPoolExecutor(AT_ONCE)

    def keep(self, manifest: Manifest) -> None:
        """Remember a manifest or index, and what it names."""
        self._manifests[f"blobs/sha256/{digest_hex(manifest.digest)}"] = manifest.data
        try:
            plain = json.loads(manifest.data)
        except (ValueError, RecursionError):
            return  # whoever parses it says what is wrong with it
        if isinstance(plain, dict):
            listed, layers, config = (_sizes(part) for part in (plain.get("manifests"), plain.get("layers"), [plain.get("config")]))
            self._listed.update(listed)
            self._layers += layers
            self._sizes |= listed | layers | config

    def open(self, name: str) -> Readable:
        """A blob from its beginning, fetched and checked. Raises SteleError `seal.missing-blob`, `registry.*`."""
        digest = "sha256:" + name.rpartition("/")[2]
        if digest in self._listed and name not in self._manifests:
            found = self._repository.manifest(digest)
            if found is None:
                raise missing(name)
            self.keep(found)
        if name in self._manifests:
            return io.BytesIO(self._manifests[name])
        if digest not in self._sizes:
            raise missing(name)
        if digest not in self._layers:
            data = self._repository.blob(digest, self._sizes[digest], SMALL)
            if data is None:
                raise missing(name)
            return io.BytesIO(data)
        if sum(self._sizes[layer] for layer in set(self._layers)) > self._limits.max_bytes:
            raise bad_answer("the layers that it names are larger than what a source may unfold to")
        for layer in self._layers:  # the others come while the first is read
            if layer not in self._fetched:
                self._fetched[layer] = self._pool.submit(self._fetch, layer)
        fd = self._fetched[digest].result()
        return Stretch(fd, 0, self._sizes[digest])

    def _fetch(self, digest: str) -> int:
        try:
            with contextlib.ExitStack() as stack:
                draft = stack.enter_context(self._keep(digest))
                registry_transfer.download(self._repository, digest, self._sizes[digest], draft.fd)
                self._kept.push(stack.pop_all())
        except OSError as error:
            raise no_room(error) from error
        return draft.fd

    def close(self) -> None:
        """What is being fetched is not waited for longer than it takes to notice."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _sizes(listed: Any) -> dict[str, int]:
    """Digests and sizes of descriptors; what is none, the parser of the image refuses."""
    found = {}
    for item in listed if isinstance(listed, list) else []:
        with contextlib.suppress(SteleError, KeyError, TypeError):
            digest, size = parse_digest(item["digest"]), item["size"]
            if type(size) is int and size >= 0:
                found[digest] = size
    return found


def load(
    reference: Reference,
    *,
    plain_http: bool,
    time: int,
    limits: Limits,
    keep: Callable[[str], Draft],
    platform: str = "",
    data: bool = False,
) -> Source:
    """Read one image of a registry.

    Args:
        reference: of the image.
        plain_http: speak http without TLS.
        time: of every node.
        limits: of what the layers may unfold to.
        keep: gives the draft of a blob by its digest, with what is there of it already; all are given up with the source.
        platform: which of several, as `linux/arm64`; "": this machine's.
        data: as in `tree_of`.

    Raises:
        SteleError: `registry.*`, those of `keep`, and those of `image.choose` and `image.flatten`.
    """
    with contextlib.ExitStack() as kept:
        with Repository(Connections(reference.host, plain_http=plain_http), reference) as repository:
            found = repository.named()
            blobs = RegistryBlobs(repository, limits, keep, kept)
            try:
                blobs.keep(found)
                entry = {"digest": found.digest, "size": len(found.data)}
                notes = Notes()
                image = choose(blobs, msgspec.json.encode({"manifests": [entry]}), "", notes, platform)
                source = flatten(blobs, image, "registry", time=time, limits=limits, notes=notes, data=data)
            finally:
                blobs.close()
        where = f"docker://{reference.registry}/{reference.repository}"
        inputs = [Input(uri=f"{where}@{digest}", digest=digest) for digest in dict.fromkeys((found.digest, image.digest))]
        return msgspec.structs.replace(source, reference=str(reference), inputs=tuple(inputs), drafts=kept.pop_all())
