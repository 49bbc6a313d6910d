"""SLSA provenance v1 of a seal (docs/spec/provenance.md): from what, by what, when. Pure: the times are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from stele import __version__
from stele.model.release import TREE_TYPE, rfc3339
from stele.trust import canonical
from stele.trust.digest import digest_hex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.model.release import Release
    from stele.seal.checkout import Checkout

PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://stele.dev/spec/provenance/v0"
BUILDER = "https://stele.dev/builder/local/v0"


class Material(msgspec.Struct, frozen=True):
    """What a release was made from. `digest`: algorithm → hex. `annotations`: plain data."""

    name: str
    digest: dict[str, str]
    uri: str = ""
    media_type: str = ""
    annotations: dict[str, Any] = {}


class Run(msgspec.Struct, frozen=True):
    """One run of `stele seal`. `invocation`: an id of its own. `started`, `finished`: seconds since 1970."""

    invocation: str
    started: int
    finished: int


class Parameters(msgspec.Struct, frozen=True):
    """What the person who sealed chose.

    `kind`, `reference`: of the source. `source`: the last part of its path. `spec_digest`: SHA-256 of the spec file, hex.
    """

    kind: str
    source: str
    reference: str
    spec_digest: str
    compression: str


def from_checkout(name: str, checkout: Checkout) -> Material:
    """The commit that a folder was taken from. What could not be told is left out."""
    facts = {"dirty": checkout.dirty, "modified": checkout.modified, "untracked": checkout.untracked, "staged": checkout.staged}
    folder = checkout.folder.decode("utf-8", "backslashreplace")
    return Material(
        name=name,
        uri=checkout.url,
        digest={"gitCommit": checkout.commit},
        annotations={key: value for key, value in facts.items() if value is not None} | ({"folder": folder} if folder else {}),
    )


def predicate(release: Release, parameters: Parameters, materials: Sequence[Material], run: Run, found: dict[str, Any]) -> bytes:
    """The predicate, canonical JSON.

    Args:
        release: the subject.
        parameters: external parameters of the build definition.
        materials: resolved dependencies.
        run: who is answered by `metadata`.
        found: what the search for credentials looked at, plain data, a byproduct.
    """
    source = {"kind": parameters.kind, "name": parameters.source}
    if parameters.reference:
        source["reference"] = parameters.reference
    return canonical.encode(
        {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "source": source,
                    "spec": {"digest": {"sha256": parameters.spec_digest}},
                    "compression": parameters.compression,
                },
                "internalParameters": {"workload": release.workload, "time": release.spec.time},
                "resolvedDependencies": [_descriptor(material) for material in materials],
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"stele": __version__}},
                "metadata": {
                    "invocationId": run.invocation,
                    "startedOn": rfc3339(run.started),
                    "finishedOn": rfc3339(run.finished),
                },
                "byproducts": [
                    {"name": "tree", "mediaType": TREE_TYPE, "digest": {"sha256": digest_hex(release.tree_digest)}},
                    {"name": "secrets", "annotations": found},
                ],
            },
        }
    )


def _descriptor(material: Material) -> dict[str, Any]:
    extras = (("uri", material.uri), ("mediaType", material.media_type), ("annotations", material.annotations))
    return {"name": material.name, "digest": material.digest} | {key: value for key, value in extras if value}


def is_same_build(new: bytes, other: dict[str, Any]) -> bool:
    """Whether a predicate tells of the same inputs, builder and findings as one that was made before; only the run differs."""
    mine = canonical.decode(new)
    runs = [dict(item.get("runDetails", {})) for item in (mine, other)]
    for run in runs:
        run.pop("metadata", None)
    return bool(mine["buildDefinition"] == other.get("buildDefinition") and runs[0] == runs[1])
