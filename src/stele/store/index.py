"""The layout's index.json, and the indexes and manifests by which signatures are found. Pure: plain data in and out.

Releases are tagged `<workload>-<12 hex>`; what refers to one is listed in the index tagged `sha256-<hex>` (OCI
distribution-spec, referrers tag schema), its older signatures in the manifest tagged `sha256-<hex>.sig` (cosign).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

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
    from collections.abc import Collection, Iterable, Sequence

REF_NAME = "org.opencontainers.image.ref.name"
SUBJECT = "dev.stele.subject"  # of an untagged entry of index.json: the release that it refers to
IMAGE_KIND = {"kind": "dev.cosignproject.cosign/image"}  # by which cosign finds an image in a layout

Plain = dict[str, Any]
Entry = Mapping[str, Any]  # of an index that others read, too


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
    return _decode(data, what)[0]


def _decode(data: bytes, what: str) -> tuple[Plain, bool]:
    """`decode`, and whether it has no float: then msgspec writes it as json does."""
    plain = True
    try:
        value = _DECODER.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):  # json takes more than msgspec, and says what is none
        plain = False
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise damaged(f"{what} is not JSON") from error
    if not isinstance(value, dict) or not all(isinstance(value.get(key, []), list) for key in ("manifests", "layers")):
        raise damaged(f"{what} is not what it should be")
    return value, plain


def _no_float(text: str) -> NoReturn:
    raise ValueError(text)


_DECODER = msgspec.json.Decoder(float_hook=_no_float)


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


class Index:
    """What an index.json lists. Whoever has one only reads it: it is given to all who ask as long as the file says the same.

    `tags`: of the entries, in their order. `subjects`: of those without a tag, to what they say to refer; "" where they say nothing.
    """

    def __init__(self, entries: Iterable[Entry] = (), *, plain: bool = False) -> None:
        """Take the entries. `plain`: they have no floats."""
        self.entries = tuple(entries)
        self.plain = plain
        self.tags: list[str | None] = []
        self.subjects: list[str | None] = []
        for entry in self.entries:  # all that lasts longer the more there are
            notes = entry.get("annotations")
            tag, subject = (notes.get(REF_NAME), notes.get(SUBJECT, "")) if isinstance(notes, dict) else (None, "")
            self.tags.append(tag if tag is None else str(tag))
            self.subjects.append(str(subject) if tag is None else None)

    @classmethod
    def decode(cls, data: bytes) -> Index:
        """Raises `store.damaged`."""
        value, plain = _decode(data, "index.json")
        found = value.get("manifests", [])
        if not all(isinstance(entry, dict) for entry in found):
            raise damaged("index.json is not what it should be")
        return cls(found, plain=plain)

    def encode(self) -> bytes:
        """The file's bytes."""
        return encoded(self.entries, plain=self.plain)

    @functools.cached_property
    def _tagged(self) -> dict[str | None, Entry]:
        return dict(zip(self.tags, self.entries, strict=True))

    def tagged(self, tag: str) -> Entry | None:
        """The last entry with a tag."""
        return self._tagged.get(tag)

    def about(self, digest: str) -> list[Entry]:
        """Untagged entries that may refer to a release, in order: all but those that say to refer to another."""
        wanted = (digest, "")
        return [entry for subject, entry in zip(self.subjects, self.entries, strict=True) if subject in wanted]

    @functools.cached_property
    def images(self) -> list[tuple[str, Entry]]:
        """Entries that may be releases: image manifests that are neither artifacts nor signatures, in order, each with its digest.

        Raises like `descriptor`.
        """
        return [
            (descriptor(entry).digest, entry)
            for tag, entry in zip(self.tags, self.entries, strict=True)
            if not entry.get("artifactType") and not (tag or "").startswith("sha256-") and entry.get("mediaType") == MANIFEST_TYPE
        ]

    @functools.cached_property
    def image_digests(self) -> tuple[str, ...]:
        """Digests of all that may be releases, each once, in order. Raises like `descriptor`."""
        return tuple(dict.fromkeys(digest for digest, _ in self.images))

    def named(self, name: str) -> list[str]:
        """Digests of what may be a release of the workload, or with the tag, `name`, each once, in order. Raises like `descriptor`."""
        found = ((digest, annotations_of(entry)) for digest, entry in self.images)
        return list(dict.fromkeys(digest for digest, notes in found if name in {notes.get(ANNOTATION_WORKLOAD, name), notes.get(REF_NAME)}))


def referrer_entry(item: Referrer, subject: str = "") -> Plain:
    """A referrer as an index of referrers lists it, or, with the digest of its `subject`, index.json."""
    notes = {**item.annotations, SUBJECT: subject} if subject else item.annotations
    return {**item.descriptor.plain(), "artifactType": item.artifact_type, "annotations": notes}


def merged_referrers(present: Entry | None, new: Iterable[Referrer]) -> bytes:
    """The index of referrers with `new` added to those that are there."""
    entries = {item["digest"]: item for item in (present or {}).get("manifests", [])}
    entries.update({item.descriptor.digest: referrer_entry(item) for item in new})
    return canonical.encode({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": list(entries.values())})


def merged_signatures(present: Entry | None, new: Iterable[SimpleSignature]) -> tuple[bytes, bytes]:
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
    kept = [
        entry
        for tag, entry in zip(index.tags, index.entries, strict=True)
        if tag != name and not (tag is None and entry.get("digest") in added)
    ]
    return Index([*added.values(), {**referrers.plain(), "annotations": {REF_NAME: name}}, *kept], plain=index.plain)


def without(index: Index, gone: Collection[str]) -> Index:
    """index.json without the untagged entries of some digests."""
    entries = zip(index.tags, index.entries, strict=True)
    return Index([entry for tag, entry in entries if tag is not None or entry.get("digest") not in gone], plain=index.plain)


def with_publication(index: Index, item: Publication, referrers: Descriptor, signatures: Descriptor) -> Index:
    """index.json with a release and what belongs to it; the release becomes the newest, unless the publication says otherwise."""
    release = item.release
    name = reference_name(release.workload, release.digest)
    own = {name, referrers_tag(release.digest), signatures_tag(release.digest)}
    gone = {referrer.descriptor.digest for referrer in item.referrers}
    kept: list[Entry] = []
    place: int | None = None
    for tag, entry in zip(index.tags, index.entries, strict=True):
        if tag == name and not item.newest:
            place = len(kept)
        if tag not in own and not (tag is None and entry.get("digest") in gone):
            kept.append(entry)
    kept += [referrer_entry(referrer, release.digest) for referrer in item.referrers]
    kept.append({**referrers.plain(), "annotations": {REF_NAME: referrers_tag(release.digest)}})
    kept.append({**signatures.plain(), "annotations": {REF_NAME: signatures_tag(release.digest)}})
    mine = {**release.subject.plain(), "annotations": {REF_NAME: name, ANNOTATION_WORKLOAD: release.workload, **IMAGE_KIND}}
    if place is None:
        kept.append(mine)
    else:
        kept.insert(place, mine)
    return Index(kept, plain=index.plain)


def encoded(manifests: Sequence[Entry], *, plain: bool = False) -> bytes:
    """index.json with these entries: as json writes it. `plain`: they have no floats, which msgspec writes otherwise."""
    whole = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}
    if plain:  # a tenth of the time
        try:
            text = msgspec.json.encode(whole, order="sorted")
        except UnicodeEncodeError:  # half of a pair of surrogates
            text = b"\x7f"
        if text.isascii() and b"\x7f" not in text:  # what msgspec does not escape
            return msgspec.json.format(text, indent=1) + b"\n"
    return json.dumps(whole, indent=1, sort_keys=True).encode("ascii") + b"\n"
