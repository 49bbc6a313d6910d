"""Checking a whole store: every file, every index, every signature, and whether each release can be had (docs/spec/store.md, Checking)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stele.flow import deltas, packing
from stele.host import immutable
from stele.store import census, checking
from stele.store.checking import Finding
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stele.model.release import Release
    from stele.store.census import Census, Holding, Part
    from stele.store.checking import Files
    from stele.store.layout import Layout


class Report(NamedTuple):
    """What a check found. `whole`, `packed`: digests of the releases that can be had, by how. `proven`: packed ones that were unpacked."""

    findings: tuple[Finding, ...]
    taken: Census
    files: Files
    whole: tuple[str, ...]
    packed: tuple[str, ...]
    proven: tuple[str, ...] = ()

    @property
    def problems(self) -> list[Finding]:
        """What is lost, or not to be relied on."""
        return [item for item in self.findings if item.is_problem]

    @property
    def notes(self) -> list[Finding]:
        """What does no harm."""
        return [item for item in self.findings if not item.is_problem]


def check(store: Layout, running: Mapping[str, str], say: Callable[[str], None], *, deep: bool = False) -> Report:
    """Check everything of a store; nothing is changed. Meanwhile nothing is removed; what is added may count as unnamed.

    Args:
        store: the store.
        running: digests of releases in use, each with the reason (`packing.in_use`).
        say: told how far it is.
        deep: unpack every packed release besides, and compare it with its signed digests.

    Raises:
        SteleError: `store.not-writable`: the folder cannot be locked.
    """
    with store.looking():
        files = checking.look(store, say)
        report = judge(store, files, running)
        if deep:
            report = _unpacked(store, report, say)
    return report


def judge(store: Layout, files: Files, running: Mapping[str, str]) -> Report:
    """What the state of the files means."""
    taken = census.take(store)
    found = [*checking.layout_file(store), *_pins(store, taken)]
    found += [Finding("index", "index.json", reason, role="index") for reason in taken.broken]
    found += [Finding("odd", "index.json", reason, role="index") for reason in taken.odd]
    needed: dict[Part, list[str]] = {}
    for digest, part in taken.parts():
        who = needed.setdefault(part, [])
        if digest and digest not in who:
            who.append(digest)
    for part in needed:
        if part.path not in files.states and (store.root / part.path).exists():  # it came since: somebody seals
            files.states[part.path] = checking.look_at(store, part.path)
    had = _Had(store, taken, files)
    for part, who in needed.items():
        finding = checking.compare(part, files, who)
        if finding is not None:
            found.append(had.softened(finding, part))
    for holding in taken.holdings:
        found += _of_holding(store, holding, files, running)
    found += checking.unnamed(files, {part.path for part in needed})
    found += [Finding("stray", path, "is no file of a store", role="stray") for path in files.stray]
    found += [Finding("aside", path, "was set aside by a repair", role="aside") for path in files.aside]
    known = [holding.release for holding in taken.holdings if holding.release is not None]
    whole = tuple(release.digest for release in known if had.whole(release.digest))
    packed = tuple(release.digest for release in known if not had.whole(release.digest) and had.packed(release.digest))
    unique = dict.fromkeys(sorted(found, key=lambda item: (not item.is_problem, item.path, item.kind)))
    return Report(tuple(unique), taken, files, whole, packed)


class _Had:
    """Which releases can be had, from what is whole."""

    def __init__(self, store: Layout, taken: Census, files: Files) -> None:
        self._store = store
        self._good = {path for path, state in files.states.items() if not state.wrong}
        self._releases = {holding.digest: holding.release for holding in taken.holdings if holding.release is not None}
        self._offers: dict[str, list[deltas.Offer]] = {}

    def is_good(self, path: str) -> bool:
        return path in self._good

    def stratum(self, release: Release, name: str) -> bool:
        """Whether a stratum is whole in one form at least."""
        found = next(item for item in release.strata if item.name == name)
        return self.is_good(census.image_path(found.image)) or self.is_good(census.blob_path(found.layer.digest))

    def tree(self, release: Release) -> bool:
        """Whether a release's tree is here, or all layers, of which it can be made: images alone do not make it."""
        layers = [census.blob_path(item.layer.digest) for item in release.strata]
        return self.is_good(census.blob_path(release.tree_digest)) or all(map(self.is_good, layers))

    def whole(self, digest: str) -> bool:
        release = self._releases.get(digest)
        return release is not None and self.tree(release) and all(self.stratum(release, item.name) for item in release.strata)

    def packed(self, digest: str) -> bool:
        """Whether deltas that are whole lead to a release."""
        return bool(deltas.cheapest(digest, self._offered, lambda base: base == deltas.EMPTY or self.whole(base)))

    def _offered(self, digest: str) -> list[deltas.Offer]:
        if digest not in self._offers:
            self._offers[digest] = []
            try:
                for offer in deltas.offers(digest, self._store.referrers(digest)):
                    its = deltas.artifact(self._store, offer)
                    blobs = [its.delta, *([its.cut] if its.cut else [])]
                    if all(self.is_good(census.blob_path(blob.digest)) for blob in blobs):
                        self._offers[digest].append(offer)
            except SteleError:
                pass
        return self._offers[digest]

    def softened(self, finding: Finding, part: Part) -> Finding:
        """A file that is missing and can be made again is no loss."""
        if finding.kind != "missing" or part.role not in {"tree", "layer", "image"}:
            return finding
        users = [self._releases[digest] for digest in finding.releases if digest in self._releases]
        if not users or len(users) < len(finding.releases):
            return finding
        for release in users:
            by_stratum = bool(part.stratum) and self.stratum(release, part.stratum)
            if not (by_stratum or self.packed(release.digest) or (part.role == "tree" and self.tree(release))):
                return finding
        return finding._replace(kind="absent", reason=finding.reason.replace("is missing", "is not kept; it is made again when needed"))


def _of_holding(store: Layout, holding: Holding, files: Files, running: Mapping[str, str]) -> list[Finding]:
    """What is wrong with a release besides its files."""
    found = [Finding("unreadable", census.blob_path(holding.digest), reason, (holding.digest,)) for reason in holding.wrong]
    if holding.release is None:
        return found
    try:
        store.check_signature(holding.digest)
    except SteleError as error:
        found.append(Finding("signature", census.blob_path(holding.digest), error.reason, (holding.digest,), error.code))
    if holding.digest in running and immutable.is_possible(store.root / "tmp"):
        for stratum in holding.release.strata:
            path = census.image_path(stratum.image)
            state = files.states.get(path)
            if state is not None and not state.wrong and not state.immutable:
                reason = f"can be written to, though its release is in use ({running[holding.digest]})"
                found.append(Finding("mutable", path, reason, (holding.digest,), "image"))
    return found


def _pins(store: Layout, taken: Census) -> list[Finding]:
    try:
        unknown = packing.pins(store) - {holding.digest for holding in taken.holdings}
    except SteleError as error:
        return [Finding("damaged", "pins", error.reason, role="pins")]
    return [Finding("damaged", "pins", f"names {digest[:19]}, which is not here", role="pins") for digest in sorted(unknown)]


def _unpacked(store: Layout, report: Report, say: Callable[[str], None]) -> Report:
    """Unpack what is packed and compare it; nothing of it is kept."""
    proven, failed = [], []
    for digest in report.packed:
        say(f"unpacking {digest[:19]}")
        release = store.find(digest)
        try:
            offer = deltas.way_here(store, release)[-1]
            packing.prove(store, None if offer.base == deltas.EMPTY else store.find(offer.base), release, offer)
            proven.append(digest)
        except SteleError as error:
            failed.append(Finding("unreadable", census.blob_path(digest), f"does not come out of its deltas: {error.reason}", (digest,)))
    return report._replace(proven=tuple(proven), findings=(*failed, *report.findings))
