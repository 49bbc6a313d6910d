"""Removing from a store what nothing names: what killed seals and pulls left, and what was replaced (docs/spec/store.md, Removing)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from stele.flow import packing, upkeep
from stele.store import census, checking, drafts, removal
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from stele.flow.places import Places
    from stele.flow.upkeep import Record
    from stele.store.census import Census
    from stele.store.checking import Files
    from stele.store.layout import Layout


class Leftover(NamedTuple):
    """A file that nothing needs. `held`: bytes that it takes on the disk."""

    path: str
    what: Literal["unnamed", "partial", "damaged"]
    held: int


class Pruned(NamedTuple):
    """What was removed, or would be. `strays`: files that are not the store's and stay. `aside`: bytes set aside by repairs that stay."""

    gone: tuple[Leftover, ...]
    strays: tuple[str, ...]
    aside: int

    @property
    def held(self) -> int:
        """Bytes of the disk."""
        return sum(item.held for item in self.gone)


def run(places: Places, store: Layout, *, damaged: bool, dry_run: bool, record: Record) -> Pruned:
    """Prune a data folder's store; its ledger says what is in use. See `prune`."""
    return prune(store, lambda: packing.in_use(places), damaged=damaged, dry_run=dry_run, record=record)


def prune(store: Layout, in_use: Callable[[], Iterable[str]], *, damaged: bool, dry_run: bool, record: Record) -> Pruned:
    """Remove what nothing names, while nobody adds anything.

    Args:
        store: the store.
        in_use: digests of releases that are in use.
        damaged: also what repairs set aside.
        dry_run: only say what would be removed.
        record: commits an event, before the first file goes.

    Raises:
        SteleError: `store.busy`, `store.damaged` (what is needed cannot be known), `store.not-writable`, `ledger.*`, `agent.*`. Nothing was
            removed then.
    """
    with store.removing(), store.changing():
        files = checking.look(store, lambda _: None, hashing=False)
        taken = census.take(store)
        _be_certain(store, taken, in_use())
        gone = [*_unnamed(taken, files), *_partials(store)]
        aside = [Leftover(path, "damaged", _held(store, path)) for path in files.aside]
        if damaged:
            gone += aside
        if not dry_run:
            upkeep.removing(record, "unnamed", store.root, [item.path for item in gone if item.what != "damaged"])
            upkeep.removing(record, "damaged", store.root, [item.path for item in gone if item.what == "damaged"])
            removal.remove(store.root, [store.root / item.path for item in gone])
    return Pruned(tuple(gone), files.stray, 0 if damaged else sum(item.held for item in aside))


def _be_certain(store: Layout, taken: Census, in_use: Iterable[str]) -> None:
    """Every document that says what is needed must be here and whole."""
    if taken.broken:
        raise _unknown(f"index.json: {taken.broken[0]}")
    for part in dict.fromkeys(part for _, part in taken.parts() if part.form == "manifest" or part.role == "config"):
        state = checking.look_at(store, part.path) if (store.root / part.path).exists() else None
        if state is None or state.wrong:
            raise _unknown(f"{part.path} ({part.role}) {state.wrong if state else 'is missing'}")
    for holding in taken.holdings:
        if holding.wrong:
            raise _unknown(f"{census.blob_path(holding.digest)}: {holding.wrong[0]}")
    here = {holding.digest for holding in taken.holdings}
    for digest in in_use:
        if digest not in here and store.has_blob(digest):
            raise _unknown(f"the release {digest[:19]} is in use, and index.json does not name it")


def _unknown(reason: str) -> SteleError:
    return SteleError(
        f"nothing is removed, because what is needed cannot be known: {reason}",
        remedy="`stele store check` says what is wrong, `stele store repair` mends it; then prune again",
        code="store.damaged",
    )


def _unnamed(taken: Census, files: Files) -> list[Leftover]:
    named = {part.path for _, part in taken.parts()}
    return [Leftover(path, "unnamed", state.held) for path, state in sorted(files.states.items()) if path not in named]


def _partials(store: Layout) -> list[Leftover]:
    paths = [f"partial/{name}" for name in drafts.idle_partials(store.root)]
    return [Leftover(path, "partial", _held(store, path)) for path in paths]


def _held(store: Layout, path: str) -> int:
    return (store.root / path).lstat().st_blocks * 512
