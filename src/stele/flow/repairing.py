"""Repairing a store: what is damaged or lost is set aside, made again or fetched, at its digest or not at all (docs/spec/store.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stele.flow import mending, origins, packing, storecheck, upkeep
from stele.host import durable
from stele.model import reference as references
from stele.store import aside, census, checking, reindex
from stele.store.layout import LAYOUT
from stele.trust.digest import parse_digest
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from stele.flow.mending import Registries
    from stele.flow.places import Places
    from stele.flow.storecheck import Report
    from stele.flow.upkeep import Record
    from stele.model.release import Release, Stratum
    from stele.store.census import Part
    from stele.store.checking import Finding
    from stele.store.layout import Layout

PASSES = 6
# what others are made from comes first
_ORDER = (
    "oci-layout",
    "index",
    "manifest",
    "config",
    "referrers",
    "signatures",
    "referrer",
    "attached",
    "foreign",
    "tree",  # before what is made with it: whoever asks for a tree writes it anew over a damaged one
    "layer",
    "image",
)
_OF_INDEX = frozenset({"manifest", "referrers", "referrer", "signatures", "foreign", "attached"})


class Mended(NamedTuple):
    """A file that is whole again, or is needed no more. `how`: by which way; `aside`: where its damaged bytes are, "" if it had none."""

    path: str
    role: str
    how: str
    aside: str


class Repaired(NamedTuple):
    """What a repair did. `left`: what is still wrong, with why as its reason. `report`: the check after it."""

    mended: tuple[Mended, ...]
    left: tuple[Finding, ...]
    report: Report


def repair(
    store: Layout, running: Mapping[str, str], registries: Registries, order: Sequence[str], *, record: Record, say: Callable[[str], None]
) -> Repaired:
    """Check a store, mend what can be mended, and check again what was touched.

    Args:
        store: the store.
        running: as in `storecheck.check`.
        registries: where to ask for what cannot be made here.
        order: digests of releases as they came, for an index.json of which nothing is legible.
        record: commits an event: what is wrong before it is touched, and what became of it.
        say: told of each step.

    Raises:
        SteleError: `ledger.*`, `agent.*`: nothing was touched; `store.full`, `store.not-writable`: what was not mended is as it was.
    """
    with store.adding():
        work = _Repair(store, storecheck.judge(store, checking.look(store, say), running), running, registries, order, say)
        if not work.wanted:
            return work.done()
        try:
            upkeep.repairing(record, work.wanted)
        except SteleError as error:
            raise _unrecorded(error) from error
        try:
            return work.run()
        finally:
            done = work.done()
            upkeep.repaired(record, [(item.path, item.how, item.aside) for item in done.mended], done.left)


def _unrecorded(error: SteleError) -> SteleError:
    """What is to be said where the ledger does not take, or tell, what a repair needs: it is repaired first."""
    if not error.code.startswith(("ledger.", "trust.", "agent.")):
        return error
    return SteleError(
        f"nothing of the store was touched, because a repair is in the ledger first, and the ledger refuses: {error.reason}",
        remedy=f"{error.remedy}. Then repair the store (docs/guide/store.md, When the ledger is damaged, too);"
        " `stele store check` needs no ledger",
        code=error.code,
        retryable=error.retryable,
    )


class _Repair:
    def __init__(
        self,
        store: Layout,
        report: Report,
        running: Mapping[str, str],
        registries: Registries,
        order: Sequence[str],
        say: Callable[[str], None],
    ) -> None:
        self._store, self._report, self._running, self._say = store, report, running, say
        self._registries, self._order = registries, order
        self._mended: dict[str, Mended] = {}
        self._why: dict[str, str] = {}
        self._indexed = False
        self._came_back = False

    @property
    def wanted(self) -> list[Finding]:
        """What is to be mended."""
        return list(dict.fromkeys([*self._report.problems, *self._work()]))

    def done(self) -> Repaired:
        """What was mended so far, and what is left."""
        left = [item._replace(reason=self._why.get(item.path, item.reason)) for item in self._report.problems]
        return Repaired(tuple(self._mended.values()), tuple(left), self._report)

    def run(self) -> Repaired:
        """Mend."""
        for _ in range(PASSES):
            done = [self._try(finding) for finding in self._work()]
            if any(done):
                self._look_again()
            elif not self._try_index():
                break
        if {item.role for item in self._report.problems} == {"pins"}:  # else what they name may only be out of sight
            for finding in self._report.problems[:1]:
                self._try(finding)
            self._look_again()
        if self._came_back:
            self._look_again()
        return self.done()

    def _work(self) -> list[Finding]:
        """What is to be mended, what others are made from first; also images and trees of whole releases that are only absent."""
        wanted = [item for item in self._report.problems if item.role != "pins"]
        for item in self._report.notes:
            if item.kind == "absent" and item.role in {"image", "tree"} and set(item.releases) & set(self._report.whole):
                wanted.append(item)
        rank = {role: at for at, role in enumerate(_ORDER)}
        return sorted(wanted, key=lambda item: (rank.get(item.role, len(rank)), item.kind != "damaged", item.path))

    def _try(self, finding: Finding) -> bool:
        try:
            how, kept = self._mend(finding)
        except SteleError as error:
            if error.code in mending.PASSING:
                raise
            self._why[finding.path] = f"{finding.reason}; {error.reason}"
            return False
        if not how:
            return False
        self._say(f"{finding.path}: {how}")
        self._mended[finding.path] = Mended(finding.path, finding.role, how, str(kept.relative_to(self._store.root)) if kept else "")
        return True

    def _look_again(self) -> None:
        """Judge anew: files that changed since are hashed again, the others not."""
        before = self._report.files
        seen = checking.look(self._store, lambda _: None, hashing=False)
        states = {}
        for path, state in seen.states.items():
            known = before.states.get(path)
            is_same = known is not None and known.stamp == state.stamp
            states[path] = known if is_same and known is not None else checking.look_at(self._store, path)
        self._report = storecheck.judge(self._store, seen._replace(states=states), self._running)

    # --- by what it is

    def _mend(self, finding: Finding) -> tuple[str, Path | None]:
        """Returns by which way, or "", and where the damaged bytes are now."""
        if finding.kind == "mutable":
            return self._fix(finding), None
        if finding.role == "index":
            return "", None
        if finding.kind in {"signature", "unreadable"}:
            return "", None
        if finding.path.endswith(".erofs") or finding.path.startswith("blobs/"):
            state = checking.look_at(self._store, finding.path) if (self._store.root / finding.path).exists() else None
            if state is not None and not state.wrong:
                self._came_back = True  # with another one
                return "", None
        if finding.role == "unnamed":
            return "set aside: nothing needs it", aside.put(self._store.root, finding.path)
        moved = self._aside(finding)
        try:
            how = mending.first(list(self._ways(finding)))
        except BaseException:
            for path, kept in moved.items():
                aside.back(self._store.root, kept, path)
            raise
        return how, moved.get(finding.path)

    def _aside(self, finding: Finding) -> dict[str, Path]:
        """Set the damaged file aside; with an image its layer, too, if that is damaged: together they are made again from deltas."""
        paths = [finding.path]
        if finding.role == "image":
            for _, stratum in self._strata(finding):
                layer = census.blob_path(stratum.layer.digest)
                state = self._report.files.states.get(layer)
                if census.image_path(stratum.image) == finding.path and state is not None and state.wrong:
                    paths.append(layer)
        return {path: aside.put(self._store.root, path) for path in dict.fromkeys(paths) if (self._store.root / path).exists()}

    def _fix(self, finding: Finding) -> str:
        for _, stratum in self._strata(finding):
            if census.image_path(stratum.image) == finding.path:
                return "made immutable" if self._store.prepare_image(stratum).immutable else ""
        return ""

    def _ways(self, finding: Finding) -> Iterator[tuple[str, Callable[[], bool]]]:
        store, needs = self._store, list(finding.releases)
        if finding.role == "oci-layout":
            yield "written again", self._layout_file
            return
        if finding.role == "pins":
            yield "kept the pins that name a release here", self._pins
            return
        part = self._part(finding)
        fetched = lambda: mending.from_registry(store, self._registries, part, needs)  # noqa: E731
        if part.role in {"manifest", "config"}:
            yield "taken from a delta", lambda: mending.from_deltas(store, part, needs)
        if part.role not in {"layer", "image", "tree", "delta"}:
            yield "follows from others", lambda: mending.from_documents(store, part)
        if part.role == "tree":
            for release in self._releases(finding):
                yield "made again", lambda release=release: mending.tree(store, release)  # type: ignore[misc]
                yield (
                    "made again of layers that were fetched",
                    lambda release=release: mending.tree_with_layers(store, self._registries, release),  # type: ignore[misc]
                )
        if part.form == "image":
            yield from self._image_ways(finding, part, needs)
            return
        for release, stratum in self._strata(finding) if part.role == "layer" else ():
            if stratum.layer.digest == part.digest:
                yield "made from its image", lambda r=release, s=stratum: mending.layer_from_image(store, r, s)  # type: ignore[misc]
        if part.role == "delta":
            yield "made again", lambda: mending.delta(store, part, needs)
        yield "fetched from a registry", fetched
        if part.role == "layer":
            yield "set aside: its image is whole", lambda: self._has_image(part)
        if part.role == "delta":
            yield "let go: its release is whole", lambda: mending.drop_delta(store, part, needs)

    def _image_ways(self, finding: Finding, part: Part, needs: list[str]) -> Iterator[tuple[str, Callable[[], bool]]]:
        store = self._store
        for release, stratum in self._strata(finding):
            if stratum.image != part.digest:
                continue
            yield "made from its layer", lambda s=stratum: mending.image_from_layer(store, s)  # type: ignore[misc]
            yield "unpacked from deltas", lambda r=release, s=stratum: mending.image_from_deltas(store, r, s)  # type: ignore[misc]
            layer = census.Part(stratum.layer.digest, stratum.layer.size, "layer", stratum=stratum.name)
            yield (
                "made from its layer, fetched from a registry",
                lambda s=stratum, p=layer: mending.from_registry(store, self._registries, p, needs) and mending.image_from_layer(store, s),  # type: ignore[misc]
            )

    def _layout_file(self) -> bool:
        durable.write(self._store.root / "oci-layout", LAYOUT)
        return True

    def _has_image(self, part: Part) -> bool:
        states = self._report.files.states
        for holding in self._report.taken.holdings:
            for stratum in holding.release.strata if holding.release else ():
                state = states.get(census.image_path(stratum.image))
                if stratum.layer.digest == part.digest and (state is None or state.wrong):
                    return False
        return True

    def _pins(self) -> bool:
        here = {holding.digest for holding in self._report.taken.holdings}
        kept = []
        for line in self._lost_bytes("pins").decode("ascii", "replace").splitlines():
            try:
                digest = parse_digest(line)
            except SteleError:
                continue
            if digest in here:
                kept.append(digest)
        packing.write_pins(self._store, kept)
        return True

    def _lost_bytes(self, name: str) -> bytes:
        found = sorted((self._store.root / aside.FOLDER).glob(f"{name}.*"), key=lambda path: int(path.suffix[1:]))
        return found[-1].read_bytes() if found else b""

    # --- index.json

    def _try_index(self) -> bool:
        """Make index.json again where it is broken, or where that leaves fewer problems."""
        problems = self._report.problems
        broken = any(item.role == "index" for item in problems)
        suspect = any(item.role in _OF_INDEX or item.kind in {"signature", "unreadable"} for item in problems)
        if self._indexed or not (broken or suspect):
            return False
        self._indexed = True
        root = self._store.root
        with self._store.changing():
            kept = aside.keep(root, "index.json") if (root / "index.json").exists() else None
            if not reindex.rebuild(self._store, self._order):
                if kept is not None:
                    kept.unlink()
                return False
        self._look_again()
        self._say("index.json: made again")
        self._mended["index.json"] = Mended("index.json", "index", "made again", str(kept.relative_to(root)) if kept else "")
        return True

    # --- what a finding is about

    def _part(self, finding: Finding) -> Part:
        return next(part for _, part in self._report.taken.parts() if part.path == finding.path and part.role == finding.role)

    def _releases(self, finding: Finding) -> list[Release]:
        return [item.release for item in self._report.taken.holdings if item.release is not None and item.digest in finding.releases]

    def _strata(self, finding: Finding) -> list[tuple[Release, Stratum]]:
        return [(release, stratum) for release in self._releases(finding) for stratum in release.strata]


def run(
    places: Places, store: Layout, given: Sequence[str], *, local: bool, plain_http: bool, record: Record, say: Callable[[str], None]
) -> Repaired:
    """Repair a data folder's store. `given`: registries to ask besides those that the ledger knows; `local`: ask none. See `repair`."""
    try:
        known, order = origins.known(places)
        running = packing.in_use(places)
    except SteleError as error:
        raise _unrecorded(error) from error
    more = [references.parse(text) for text in given]
    with mending.Registries({} if local else known, more, plain_http=plain_http) as registries:
        return repair(store, running, registries, order, record=record, say=say)
