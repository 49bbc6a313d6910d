"""What comes with a release: its SBOM and its provenance, both signed; and what keeps credentials out of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stele.host import durable
from stele.model.release import TREE_TYPE
from stele.seal import attest, checkout, packages, provenance, sbom, sbom_forms, secret_rules, secrets
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.flow.places import Places
    from stele.model.ports import ContentReader
    from stele.model.reference import Reference
    from stele.model.release import Release
    from stele.model.spec import Spec
    from stele.model.tree import Tree
    from stele.seal.packages import Package
    from stele.seal.release import Sealed
    from stele.seal.sources.source import Source
    from stele.store.layout import Layout
    from stele.trust.release_key import ReleaseSigner

DIGEST = 32  # bytes of one record of the cache
MAX_CACHE = 64 << 20  # bytes; then it begins anew
SHOWN = 10  # findings that are told one by one
_DISTRIBUTION = frozenset({"deb", "apk", "rpm"})


class Examined(NamedTuple):
    """A tree that may be sealed. `notes`: what a person should be told."""

    packages: tuple[Package, ...]
    report: secrets.Report
    notes: tuple[str, ...]


class Asked(NamedTuple):
    """What was asked of a seal. `source`: a path, an image in a registry, or the name of a release. `started`: seconds since 1970."""

    source: Path | Reference | str
    spec_file: Path
    compression: str
    started: int


class Attested(NamedTuple):
    """A release with its attestations. `packages`: how many the SBOM names. `commit`: of the source, "" without one."""

    sealed: Sealed
    packages: int
    commit: str
    dirty: bool | None


def examine(places: Places, tree: Tree, contents: ContentReader, spec: Spec) -> Examined:
    """Find packages and refuse credentials, before anything is written to the store.

    Raises:
        SteleError: `seal.secret-found`, and those of `contents`.
    """
    known = packages.find(tree, contents)
    packaged = (path for package in known if package.ecosystem in _DISTRIBUTION for path in package.paths)
    cache = places.data / "cache" / f"secrets-{secret_rules.VERSION}"
    report = secrets.scan(tree, contents, spec, packaged, _clean(cache))
    _remember(cache, report.clean)
    report.check()
    notes = [f"{item.place}, line {item.line}: looks like a credential ({item.rule}), and is sealed" for item in report.told[:SHOWN]]
    if len(report.told) > SHOWN:
        notes.append(f"{len(report.told) - SHOWN} more places look like credentials in packages' tests and documents, and are sealed")
    notes += [f"secrets: allow: {entry.path} ({entry.rule}) matches nothing" for entry in report.unused]
    return Examined(known, report, tuple(notes))


def _clean(cache: Path) -> frozenset[str]:
    try:
        data = cache.read_bytes()
    except OSError:
        return frozenset()
    if len(data) % DIGEST or len(data) > MAX_CACHE:
        with contextlib.suppress(OSError):
            cache.unlink()
        return frozenset()
    whole = data.hex()
    return frozenset(whole[at : at + 2 * DIGEST] for at in range(0, len(whole), 2 * DIGEST))


def _remember(cache: Path, clean: Sequence[str]) -> None:
    """Add to the cache; a seal does not depend on it."""
    if clean:
        with contextlib.suppress(OSError, SteleError):
            durable.make_dirs(cache.parent)
            fd = os.open(cache, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.write(fd, bytes.fromhex("".join(clean)))
            finally:
                os.close(fd)


def bill(sealed: Sealed, tree: Tree, contents: ContentReader) -> bytes:
    """The SBOM of what was sealed."""
    return sbom.build(tree, contents, sealed.release.spec, sealed.packages, sealed.release.tree_digest)


def materials(asked: Asked, found: Source, spec: Spec, release: Release) -> list[provenance.Material]:
    """What the release is made from, by digest: the image or the folder, the commits of source and spec."""
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
        names = [node.path for node in found.tree.nodes if node.kind in {"file", "symlink"}]
        made += _commit("source-commit", asked.source, names, whole=True)
    local = [asked.spec_file.name, *(setting.source for setting in spec.settings if setting.source)]
    made += _commit("spec-commit", asked.spec_file.parent, [os.fsencode(os.path.normpath(name)) for name in local], whole=False)
    return made


def _commit(name: str, folder: Path, names: Sequence[bytes], *, whole: bool) -> list[provenance.Material]:
    try:
        found = checkout.find(folder.resolve(), names, whole=whole)
    except OSError:
        return []
    return [provenance.from_checkout(name, found)] if found else []


def attach(
    examined: Examined,
    sealed: Sealed,
    found: Source,
    asked: Asked,
    *,
    store: Layout,
    key: ReleaseSigner,
    bom: bytes,
    made_from: Sequence[provenance.Material],
    now: int,
) -> Attested:
    """Attest SBOM and provenance; the result is to be signed and published.

    Args:
        examined: what `examine` said.
        sealed: the release.
        found: its source.
        asked: by the person who seals.
        store: takes them.
        key: signs them.
        bom: the SBOM.
        made_from: `materials`.
        now: seconds since 1970.

    Raises:
        SteleError: `store.*`.
    """
    release = sealed.release
    parameters = provenance.Parameters(
        kind=found.kind,
        source=asked.source.resolve().name if isinstance(asked.source, Path) else str(asked.source),
        reference=found.reference,
        spec_digest=hashlib.sha256(asked.spec_file.read_bytes()).hexdigest(),
        compression=asked.compression,
    )
    run = provenance.Run(str(uuid.uuid4()), asked.started, now)
    looked = {
        "rules": secret_rules.VERSION,
        "told": len(examined.report.told),
        "allowed": len(examined.report.allowed),
    }
    predicate = provenance.predicate(release, parameters, made_from, run, looked)
    new = [attest.attest(release, sbom.PREDICATE_TYPE, bom, key, store)]
    if not _is_told(store, release.digest, predicate):
        new.append(attest.attest(release, provenance.PREDICATE_TYPE, predicate, key, store))
    commit = next((material for material in made_from if "gitCommit" in material.digest), None)
    return Attested(
        sealed=sealed._replace(referrers=(*sealed.referrers, *new)),
        packages=len(sealed.packages),
        commit=commit.digest["gitCommit"] if commit else "",
        dirty=commit.annotations.get("dirty") if commit else None,
    )


def _is_told(store: Layout, digest: str, predicate: bytes) -> bool:
    """Whether the same build of the same release is attested already: a seal that changes nothing adds nothing."""
    with contextlib.suppress(SteleError):
        return any(provenance.is_same_build(predicate, other) for other in store.attestations(digest, provenance.PREDICATE_TYPE))
    return False


def plain(attested: Attested, examined: Examined) -> dict[str, Any]:
    """For the person who seals."""
    return {
        "sbom": {"packages": attested.packages},
        "provenance": {"commit": attested.commit, "dirty": attested.dirty},
        "secrets": {
            "looked_at": examined.report.files,
            "bytes": examined.report.size,
            "told": [item._asdict() for item in examined.report.told],
            "allowed": [item._asdict() for item in examined.report.allowed],
        },
    }


def shown(store: Layout, digest: str, what: str, form: str = sbom_forms.FORMS[0]) -> str:
    """What was attested of a release, as text: its `sbom` (in a form of `sbom_forms.FORMS`), or its newest `provenance`.

    Raises:
        SteleError: `store.no-attestation`, `store.bad-attestation`, `store.damaged`, `sbom.not-readable`.
    """
    found = store.attestations(digest, {"sbom": sbom.PREDICATE_TYPE, "provenance": provenance.PREDICATE_TYPE}[what])
    if not found:
        raise SteleError(
            f"release {digest[:19]} has no {what} here",
            remedy="copy the release again with what refers to it (the tag sha256-<hex>), or seal it again",
            code="store.no-attestation",
        )
    if what == "sbom" and form != sbom_forms.FORMS[0]:
        return sbom_forms.convert(found[-1], form)
    return json.dumps(found[-1], indent=1, sort_keys=True)
