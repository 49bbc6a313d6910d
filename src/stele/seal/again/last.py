"""What a seal of a folder leaves for the next one: every state that it saw, and why its release is as it is.

It is a cache that only its writer can write, like the stat cache beside it, and is believed like that (docs/spec/stat-cache.md).
"""

from __future__ import annotations

import os
from array import array
from collections import defaultdict
from hashlib import sha256
from itertools import chain, count, groupby
from typing import TYPE_CHECKING, Any

import msgspec

import stele
from stele.host import states
from stele.host.states import Folder
from stele.model.tree import TREE_HEADER
from stele.seal import cached

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from stele.host.states import State
    from stele.model.tree import Tree
    from stele.seal.sources.statcache import Listed
    from stele.seal.strata import Cut, Key

HEADER = b"stele-last-seal v2\n"
UNKNOWN = (0, 0, 0, 0, 0, 0)  # a state that nothing has
PARTICULAR = 0xFFFF_FFFF  # the role of what cannot change without the whole being looked at
_ROOMS = ("seal", "seal/packages", "seal/sources", "seal/again", "model")  # whose code decides what a release is
_SMALL_PROGRAM = 20  # bytes; what is smaller is not looked at for its platform


class Part(msgspec.Struct, frozen=True, array_like=True):
    """What stays together when a tree is cut: class and key ("" where these do not matter), bytes that it counts for, its stratum."""

    kind: str
    key: bytes
    size: int
    stratum: int


class Told(msgspec.Struct, frozen=True, array_like=True):
    """What a seal said to the person who sealed: `packages` of the SBOM, `paths`, `bytes`, findings as plain data, notes, warnings."""

    packages: int
    paths: int
    bytes: int
    findings: list[Any]
    allowed: list[Any]
    notes: list[str]
    warnings: list[str]


class LastSeal(msgspec.Struct, frozen=True, array_like=True):
    """The last seal of one folder.

    `made_with`: see `made_with`. `release`: its digest. `spec`: SHA-256 of the spec file, hex. `sources`: of the settings, with the
    SHA-256 of each. `owner`: user and group of the source folder. `folders`: paths, joined by NUL; `names`: of each, joined by `/`,
    joined by NUL. `states`: of each folder itself and then of its names, packed. `roles`: of each name, uint32: number of its part,
    or PARTICULAR. `sizes`: as `Cut.folders`. `runs`: lengths of what stays together in the tree, uint64; `members`: of each stratum, the
    numbers of its runs, uint32 (see `_runs`). `bom`: the SBOM.
    """

    made_with: str
    release: str
    spec: str
    sources: list[tuple[str, str]]
    owner: tuple[int, int]
    folders: bytes
    names: bytes
    states: memoryview  # into what was decoded: they are most of it
    roles: bytes
    parts: list[Part]
    sizes: dict[bytes, int]
    runs: bytes
    members: list[bytes]
    bom: bytes
    told: Told

    def listed(self) -> list[Folder]:
        """The folders."""
        return states.folders_of(self.folders, self.names)


_decoder = msgspec.msgpack.Decoder(LastSeal)


def encode(last: LastSeal) -> bytearray:
    """As it is kept."""
    return cached.encode(HEADER, last)


def decode(data: bytes) -> LastSeal | None:
    """As it was kept; None where it was not."""
    return cached.decode(HEADER, data, _decoder)


def made_with(codec: str) -> str:
    """Which code, and which compression: by another one the same folder might make another release."""
    top = os.path.dirname(stele.__file__)
    state = sha256(f"{stele.__version__}\n{codec}\n".encode())
    for room in _ROOMS:
        with os.scandir(f"{top}/{room}") as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.endswith(".py"):
                    info = entry.stat()
                    state.update(f"{room}/{entry.name} {info.st_size} {info.st_mtime_ns}\n".encode())
    return state.hexdigest()


class Seen(msgspec.Struct, frozen=True):
    """What a whole seal saw.

    `folders`: all that were read. `begun_ns`: when it began, UTC. `source`, `tree`: before and after settings. `encoded`: the latter's
    canonical bytes. `read`: digests of the contents that were looked at for packages, SBOM and platform. `places`: of findings, as
    `Finding.place`.
    """

    folders: Sequence[Listed]
    begun_ns: int
    source: Tree
    tree: Tree
    encoded: bytes
    cut: Cut
    read: Collection[str]
    owned: Collection[bytes]
    places: Collection[bytes]


def columns(seen: Seen) -> dict[str, Any]:
    """Of `LastSeal`: folders, names, states, roles, parts, sizes, runs, members."""
    cut = seen.cut
    parts: dict[bytes, Key | str] = {**cut.where, **cut.keys}  # by path; a stratum alone, where it is not divided
    for path in _apart(seen):
        parts.pop(path, None)
    numbers: defaultdict[Key | str | None, int] = defaultdict(count().__next__)  # in the order in which they are met
    numbers[None] = PARTICULAR
    roles = array("I")
    for folder in seen.folders:
        prefix = folder.path + b"/" if folder.path else b""
        for name, plain in zip(folder.names, folder.plain, strict=True):
            roles.append(numbers[parts.get(prefix + name) if plain else None])
    strata = {piece.name: number for number, piece in enumerate(cut.slices)}
    table: list[Part] = []
    for part in numbers:
        if isinstance(part, tuple):
            table.append(Part(*part, cut.sizes[part], strata[cut.names[part]]))
        elif part is not None:
            table.append(Part("", b"", 0, strata[part]))
    table += [Part(*key, size, -1) for key, size in cut.sizes.items() if key not in numbers]  # without anything plain they count, too
    runs, members = _runs(seen)
    return {
        "folders": b"\0".join(folder.path for folder in seen.folders),
        "names": b"\0".join(b"/".join(folder.names) for folder in seen.folders),
        "states": memoryview(_settled(list(chain.from_iterable(folder.states for folder in seen.folders)), seen.begun_ns)),
        "roles": roles.tobytes(),
        "parts": table,
        "sizes": dict(cut.folders),
        "runs": runs.tobytes(),
        "members": [numbers.tobytes() for numbers in members],
    }


def _runs(seen: Seen) -> tuple[array[int], list[array[int]]]:
    """The bytes of each run of lines of the tree that are in the same strata; of each stratum, the numbers of its runs."""
    line = {node.path: number for number, node in enumerate(seen.tree.nodes)}
    where = [0] * len(line)  # a bit for each stratum: directories are in several
    for number, piece in enumerate(seen.cut.slices):
        for node in piece.nodes:
            where[line[node.path]] |= 1 << number
    ends = array("Q", [len(TREE_HEADER)])  # of the header, and of each line
    while ends[-1] < len(seen.encoded):
        ends.append(seen.encoded.index(b"\n", ends[-1]) + 1)
    runs, members = array("Q"), [array("I") for _ in seen.cut.slices]
    having = {strata: [of_it for number, of_it in enumerate(members) if strata >> number & 1] for strata in set(where)}
    at = 0
    for strata, alike in groupby(where):
        begins = ends[at]
        at += len(list(alike))
        for of_it in having[strata]:
            of_it.append(len(runs))
        runs.append(ends[at] - begins)
    return runs, members


def _settled(found: Sequence[State], begun_ns: int) -> bytes:
    """States, packed, but for those that are too young to be believed, and those that cannot be packed."""
    limit = begun_ns - states.SETTLED_NS
    settled = [UNKNOWN if state[states.CTIME] >= limit else state for state in found]
    try:
        return states.packed(settled)
    except OverflowError:
        return b"".join(map(_one, settled))


def _one(state: State) -> bytes:
    try:
        return states.packed([state])
    except OverflowError:
        return states.packed([UNKNOWN])


def _apart(seen: Seen) -> set[bytes]:
    """Paths of files whose content says more than itself: to package managers, SBOM, platform, findings, or the times of others."""
    from stele.seal.normalise import source_of
    from stele.seal.packages.records import MAX_RECORD

    found = set(seen.places)
    read, owned = seen.read, seen.owned
    for node in seen.tree.nodes:
        if node.kind != "file":
            continue
        path, size = node.path, node.size
        if node.sha256 in read or size > MAX_RECORD or (node.mode & 0o111 and (size < _SMALL_PROGRAM or path not in owned)):
            found.add(path)
        if path.endswith(b".pyc"):
            found.add(source_of(path) or b"")
    kept = set(map(id, seen.tree.nodes))
    for node in seen.source.nodes:
        if id(node) not in kept and node.kind == "file" and seen.tree.get(node.path) != node:  # a setting took its place
            found.add(node.path)
    return found
