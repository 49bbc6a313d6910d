"""Removing from a store what nothing names: what killed seals and pulls left, and what was replaced (docs/spec/store.md, Removing)."""

from __future__ import annotations

import contextlib
import json
import re
import stat
from typing import TYPE_CHECKING, Literal, NamedTuple

from stele.flow import packing, upkeep
from stele.store import census, checking, drafts, removal
from stele.store.layout import MANIFEST_LIMIT
from stele.trust.digest import parse_digest
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from stele.flow.places import Places
    from stele.flow.upkeep import Record
    from stele.store.census import Census
    from stele.store.checking import Files
    from stele.store.layout import Layout

_PARTIAL = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ASIDE = re.compile(r"[0-9A-Za-z._-]+\.[0-9]+", re.ASCII)


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


def run(places: Places, store: Layout, *, damaged: bool, dry_run: bool, record: Record, wait: float = 0.0) -> Pruned:
    """Prune a data folder's store; its ledger says what is in use. See `prune`."""

    def in_use() -> list[str]:
        return [*packing.in_use(places), *packing.pins(store)]

    return prune(store, in_use, damaged=damaged, dry_run=dry_run, record=record, wait=wait)


def prune(store: Layout, in_use: Callable[[], Iterable[str]], *, damaged: bool, dry_run: bool, record: Record, wait: float = 0.0) -> Pruned:
    """Remove what nothing names, while nobody adds anything.

    Args:
        store: the store.
        in_use: digests of releases that are in use, or pinned.
        damaged: also what repairs set aside.
        dry_run: only say what would be removed.
        record: commits an event, before the first file goes.
        wait: seconds for which those who add may take to end; nobody new begins meanwhile.

    Raises:
        SteleError: `store.busy`, `store.damaged` (what is needed cannot be known), `store.not-writable`, `ledger.*`, `agent.*`. Nothing was
            removed then.
    """
    with store.removing(wait), store.changing():
        files = checking.look(store, lambda _: None, hashing=False)
        taken = census.take(store)
        _be_certain(store, taken, in_use())
        partial = [f"partial/{name}" for name in drafts.idle_partials(store.root)]
        gone = [*_unnamed(store, taken, files), *_own(store, "partial", partial, _PARTIAL)]
        aside = _own(store, "damaged", files.aside, _ASIDE)
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


def _unnamed(store: Layout, taken: Census, files: Files) -> list[Leftover]:
    named = {part.path for _, part in taken.parts()} | _mentioned(store, taken)
    return [Leftover(path, "unnamed", state.held) for path, state in sorted(files.states.items()) if path not in named]


def _mentioned(store: Layout, taken: Census) -> set[str]:
    """What documents name wherever they do: other tools have kinds of them that the census does not know."""
    left = [part.digest for _, part in taken.parts() if part.form == "manifest"]
    read: set[str] = set()
    found = {""}
    while left:
        digest = left.pop()
        if digest in read or not store.has_blob(digest):
            continue
        read.add(digest)
        for named, kind in _descriptors(store, census.blob_path(digest)):
            found |= {census.blob_path(named), census.image_path(named)}
            if kind.endswith("json") and ("manifest" in kind or "index" in kind):
                left.append(named)
    return found


def _descriptors(store: Layout, path: str) -> Iterator[tuple[str, str]]:
    """Every digest that a document names, with the media type that it gives."""
    if (store.root / path).lstat().st_size > MANIFEST_LIMIT:
        return  # no document; its bytes are somebody's
    if wrong := checking.look_at(store, path).wrong:
        raise _unknown(f"{path} {wrong}")
    try:
        left = [json.loads((store.root / path).read_bytes())]
    except (ValueError, RecursionError):
        return  # as it was meant to be: its digest holds
    while left:
        item = left.pop()
        if isinstance(item, dict):
            left += item.values()
            with contextlib.suppress(SteleError):
                yield parse_digest(str(item.get("digest"))), str(item.get("mediaType"))
        elif isinstance(item, list):
            left += item


def _own(store: Layout, what: Literal["partial", "damaged"], paths: Iterable[str], names: re.Pattern[str]) -> list[Leftover]:
    """Those that the store made: files with such names."""
    found = []
    for path in paths:
        if names.fullmatch(path.partition("/")[2]) and stat.S_ISREG((store.root / path).lstat().st_mode):
            found.append(Leftover(path, what, _held(store, path)))
    return found


def _held(store: Layout, path: str) -> int:
    return (store.root / path).lstat().st_blocks * 512
