"""What a seal of a folder leaves for the next one: every state that it saw, and why its release is as it is.

It is a cache that only its writer can write, like the stat cache beside it, and is believed like that (docs/spec/stat-cache.md).
"""

from __future__ import annotations

import os
from array import array
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

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
    from stele.seal.strata import Cut

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


class Seen(NamedTuple):
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
    strata = {piece.name: number for number, piece in enumerate(seen.cut.slices)}
    parts: dict[Any, int] = {}
    table: list[Part] = []
    apart = _apart(seen)
    kept, roles = bytearray(), array("I")
    for folder in seen.folders:
        kept += _settled(folder.states, seen.begun_ns)
        prefix = folder.path + b"/" if folder.path else b""
        for name, plain in zip(folder.names, folder.plain, strict=True):
            path = prefix + name
            role = PARTICULAR
            if plain and path not in apart and path in seen.cut.where:
                key = seen.cut.keys.get(path)
                stratum = seen.cut.where[path]
                role = parts.setdefault(key or stratum, len(table))
                if role == len(table):
                    table.append(Part(*(key or ("", b"")), seen.cut.sizes[key] if key else 0, strata[stratum]))
            roles.append(role)
    for key, size in seen.cut.sizes.items():  # parts without anything plain count, too
        if key not in parts:
            parts[key] = len(table)
            table.append(Part(*key, size, -1))
    runs, members = _runs(seen)
    return {
        "folders": b"\0".join(folder.path for folder in seen.folders),
        "names": b"\0".join(b"/".join(folder.names) for folder in seen.folders),
        "states": memoryview(kept),
        "roles": roles.tobytes(),
        "parts": table,
        "sizes": dict(seen.cut.folders),
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
    runs, members = array("Q"), [array("I") for _ in seen.cut.slices]
    before, at = 0, len(TREE_HEADER)
    for strata in where:
        if strata != before:
            before = strata
            runs.append(0)
            for number, of_it in enumerate(members):
                if strata >> number & 1:
                    of_it.append(len(runs) - 1)
        ends = seen.encoded.index(b"\n", at) + 1
        runs[-1] += ends - at
        at = ends
    return runs, members


def _settled(found: Sequence[State], begun_ns: int) -> bytes:
    """States, packed, but for those that are too young to be believed, and those that cannot be packed."""
    limit = begun_ns - states.SETTLED_NS
    try:
        return states.packed([UNKNOWN if state[states.CTIME] >= limit else state for state in found])
    except OverflowError:
        return b"".join(map(_one, (UNKNOWN if state[states.CTIME] >= limit else state for state in found)))


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
    for node in seen.tree.nodes:
        if node.kind != "file":
            continue
        if (
            node.sha256 in seen.read
            or node.size > MAX_RECORD
            or (node.mode & 0o111 and (node.size < _SMALL_PROGRAM or node.path not in seen.owned))
        ):
            found.add(node.path)
        if node.path.endswith(b".pyc"):
            found.add(source_of(node.path) or b"")
    for node in seen.source.nodes if seen.source is not seen.tree else ():
        if node.kind == "file" and seen.tree.get(node.path) != node:  # a setting took its place
            found.add(node.path)
    return found
