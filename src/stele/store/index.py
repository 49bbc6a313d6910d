"""The layout's index.json, and the indexes and manifests by which signatures are found. Pure: plain data in and out.

Releases are tagged `<workload>-<12 hex>`; what refers to one is listed in the index tagged `sha256-<hex>` (OCI
distribution-spec, referrers tag schema), its older signatures in the manifest tagged `sha256-<hex>.sig` (cosign).
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import msgspec

from stele.model.release import (
    ANNOTATION_WORKLOAD,
    CONFIG_TYPE,
    INDEX_TYPE,
    MANIFEST_TYPE,
    Descriptor,
    Publication,
    Referrer,
    SimpleSignature,
    reference_name,
)
from stele.trust import canonical
from stele.trust.cosign import ANNOTATION_SIGNATURE
from stele.trust.digest import digest_hex, parse_digest, sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

REF_NAME = "org.opencontainers.image.ref.name"
SUBJECT = "dev.stele.subject"  # of an untagged entry of index.json: the release that it refers to
IMAGE_KIND = {"kind": "dev.cosignproject.cosign/image"}  # by which cosign finds an image in a layout

Plain = dict[str, Any]


def referrers_tag(digest: str) -> str:
    """The tag of the index of what refers to a manifest."""
    return f"sha256-{digest_hex(digest)}"


def signatures_tag(digest: str) -> str:
    """The tag of a manifest's older signatures."""
    return f"sha256-{digest_hex(digest)}.sig"


def decode(data: bytes, what: str) -> Plain:
    """A JSON object as OCI has it; other tools write here too, so only what is used is checked.

    Raises:
        SteleError: `store.damaged`.
    """
    value = _json(data, what)
    if not isinstance(value, dict) or not all(isinstance(value.get(key, []), list) for key in ("manifests", "layers")):
        raise damaged(f"{what} is not what it should be")
    return value


def _json(data: bytes, what: str) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):  # json takes more than msgspec, and says what is none
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise damaged(f"{what} is not JSON") from error


def damaged(what: str) -> SteleError:
    """The error for a store whose bytes are not what they should be."""
    return SteleError(
        f"the store is damaged: {what}",
        remedy="copy the release into the store again from where it is whole, or seal it again",
        code="store.damaged",
    )


def descriptor(raw: Any) -> Descriptor:
    """A descriptor from plain data.

    Raises:
        SteleError: `store.damaged`.
    """
    try:
        digest, size = parse_digest(raw["digest"]), raw["size"]
        media_type = raw.get("mediaType", "")
        if not isinstance(media_type, str) or not isinstance(size, int) or size < 0:
            raise TypeError("a field has the wrong type")
        return Descriptor(media_type=media_type, digest=digest, size=size)
    except (KeyError, TypeError, AttributeError, SteleError) as error:
        raise damaged("a descriptor in an index is not valid") from error


def annotations_of(raw: Any) -> dict[str, str]:
    """The annotations of a descriptor."""
    found = raw.get("annotations") if isinstance(raw, dict) else None
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


class _Notes(msgspec.Struct, frozen=True, gc=False):
    tag: str | None = msgspec.field(default=None, name=REF_NAME)
    subject: str = msgspec.field(default="", name=SUBJECT)
    workload: str | None = msgspec.field(default=None, name=ANNOTATION_WORKLOAD)


class _Head(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """What entries are looked up by."""

    digest: str = ""
    size: int = -1
    media_type: str = ""
    artifact_type: str = ""
    annotations: _Notes = _Notes()


class _Heads(msgspec.Struct, frozen=True):
    manifests: list[_Head]


class _Texts(msgspec.Struct, frozen=True):
    manifests: list[msgspec.Raw]


_HEADS, _TEXTS = msgspec.json.Decoder(_Heads), msgspec.json.Decoder(_Texts)
_BEGIN, _BETWEEN = b'{\n "manifests": [\n  ', b",\n  "
_END = f'\n ],\n "mediaType": "{INDEX_TYPE}",\n "schemaVersion": 2\n}}\n'.encode("ascii")
_NOTHING = f'{{\n "manifests": [],\n "mediaType": "{INDEX_TYPE}",\n "schemaVersion": 2\n}}\n'.encode("ascii")


def _text(entry: Any) -> bytes:
    """An entry as json writes it into index.json, with an indent of one."""
    return json.dumps(entry, indent=1, sort_keys=True).replace("\n", "\n  ").encode("ascii")


def _head(entry: Plain) -> _Head:
    found = entry.get("annotations")
    notes = {key: str(value) for key, value in found.items() if value is not None} if isinstance(found, dict) else {}
    digest, size = entry.get("digest"), entry.get("size")
    return _Head(
        digest=digest if isinstance(digest, str) else "",
        size=size if isinstance(size, int) else -1,
        media_type=entry.get("mediaType", ""),
        artifact_type=entry.get("artifactType", ""),
        annotations=_Notes(tag=notes.get(REF_NAME), subject=notes.get(SUBJECT, ""), workload=notes.get(ANNOTATION_WORKLOAD)),
    )


class Index:
    """What an index.json lists: of each entry its text, and what it is looked up by. Nobody alters it: entries are decoded for who asks."""

    def __init__(self, texts: Sequence[bytes | msgspec.Raw] = (), heads: Sequence[_Head] = ()) -> None:
        """`texts`: the entries, as `encode` writes them."""
        self._texts, self._heads = texts, heads

    @classmethod
    def of(cls, entries: Sequence[Plain]) -> Index:
        """An index of these entries."""
        return cls([_text(entry) for entry in entries], [_head(entry) for entry in entries])

    @classmethod
    def decode(cls, data: bytes) -> Index:
        """Raises `store.damaged`."""
        if data.isascii():
            try:
                found = cls(_TEXTS.decode(data).manifests, _HEADS.decode(data).manifests)
            except (msgspec.MsgspecError, RecursionError):
                pass
            else:
                if found.encode() == data:  # it is spelled as here; else it is another tool's, which may have other things in it
                    return found
        entries = decode(data, "index.json").get("manifests", [])
        if not all(isinstance(entry, dict) for entry in entries):
            raise damaged("index.json is not what it should be")
        return cls.of(entries)

    def encode(self) -> bytes:
        """The file's bytes."""
        return b"".join((_BEGIN, _BETWEEN.join(self._texts), _END)) if self._texts else _NOTHING

    def __iter__(self) -> Iterator[tuple[str | None, Plain]]:
        """All entries, each with its tag."""
        return ((head.annotations.tag, self._entry(place)) for place, head in enumerate(self._heads))

    def _entry(self, place: int) -> Plain:
        found: Plain = _json(bytes(self._texts[place]), "index.json")
        return found

    @functools.cached_property
    def _tags(self) -> dict[str | None, int]:
        return {head.annotations.tag: place for place, head in enumerate(self._heads)}

    def tagged(self, tag: str) -> Plain | None:
        """The last entry with a tag."""
        place = self._tags.get(tag)
        return None if place is None else self._entry(place)

    def about(self, digest: str) -> list[Plain]:
        """Untagged entries that may refer to a release, in order: all but those that say to refer to another."""
        notes = ((place, head.annotations) for place, head in enumerate(self._heads))
        return [self._entry(place) for place, note in notes if note.tag is None and note.subject in (digest, "")]

    @functools.cached_property
    def _images(self) -> list[tuple[str, int]]:
        """What may be a release, by its digest: image manifests that are neither artifacts nor signatures, in order."""
        return [
            (_checked(head), place)
            for place, head in enumerate(self._heads)
            if not head.artifact_type and head.media_type == MANIFEST_TYPE and not (head.annotations.tag or "").startswith("sha256-")
        ]

    def images(self) -> dict[str, Plain]:
        """Entries of all that may be releases, by digest. Raises like `descriptor`."""
        return {digest: self._entry(place) for digest, place in self._images}

    @functools.cached_property
    def image_digests(self) -> tuple[str, ...]:
        """Digests of all that may be releases, each once, in order. Raises like `descriptor`."""
        return tuple(dict.fromkeys(digest for digest, _ in self._images))

    def named(self, name: str) -> list[str]:
        """Digests of what may be a release of the workload, or with the tag, `name`, each once, in order. Raises like `descriptor`."""
        notes = ((digest, self._heads[place].annotations) for digest, place in self._images)
        return list(dict.fromkeys(digest for digest, note in notes if note.workload in (None, name) or note.tag == name))

    def changed(self, gone: Callable[[str | None, str], bool], new: Iterable[Plain], *, first: bool = False) -> Index:
        """Without the entries of which `gone` (by tag and digest) says so, and with new ones, at the end or `first`."""
        kept = [place for place, head in enumerate(self._heads) if not gone(head.annotations.tag, head.digest)]
        more = Index.of(list(new))
        sides = [([self._texts[place] for place in kept], [self._heads[place] for place in kept]), (more._texts, more._heads)]
        (texts, heads), (last_texts, last_heads) = sides[::-1] if first else sides
        return Index([*texts, *last_texts], [*heads, *last_heads])


def _checked(head: _Head) -> str:
    return descriptor({"digest": head.digest, "size": head.size, "mediaType": head.media_type}).digest


def referrer_entry(item: Referrer, subject: str = "") -> Plain:
    """A referrer as an index of referrers lists it, or, with the digest of its `subject`, index.json."""
    notes = {**item.annotations, SUBJECT: subject} if subject else item.annotations
    return {**item.descriptor.plain(), "artifactType": item.artifact_type, "annotations": notes}


def merged_referrers(present: Plain | None, new: Iterable[Referrer]) -> bytes:
    """The index of referrers with `new` added to those that are there."""
    entries = {item["digest"]: item for item in (present or {}).get("manifests", [])}
    entries.update({item.descriptor.digest: referrer_entry(item) for item in new})
    return canonical.encode({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": list(entries.values())})


def merged_signatures(present: Plain | None, new: Iterable[SimpleSignature]) -> tuple[bytes, bytes]:
    """Config and manifest of the older signatures with `new` added to those that are there."""
    layers = {(item["digest"], annotations_of(item).get(ANNOTATION_SIGNATURE)): item for item in (present or {}).get("layers", [])}
    for item in new:
        layers[item.payload.digest, item.signature] = {**item.payload.plain(), "annotations": {ANNOTATION_SIGNATURE: item.signature}}
    config = canonical.encode(
        {
            "architecture": "",
            "os": "",
            "created": "0001-01-01T00:00:00Z",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers.values()]},
        }
    )
    return config, canonical.encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": sha256(config), "size": len(config)},
            "layers": list(layers.values()),
        }
    )


def referrer(raw: Any) -> Referrer:
    """A referrer as an index lists it. Raises like `descriptor`."""
    kind = raw.get("artifactType", "") if isinstance(raw, dict) else ""
    return Referrer(descriptor=descriptor(raw), artifact_type=kind if isinstance(kind, str) else "", annotations=annotations_of(raw))


def with_referrers(index: Index, digest: str, items: Iterable[Referrer], referrers: Descriptor) -> Index:
    """index.json with more that refers to the release `digest`, whose place among the releases stays. `referrers`: their index."""
    added = {item.descriptor.digest: referrer_entry(item, digest) for item in items}
    name = referrers_tag(digest)
    listed = {**referrers.plain(), "annotations": {REF_NAME: name}}
    return index.changed(lambda tag, one: tag == name or (tag is None and one in added), [*added.values(), listed], first=True)


def without(index: Index, gone: Collection[str]) -> Index:
    """index.json without the untagged entries of some digests."""
    return index.changed(lambda tag, one: tag is None and one in gone, ())


def with_publication(index: Index, item: Publication, referrers: Descriptor, signatures: Descriptor) -> Index:
    """index.json with a release and what belongs to it; the release becomes the newest, unless the publication says otherwise."""
    release = item.release
    name = reference_name(release.workload, release.digest)
    own = {referrers_tag(release.digest), signatures_tag(release.digest)}
    gone = {referrer.descriptor.digest for referrer in item.referrers}
    mine = {**release.subject.plain(), "annotations": {REF_NAME: name, ANNOTATION_WORKLOAD: release.workload, **IMAGE_KIND}}
    about = [
        *(referrer_entry(referrer, release.digest) for referrer in item.referrers),
        {**referrers.plain(), "annotations": {REF_NAME: referrers_tag(release.digest)}},
        {**signatures.plain(), "annotations": {REF_NAME: signatures_tag(release.digest)}},
    ]
    if item.newest or index.tagged(name) is None:
        return index.changed(lambda tag, one: tag == name or tag in own or (tag is None and one in gone), [*about, mine])
    kept = list(index.changed(lambda tag, one: tag in own or (tag is None and one in gone), ()))
    place = max(at for at, (tag, _) in enumerate(kept) if tag == name)
    return Index.of([mine if at == place else one for at, (tag, one) in enumerate(kept) if tag != name or at == place] + about)


def encoded(manifests: Sequence[Plain]) -> bytes:
    """index.json with these entries."""
    return Index.of(manifests).encode()
