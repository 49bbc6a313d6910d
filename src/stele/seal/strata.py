"""Cutting a tree into strata (docs/spec/strata.md, Cutting). Pure.

What decides where a path goes is its package, else its directory, never how many others there are: a change in one package
changes the stratum that it lies in, and no other.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from stele.model.tree import parent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from stele.model.spec import Spec
    from stele.model.tree import Node, Tree
    from stele.seal.packages import Package

DATABASE = "database"
SETTINGS = "settings"
TARGET = 16 << 20  # bytes: what is larger is divided, as far as there is something to divide and room for it
CAPS = {"system": 14, "python": 7, "npm": 7, "files": 10}  # with the database and the settings: 40 at most
_CLASSES = {"deb": "system", "apk": "system", "rpm": "system", "python": "python", "npm": "npm"}
# what a package manager, or a trigger, rewrites whichever package changes; files, or folders with all that is below
_REWRITTEN = frozenset(
    {
        b"var/lib/dpkg", b"var/lib/apt", b"var/lib/rpm", b"usr/lib/sysimage/rpm", b"var/lib/dnf", b"lib/apk/db", b"usr/lib/apk/db",
        b"etc/apk/world", b"var/lib/pacman", b"var/cache", b"var/log", b"etc/ld.so.cache", b"var/lib/systemd", b"usr/share/info/dir",
        b"etc/passwd", b"etc/passwd-", b"etc/group", b"etc/group-", b"etc/shadow", b"etc/shadow-", b"etc/gshadow", b"etc/gshadow-",
        b"etc/shells", b"etc/machine-id", b"etc/ssl/certs/ca-certificates.crt",
    }
)  # fmt: skip
_REWRITTEN_NAMES = frozenset({b".package-lock.json"})  # below a node_modules
ENTRY = 1024  # bytes that a path counts for besides its content: about what it takes in tar and image


Key = tuple[str, bytes]  # class, and what of it stays together


class Slice(msgspec.Struct, frozen=True):
    """One stratum's nodes, in the tree's order, with every directory above them, so that it is a tree by itself."""

    name: str
    nodes: tuple[Node, ...]


class Cut(msgspec.Struct, frozen=True):
    """How a tree is cut, and why so.

    `slices`: the strata, lowest first. `where`: the stratum of each path in one. `keys`: class and key of the paths that are divided by
    size. `sizes`, `names`: bytes that count for each class and key, and its stratum. `folders`: bytes that count for each folder above a
    path of class `files`.
    """

    slices: tuple[Slice, ...]
    where: dict[bytes, str]
    keys: dict[bytes, Key]
    sizes: dict[Key, int]
    names: dict[Key, str]
    folders: dict[bytes, int]


def cut(tree: Tree, spec: Spec, packages: Sequence[Package] = ()) -> tuple[Slice, ...]:
    """The strata of a tree, lowest first: a function of the tree, its packages, and the paths of the spec's settings alone.

    The names of one inode stay together, in the stratum of the first.
    """
    return explained(tree, spec, packages).slices


def explained(tree: Tree, spec: Spec, packages: Sequence[Package] = ()) -> Cut:
    """`cut`, and what it follows from."""
    settings = {setting.path.encode("utf-8", "surrogateescape")[1:] for setting in spec.settings}
    owners = _owners(packages)
    parents = [node.path.rpartition(b"/")[0] for node in tree.nodes]
    # directories with nothing below: no other path would bring them along
    childless = {node.path for node in tree.nodes if node.kind == "dir"}.difference(parents)
    where: dict[bytes, str] = {}  # path → stratum, for what is in one place from the start
    keys: dict[bytes, Key] = {}  # path → class and key, for what is divided by size
    loose: list[Node] = []
    owner_of = owners.get
    for node in tree.nodes:
        path = node.path
        if (node.kind == "dir" and path not in childless) or node.link is not None:
            continue
        if path in settings:
            where[path] = SETTINGS
        elif (owner := owner_of(path) or owner_of(_python_source(path))) is not None:
            keys[path] = owner
        elif _is_rewritten(path):
            where[path] = DATABASE
        else:
            loose.append(node)
    folders = _folder_sizes(loose)
    keys.update((path, ("files", key)) for path, key in _by_directory(loose, folders).items())
    sizes: dict[Key, int] = defaultdict(int)
    key_of = keys.get
    for node in tree.nodes:
        if (key := key_of(node.path)) is not None:
            sizes[key] += node.size + ENTRY
    names = divided(sizes)
    where.update(zip(keys, map(names.__getitem__, keys.values()), strict=True))
    where.update((node.path, where[node.link]) for node in tree.nodes if node.link is not None)
    return Cut(_slices(tree, parents, where), where, keys, sizes, names, folders)


def _owners(packages: Iterable[Package]) -> dict[bytes, Key]:
    """Path → class and key of its package: of the system's first, then of the languages'."""
    found: dict[bytes, Key] = {}
    for package in sorted(packages, key=lambda package: _CLASSES[package.ecosystem] != "system"):
        owner = (_CLASSES[package.ecosystem], f"{package.ecosystem}\0{package.name}".encode())
        for path in (*package.paths, *package.database):
            found.setdefault(path, owner)
    return found


def _python_source(path: bytes) -> bytes:
    """The source of a file of byte code (PEP 3147), which is often made after its package was installed; else nothing."""
    folder, _, name = path.rpartition(b"/__pycache__/")
    return folder + b"/" + name.partition(b".")[0] + b".py" if folder and name.endswith(b".pyc") else b""


def _is_rewritten(path: bytes) -> bool:
    if path.rpartition(b"/")[2] in _REWRITTEN_NAMES:
        return True
    while path:
        if path in _REWRITTEN:
            return True
        path = parent(path)
    return False


def _folder_sizes(nodes: Sequence[Node]) -> dict[bytes, int]:
    """Folder → the bytes that all below it count for."""
    sizes: dict[bytes, int] = defaultdict(int)
    for node in nodes:
        above = node.path
        while above:
            above = parent(above)
            sizes[above] += node.size + ENTRY
    return sizes


def _by_directory(nodes: Sequence[Node], sizes: Mapping[bytes, int]) -> dict[bytes, bytes]:
    """Path → the highest directory above it that is not larger than the target; else a sixteenth of the one that it lies in."""
    highest: dict[bytes, bytes] = {}  # directory → its key
    found = {}
    for node in nodes:
        folder = parent(node.path)
        if sizes[folder] > TARGET:
            # a file that is too large by itself need not take along what lies beside it
            found[node.path] = folder + b"\0" + _sixteenth(node.path) if node.size <= TARGET else node.path
            continue
        if folder not in highest:
            highest[folder] = folder
            above = folder
            while sizes[above] <= TARGET:
                highest[folder] = above
                if not above:
                    break
                above = parent(above)
        found[node.path] = highest[folder]
    return found


def _sixteenth(path: bytes) -> bytes:
    return sha256(path.rpartition(b"/")[2]).hexdigest()[:1].encode()


class _Group(NamedTuple):
    """Keys whose hashes begin alike, in a heap by size, the largest first."""

    order: int
    prefix: str
    members: tuple[tuple[int, bytes], ...]


def divided(sizes: Mapping[Key, int]) -> dict[Key, str]:
    """Class and key → stratum: the keys of each class divided by their hashes, bit by bit, as long as a part is too large."""
    names: dict[Key, str] = {}
    for kind, cap in CAPS.items():
        of_kind = {key: size for (its, key), size in sizes.items() if its == kind}
        for prefix, members in _parts(of_kind, cap):
            names.update(((kind, key), f"{kind}-{prefix}" if prefix else kind) for key in members)
    return names


def _parts(sizes: dict[bytes, int], cap: int) -> list[tuple[str, list[bytes]]]:
    """At most `cap` parts, each with the bits that its keys' hashes have in common, as far as they tell it from the others."""
    hashed = tuple(sorted((int.from_bytes(sha256(key).digest()[:8]), key) for key in sizes))
    if not hashed:
        return []
    heap = [_Group(-sum(sizes.values()), "", hashed)]
    done: list[_Group] = []
    while heap and len(heap) + len(done) < cap:
        group = heapq.heappop(heap)
        first, last = group.members[0][0], group.members[-1][0]
        if -group.order <= TARGET or first == last:
            done.append(group)
            continue
        at = 64 - (first ^ last).bit_length()  # the first bit in which they differ: a part without keys is none
        prefix = f"{first:064b}"[:at]
        for bit in "01":
            members = tuple(member for member in group.members if f"{member[0]:064b}"[at] == bit)
            heapq.heappush(heap, _Group(-sum(sizes[key] for _, key in members), prefix + bit, members))
    return sorted((group.prefix, [key for _, key in group.members]) for group in (*heap, *done))


def _slices(tree: Tree, parents: Sequence[bytes], where: dict[bytes, str]) -> tuple[Slice, ...]:
    """`parents`: of the nodes."""
    its = [where.get(node.path, "") for node in tree.nodes]  # stratum of each node that is in one alone
    above: dict[str, set[bytes]] = defaultdict(set)  # directories that each stratum needs
    for lowest, name in {pair for pair in zip(parents, its, strict=True) if pair[1]}:
        folder, seen = lowest, above[name]
        while folder not in seen:
            seen.add(folder)
            folder = parent(folder)
    found: dict[str, list[Node]] = {name: [] for name in above}
    needing: dict[bytes, list[str]] = defaultdict(list)
    for name, folders in above.items():
        for folder in folders:
            needing[folder].append(name)
    for node, alone in zip(tree.nodes, its, strict=True):
        if alone:
            found[alone].append(node)
        else:
            for name in needing.get(node.path, ()):
                found[name].append(node)
    if not found:
        return (Slice("files", tree.nodes),)
    last = {DATABASE: 1, SETTINGS: 2}
    order = {kind: at for at, kind in enumerate(CAPS)}
    names = sorted(found, key=lambda name: (last.get(name, 0), order.get(name.partition("-")[0], 0), name))
    return tuple(Slice(name, tuple(found[name])) for name in names)
