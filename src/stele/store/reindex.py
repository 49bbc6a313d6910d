"""index.json made again from the documents that are there (docs/spec/store.md, Repairing).

What is still legible of the old one says the order of releases and what other tools put here; everything else follows from the
documents, each of which was checked against its digest.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from stele.host import durable
from stele.model import release as releases
from stele.model.release import INDEX_TYPE, MANIFEST_TYPE, SIMPLE_TYPE, Descriptor, Publication, Referrer, SimpleSignature
from stele.store import drafts
from stele.store import index as indexes
from stele.store.layout import MANIFEST_LIMIT
from stele.trust.cosign import ANNOTATION_SIGNATURE
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stele.model.release import Release
    from stele.store.index import Plain
    from stele.store.layout import Layout

_DIGEST = re.compile(rb'"digest": *"(sha256:[0-9a-f]{64})"', re.ASCII)


class _Documents:
    """What is there, by kind; the oldest first."""

    def __init__(self, store: Layout) -> None:
        self.releases: dict[str, Release] = {}
        self.referrers: dict[str, dict[str, Referrer]] = {}
        self.signatures: dict[str, list[SimpleSignature]] = {}
        self.lists: list[list[str]] = []
        self.plain: dict[str, Plain] = {}
        self._store = store
        for digest, data in _small(store):
            try:
                plain = self.plain[digest] = indexes.decode(data, digest)
                self._take(digest, data, plain)
            except (SteleError, ValueError, LookupError, TypeError):  # it is something else
                continue

    def _take(self, digest: str, data: bytes, plain: Plain) -> None:
        subject = plain.get("subject")
        if plain.get("mediaType") == INDEX_TYPE:
            self.lists.append([item["digest"] for item in plain.get("manifests", []) if isinstance(item, dict) and "digest" in item])
        elif isinstance(subject, dict) and isinstance(plain.get("artifactType"), str):
            named = Descriptor(media_type=MANIFEST_TYPE, digest=digest, size=len(data))
            item = Referrer(descriptor=named, artifact_type=plain["artifactType"], annotations=indexes.annotations_of(plain))
            self.referrers.setdefault(str(subject.get("digest")), {})[digest] = item
        elif plain.get("config") is not None:
            signed = [layer for layer in plain.get("layers", []) if isinstance(layer, dict) and layer.get("mediaType") == SIMPLE_TYPE]
            if signed:
                self._simple(signed)
                return
            config = self._store.blob(releases.config_digest(data))
            self.releases[digest] = releases.parse(digest, data, config)

    def _simple(self, layers: Sequence[Any]) -> None:
        for layer in layers:
            payload = indexes.descriptor(layer)
            value = json.loads(self._store.blob(payload.digest))
            digest = str(value["critical"]["image"]["docker-manifest-digest"])
            item = SimpleSignature(payload=payload, signature=indexes.annotations_of(layer).get(ANNOTATION_SIGNATURE, ""))
            known = self.signatures.setdefault(digest, [])
            if item not in known:
                known.append(item)

    def publication(self, release: Release) -> Publication:
        """A release with what refers to it, in the order of the longest list of them that is there."""
        found = self.referrers.get(release.digest, {})
        order = max(([name for name in listed if name in found] for listed in self.lists), key=len, default=[])
        names = dict.fromkeys([*order, *found])
        signed = tuple(self.signatures.get(release.digest, ()))
        return Publication(release=release, referrers=tuple(found[name] for name in names), signatures=signed)


def _small(store: Layout) -> list[tuple[str, bytes]]:
    """Blobs that may be documents and whose bytes are whole, the oldest first."""
    folder = store.root / "blobs" / "sha256"
    found = []
    paths = [(path.lstat(), path.name) for path in folder.glob("*")]
    for info, name in sorted(paths, key=lambda item: (item[0].st_mtime_ns, item[1])):
        if info.st_size <= MANIFEST_LIMIT and re.fullmatch(r"[0-9a-f]{64}", name):
            try:
                data = store.blob("sha256:" + name)
            except SteleError:
                continue
            if data[:1] == b"{":
                found.append(("sha256:" + name, data))
    return found


def rebuild(store: Layout, order: Sequence[str]) -> bool:
    """Write index.json anew, unless it would say what it says; returns whether it was. Only under `store.changing()`.

    A release that the old index.json does not name comes back only if its signature holds; one that it names stays named.

    Args:
        store: the store.
        order: digests of releases as they came, the oldest first, for those of which the old index.json says nothing.

    Raises:
        SteleError: `store.full`, `store.not-writable`.
    """
    try:
        old = (store.root / "index.json").read_bytes()
    except OSError:
        old = b""
    documents = _Documents(store)
    before = _order(old, documents.releases)
    names = dict.fromkeys(name for name in [*before, *order, *documents.releases] if name in documents.releases)
    entries = _entries(old)
    lists = _lists(entries, documents, list(names))
    kept = _kept(entries, documents, lists)
    made = _made(documents, list(names), kept, lists)
    if _same(made.data, old):
        return False
    with drafts.writing(store.root):
        _write(store, made)
        trusted = [name for name in names if name in before or _holds(store, name)]
        if trusted != list(names):
            _write(store, _made(documents, trusted, kept, lists))
    return True


def made_again(store: Layout) -> dict[str, bytes]:
    """Documents that follow from others, by digest: lists of referrers, manifests and configs of older signatures, the empty config."""
    documents = _Documents(store)
    found = [releases.EMPTY]
    for release in documents.releases.values():
        item = documents.publication(release)
        found += [indexes.merged_referrers(None, item.referrers), *indexes.merged_signatures(None, item.signatures)]
    return {sha256(data): data for data in found}


def _holds(store: Layout, digest: str) -> bool:
    try:
        store.check_signature(digest)
    except SteleError:
        return False
    return True


def _order(old: bytes, known: Mapping[str, Release]) -> list[str]:
    """Releases that the bytes of an index.json name, whole or not, in their order: by tag, or by digest where that is illegible."""
    places = {found[1].decode("ascii"): found.start() for found in _DIGEST.finditer(old)}
    for digest, release in known.items():
        at = old.find(f'"{releases.reference_name(release.workload, digest)}"'.encode())
        if at >= 0:
            places[digest] = at
    return sorted((digest for digest in places if digest in known), key=lambda digest: places[digest])


def _entries(old: bytes) -> list[Plain]:
    """The entries of an index.json that can be read."""
    found = []
    try:
        for entry in indexes.decode(old, "index.json").get("manifests", []):
            with contextlib.suppress(SteleError):
                indexes.descriptor(entry)
                found.append(entry)
    except SteleError:
        pass
    return found


class _Lists(NamedTuple):
    """What an old index.json says of what refers to releases, by tag, as far as it is whole.

    `complete`: of all of them. `lost`: entries of older signatures whose manifest is lost: nothing else has what it said.
    """

    by_tag: dict[str, Plain]
    complete: bool
    lost: dict[str, Plain]

    def names(self, digest: str) -> bool:
        """Whether one of them lists a manifest."""
        return any(item.get("digest") == digest for found in self.by_tag.values() for item in found.get("manifests", []))


def _lists(entries: Sequence[Plain], documents: _Documents, names: Sequence[str]) -> _Lists:
    tags = {tag for name in names for tag in (indexes.referrers_tag(name), indexes.signatures_tag(name))}
    found, lost = {}, {}
    for entry in entries:
        tag = indexes.annotations_of(entry).get(indexes.REF_NAME, "")
        if tag in tags and entry["digest"] in documents.plain:
            found[tag] = documents.plain[entry["digest"]]
        elif tag in tags and tag.endswith(".sig") and f"sha256:{tag[7:71]}" not in documents.signatures:
            lost[tag] = entry
    return _Lists(found, all(indexes.referrers_tag(name) in found for name in names), lost)


def _kept(entries: Sequence[Plain], documents: _Documents, lists: _Lists) -> list[Plain]:
    """Entries that stay as they are: of other tools, and of releases and referrers that are named rightly and lost."""
    lost = set()
    known = {releases.reference_name(release.workload, digest) for digest, release in documents.releases.items()}
    for entry in entries:
        digest, name = entry["digest"], indexes.annotations_of(entry).get(indexes.REF_NAME, "")
        if digest not in documents.plain and name not in known and name.endswith(f"-{digest[7:19]}"):
            lost.add(digest)
    tags = {tag for digest in lost for tag in (indexes.referrers_tag(digest), indexes.signatures_tag(digest))}
    ours = {*documents.releases, *(name for subject, found in documents.referrers.items() if subject not in lost for name in found)}
    kept = []
    for entry in entries:
        digest, tag = entry["digest"], indexes.annotations_of(entry).get(indexes.REF_NAME, "")
        is_list = tag.startswith("sha256-")
        is_foreign = digest in documents.plain and digest not in ours and not is_list
        is_lost = digest not in documents.plain and not tag and "artifactType" in entry
        if digest in lost or tag in tags or is_foreign or (is_lost and (lists.names(digest) or not lists.complete)):
            kept.append(entry)
    return kept


class _Made(NamedTuple):
    """An index.json (`data`), and the documents that it needs."""

    data: bytes
    documents: tuple[bytes, ...]


def _made(documents: _Documents, names: Sequence[str], kept: Sequence[Plain], lists: _Lists) -> _Made:
    index = indexes.Index.of(kept)
    needed: list[bytes] = []
    for name in names:
        item = documents.publication(documents.releases[name])
        present = lists.by_tag.get(indexes.referrers_tag(name)), lists.by_tag.get(indexes.signatures_tag(name))
        new = [one for one in item.referrers if not lists.names(one.descriptor.digest)]
        referrers = indexes.merged_referrers(present[0], new)
        config, legacy = indexes.merged_signatures(present[1], item.signatures)
        needed += [referrers, config, legacy]
        listed = Descriptor(media_type=INDEX_TYPE, digest=sha256(referrers), size=len(referrers))
        signed = Descriptor(media_type=MANIFEST_TYPE, digest=sha256(legacy), size=len(legacy))
        index = indexes.with_publication(index, item, listed, signed)
    entries = [lists.lost.get(tag or "", entry) for tag, entry in index]
    return _Made(indexes.encoded(entries), tuple(needed))


def _same(new: bytes, old: bytes) -> bool:
    """Whether two index.json have the same entries, in whatever order."""
    try:
        sides = [indexes.decode(data, "index.json").get("manifests", []) for data in (new, old)]
    except SteleError:
        return False
    return len({tuple(sorted(json.dumps(item, sort_keys=True) for item in side)) for side in sides}) == 1


def _write(store: Layout, made: _Made) -> None:
    for data in made.documents:
        store.put(data)
    durable.sync_dir(store.root / "blobs" / "sha256")
    durable.write(store.root / "index.json", made.data)
