"""What comes with a release: its SBOM and its provenance, both signed; and what keeps credentials out of it."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

import msgspec

from stele.host import durable
from stele.seal import bom_identity, packages, provenance, sbom, sbom_forms, secret_rules, secrets
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stele.flow.places import Places
    from stele.model.ports import ContentReader
    from stele.model.spec import Spec
    from stele.model.tree import Tree
    from stele.seal.packages import Package
    from stele.seal.release import Begun
    from stele.store.layout import Layout

DIGEST = 32  # bytes of one record of the cache
MAX_CACHE = 64 << 20  # bytes; then it begins anew
SHOWN = 10  # findings that are told one by one
_DISTRIBUTION = frozenset({"deb", "apk", "rpm"})


class Examined(msgspec.Struct, frozen=True):
    """A tree that may be sealed. `notes`: what a person should be told."""

    packages: tuple[Package, ...]
    report: secrets.Report
    notes: tuple[str, ...]


def examine(places: Places, tree: Tree, contents: ContentReader, records: ContentReader, spec: Spec) -> Examined:
    """Find packages and refuse credentials, before anything is written to the store.

    Args:
        places: the data folder.
        tree: the whole tree.
        contents: the bytes of its files.
        records: the same; asked for what package managers wrote.
        spec: the workload's.

    Raises:
        SteleError: `seal.secret-found`, and those of `contents`.
    """
    known = packages.find(tree, records)
    packaged = (path for package in known if package.ecosystem in _DISTRIBUTION for path in package.paths)
    cache = places.data / "cache" / f"secrets-{secret_rules.VERSION}"
    report = secrets.scan(tree, contents, spec, packaged, clean_contents(cache))
    remember(cache, report.clean)
    report.check()
    notes = [f"{item.place}, line {item.line}: looks like a credential ({item.rule}), and is sealed" for item in report.told[:SHOWN]]
    if len(report.told) > SHOWN:
        notes.append(f"{len(report.told) - SHOWN} more places look like credentials in packages' tests and documents, and are sealed")
    notes += [f"secrets: allow: {entry.path} ({entry.rule}) matches nothing" for entry in report.unused]
    return Examined(known, report, tuple(notes))


def clean_contents(cache: Path) -> frozenset[str]:
    """Digests of contents that were looked at before and hold no credentials."""
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


def remember(cache: Path, clean: Sequence[str]) -> None:
    """Add to the cache; a seal does not depend on it."""
    if clean:
        with contextlib.suppress(OSError, SteleError):
            durable.make_dirs(cache.parent)
            fd = os.open(cache, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.write(fd, bytes.fromhex("".join(clean)))
            finally:
                os.close(fd)


def bill(begun: Begun, tree: Tree, contents: ContentReader, spec: Spec) -> bytes:
    """The SBOM of what is being sealed."""
    return sbom.build(tree, contents, spec, begun.packages, begun.tree_digest)


def looked(report: secrets.Report) -> dict[str, object]:
    """For the provenance: what the search for credentials looked at."""
    return {"rules": secret_rules.VERSION, "told": len(report.told), "allowed": len(report.allowed)}


def plain(examined: Examined) -> dict[str, Any]:
    """For the person who seals."""
    return {
        "sbom": {"packages": len(examined.packages)},
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
    found = store.attestations(digest, {"sbom": bom_identity.PREDICATE_TYPE, "provenance": provenance.PREDICATE_TYPE}[what])
    if not found:
        raise SteleError(
            f"release {digest[:19]} has no {what} here",
            remedy="pull it again with `stele pull --whole`: updates leave it out; or copy what refers to it (the tag sha256-<hex>)",
            code="store.no-attestation",
        )
    if what == "sbom" and form != sbom_forms.FORMS[0]:
        return sbom_forms.convert(found[-1], form)
    return json.dumps(found[-1], indent=1, sort_keys=True)
