"""Attesting a release: SBOM and provenance, signed and attached. What they say was found out by others."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from stele.model.release import TREE_TYPE
from stele.seal import attest, bom_identity, provenance
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stele.flow.asked import Asked
    from stele.model.release import Referrer, Release
    from stele.seal.sources.source import Input
    from stele.store.layout import Layout
    from stele.trust.release_key import ReleaseSigner


class From(msgspec.Struct, frozen=True):
    """What a release was made from. `kind`, `reference`, `input_digest`, `inputs`: as in `Source`. `names`: of files and symlinks."""

    kind: str
    names: Callable[[], Sequence[bytes]]
    reference: str = ""
    input_digest: str = ""
    inputs: Sequence[Input] = ()


def materials(asked: Asked, found: From, local: Sequence[str], release: Release) -> list[provenance.Material]:
    """What the release is made from, by digest: the image or the folder, the commits of source and spec.

    `local`: the sources of the spec's settings.
    """
    made = []
    if found.input_digest:
        algorithm, _, digest = found.input_digest.partition(":")
        made.append(provenance.Material(name="source", digest={algorithm: digest}))
    for item in found.inputs:
        algorithm, _, digest = item.digest.partition(":")
        made.append(provenance.Material(name="input", uri=item.uri, digest={algorithm: digest} if digest else {}))
    if found.kind == "folder" and isinstance(asked.source, Path):
        # a folder's identity is that of its tree, to which settings and mount points were added
        digest = release.tree_digest.removeprefix("sha256:")
        made.append(provenance.Material(name="source", digest={"sha256": digest}, media_type=TREE_TYPE))
        made += _commit("source-commit", asked.source, found.names, whole=True)
    elif found.kind in {"containerfile", "debian"} and isinstance(asked.source, Path):
        made += _of_recipe(asked.source, whole=found.kind == "containerfile")
    names = [os.fsencode(os.path.normpath(name)) for name in (asked.spec_file.name, *local)]
    made += _commit("spec-commit", asked.spec_file.parent, lambda: names, whole=False)
    return made


def _of_recipe(source: Path, *, whole: bool) -> list[provenance.Material]:
    """The commit of what a source is made by: of a Containerfile and its context (`whole`), of a package list."""
    from stele.seal import checkout

    folder = source if source.is_dir() else source.parent
    return _commit("source-commit", folder, lambda: checkout.names_below(folder) if whole else [os.fsencode(source.name)], whole=whole)


def _commit(name: str, folder: Path, names: Callable[[], Sequence[bytes]], *, whole: bool) -> list[provenance.Material]:
    try:
        real = folder.resolve()
        if not any(os.path.lexists(top / ".git") for top in (real, *real.parents)):
            return []
        from stele.seal import checkout

        found = checkout.find(real, names(), whole=whole)
    except OSError:
        return []
    return [provenance.from_checkout(name, found)] if found else []


def attach(
    release: Release,
    found: From,
    asked: Asked,
    *,
    store: Layout,
    key: ReleaseSigner,
    bom: bytes,
    made_from: Sequence[provenance.Material],
    looked: dict[str, object],
    now: int,
) -> tuple[Referrer, ...]:
    """Attest SBOM and provenance; the result is to be published with the release.

    Args:
        release: the subject.
        found: its source.
        asked: by the person who seals.
        store: takes them.
        key: signs them.
        bom: the SBOM.
        made_from: `materials`.
        looked: what the search for credentials looked at, plain data.
        now: seconds since 1970.

    Raises:
        SteleError: `store.*`.
    """
    parameters = provenance.Parameters(
        kind=found.kind,
        source=asked.source.resolve().name if isinstance(asked.source, Path) else str(asked.source),
        reference=found.reference,
        spec_digest=hashlib.sha256(asked.spec).hexdigest(),
        compression=asked.compression,
    )
    run = provenance.Run(str(uuid.uuid4()), asked.started, now)
    predicate = provenance.predicate(release, parameters, made_from, run, looked)
    new = [attest.attest(release, bom_identity.PREDICATE_TYPE, bom, key, store)]
    if not _is_told(store, release.digest, predicate):
        new.append(attest.attest(release, provenance.PREDICATE_TYPE, predicate, key, store))
    return tuple(new)


def _is_told(store: Layout, digest: str, predicate: bytes) -> bool:
    """Whether the same build of the same release is attested already: a seal that changes nothing adds nothing."""
    with contextlib.suppress(SteleError):
        return any(provenance.is_same_build(predicate, other) for other in store.attestations(digest, provenance.PREDICATE_TYPE))
    return False


def commit_of(made_from: Sequence[provenance.Material]) -> dict[str, object]:
    """For the person who seals: the commit ("" without one), and whether the checkout had changes."""
    commit = next((material for material in made_from if "gitCommit" in material.digest), None)
    return {
        "commit": commit.digest["gitCommit"] if commit else "",
        "dirty": commit.annotations.get("dirty") if commit else None,
    }
