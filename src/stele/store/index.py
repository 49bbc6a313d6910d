"""The layout's index.json, and the indexes and manifests by which signatures are found. Pure: plain data in and out.

Releases are tagged `<workload>-<12 hex>`; what refers to one is listed in the index tagged `sha256-<hex>` (OCI
distribution-spec, referrers tag schema), its older signatures in the manifest tagged `sha256-<hex>.sig` (cosign).
"""

from __future__ import annotations

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
    from collections.abc import Iterable

REF_NAME = "org.opencontainers.image.ref.name"
IMAGE_KIND = {"kind": "dev.cosignproject.cosign/image"}  # by which cosign finds an image in a layout
MAX_BYTES = 64 << 20

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
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise damaged(f"{what} is not JSON") from error
    if not isinstance(value, dict) or not all(isinstance(value.get(key, []), list) for key in ("manifests", "layers")):
        raise damaged(f"{what} is not what it should be")
    return value


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


def is_tagged(entry: Any) -> bool:
    """Whether an entry has a tag."""
    return _tag(entry) is not None


def _tag(entry: Any) -> str | None:
    """The tag of an entry. All entries are asked each time: it makes nothing."""
    found = entry.get("annotations") if isinstance(entry, dict) else None
    tag = found.get(REF_NAME) if isinstance(found, dict) else None
    return tag if tag is None else str(tag)


def tagged(index: Plain, tag: str) -> Plain | None:
    """The last entry with a tag."""
    return next((item for item in reversed(index.get("manifests", [])) if _tag(item) == tag), None)


def image_entries(index: Plain) -> list[Plain]:
    """Entries that may be releases: image manifests that are neither artifacts nor signatures, in order."""
    found = []
    for item in index.get("manifests", []):
        tag = _tag(item) or ""
        if item.get("mediaType") == MANIFEST_TYPE and not item.get("artifactType") and not tag.startswith("sha256-"):
            found.append(item)
    return found


def image_digests(index: Plain) -> list[str]:
    """Digests of all that may be releases, each once, in order. Raises like `descriptor`."""
    return list(dict.fromkeys(descriptor(item).digest for item in image_entries(index)))


def referrer_entry(item: Referrer) -> Plain:
    """A referrer as an index lists it."""
    return {**item.descriptor.plain(), "artifactType": item.artifact_type, "annotations": item.annotations}


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


def with_referrers(index: Plain, digest: str, items: Iterable[Referrer], referrers: Descriptor) -> bytes:
    """index.json with more that refers to the release `digest`, whose place among the releases stays. `referrers`: their index."""
    added = {item.descriptor.digest: referrer_entry(item) for item in items}
    tag = {**referrers.plain(), "annotations": {REF_NAME: referrers_tag(digest)}}
    kept = []
    for entry in index.get("manifests", []):
        name = annotations_of(entry).get(REF_NAME)
        if name is None and entry.get("digest") in added:
            continue
        if name != referrers_tag(digest):
            kept.append(entry)
    return encoded([*added.values(), tag, *kept])


def with_publication(index: Plain, item: Publication, referrers: Descriptor, signatures: Descriptor) -> bytes:
    """index.json with a release and what belongs to it; the release becomes the newest, unless the publication says otherwise."""
    release = item.release
    name = reference_name(release.workload, release.digest)
    own = {name, referrers_tag(release.digest), signatures_tag(release.digest)}
    gone = {referrer.descriptor.digest for referrer in item.referrers}
    kept: list[Plain] = []
    place: int | None = None
    for entry in index.get("manifests", []):
        tag = annotations_of(entry).get(REF_NAME)
        if tag == name and not item.newest:
            place = len(kept)
        if tag not in own and not (entry.get("digest") in gone and tag is None):
            kept.append(entry)
    kept += [referrer_entry(referrer) for referrer in item.referrers]
    kept.append({**referrers.plain(), "annotations": {REF_NAME: referrers_tag(release.digest)}})
    kept.append({**signatures.plain(), "annotations": {REF_NAME: signatures_tag(release.digest)}})
    mine = {**release.subject.plain(), "annotations": {REF_NAME: name, ANNOTATION_WORKLOAD: release.workload, **IMAGE_KIND}}
    if place is None:
        kept.append(mine)
    else:
        kept.insert(place, mine)
    return encoded(kept)


def encoded(manifests: list[Plain]) -> bytes:
    """index.json with these entries."""
    whole = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}
    # what `indent` makes of it takes tens of microseconds for each entry
    return msgspec.json.format(json.dumps(whole, sort_keys=True).encode("ascii"), indent=1) + b"\n"
