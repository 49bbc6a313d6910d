"""The epoch map, version 2: where every chain stands, and which releases ever ran, in a hash trie (docs/spec/epoch-map.md). Pure.

What nodes say never changes: putting leaves in makes new nodes along their paths and shares the rest, so that every root that was
ever made stays provable for as long as its nodes are kept. What was fetched for a stub takes its place in its parent.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from hashlib import sha256
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from stele.trust import canonical

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

EMPTY = bytes(32)  # the hash of a part of the map that holds nothing
MAX_DEPTH = 256
_HIGH = 1 << MAX_DEPTH - 1  # the first bit of a key says what the leaf is about: 0 a workload, 1 a release that ran


# nodes are records that the garbage collector need not look at: they form no cycles, and a map has tens of thousands
class Stub(msgspec.Struct, gc=False, eq=False):
    """A node that is kept elsewhere. `at`: where, from 1."""

    hash: bytes
    at: int


class Leaf(msgspec.Struct, gc=False, eq=False):
    """Where one workload's chain stands: entries so far, digest of the last, digest of the state that they make. Made by `leaf`.

    `at`: where it is kept, 0 for nowhere yet. `kept`: what whoever keeps it wants to know of it besides.
    """

    workload: str
    count: int
    head: str
    state: str
    kept: Any
    key: int
    hash: bytes
    at: int = 0


class Ran(msgspec.Struct, gc=False, eq=False):
    """That a release was started as a workload, first by the entry `seq` of its chain. `at`: as of `Leaf`. Made by `ran`."""

    workload: str
    release: str
    seq: int
    key: int
    hash: bytes
    at: int = 0


class Branch(msgspec.Struct, gc=False, eq=False):
    """Two parts of the map, by one bit of the key; and its hash."""

    left: Node | None
    right: Node | None
    hash: bytes
    at: int = 0


def leaf(workload: str, count: int, head: str, state: str, kept: object = None) -> Leaf:
    """The leaf of a workload, with its place and hash."""
    return Leaf(workload, count, head, state, kept, key_of(workload), leaf_hash(workload, count, head, state))


def ran(workload: str, release: str, seq: int) -> Ran:
    """The leaf of a release that ran, with its place and hash."""
    return Ran(workload, release, seq, ran_key(workload, release), ran_hash(workload, release, seq))


Kept = Leaf | Ran | Branch
Node = Stub | Kept
Load = Callable[[Stub], Kept]
KEY = attrgetter("key")


class _Record(msgspec.Struct, gc=False):
    """What a workload's leaf is the hash of."""

    count: int
    head: str
    state: str
    workload: str


class Found(NamedTuple):
    """Where the path of a key ends: at a leaf (its own, or another's that stands alone there), or at nothing.

    `siblings`: hashes beside the path, from the root on.
    """

    siblings: tuple[bytes, ...]
    leaf: Leaf | Ran | None


def key_of(workload: str) -> int:
    """A workload's place in the map: 256 bits, the first of them the highest, and 0."""
    return int.from_bytes(sha256(workload.encode("utf-8", "surrogatepass")).digest()) & ~_HIGH


def ran_key(workload: str, release: str) -> int:
    """The place of "this release ran as this workload" in the map: its first bit is 1."""
    name = sha256(workload.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(sha256(name + release.encode("utf-8", "surrogatepass")).digest()) | _HIGH


def leaf_hash(workload: str, count: int, head: str, state: str) -> bytes:
    """The hash of a leaf. `head`, `state`: as `sha256:<hex>`."""
    record = canonical.encode_record(_Record(count, head, state, workload)) if type(count) is int and 0 <= count < 1 << 63 else None
    plain = record or canonical.encode({"workload": workload, "count": count, "head": head, "state": state})
    return sha256(b"\0" + plain).digest()


def ran_hash(workload: str, release: str, seq: int) -> bytes:
    """The hash of a leaf of a release that ran."""
    return sha256(b"\0" + canonical.encode({"workload": workload, "release": release, "seq": seq})).digest()


def branch_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two parts."""
    return sha256(b"\1" + left + right).digest()


def hash_of(node: Node | None) -> bytes:
    """The hash of a part of the map; of the whole: its root."""
    return EMPTY if node is None else node.hash


def no_stubs(stub: Stub) -> Kept:
    """For maps that are wholly in memory."""
    raise AssertionError(f"nobody keeps the node {stub.at}")


def put(node: Node | None, leaves: Sequence[Leaf | Ran], load: Load = no_stubs, depth: int = 0) -> Node | None:
    """The map with these leaves in it, in place of those with their keys.

    Args:
        node: the map so far.
        leaves: at most one for each key, sorted by key.
        load: fetches a node that is kept elsewhere.
        depth: of `node`; all keys agree in so many bits.
    """
    return _put(node, leaves, [leaf.key for leaf in leaves], 0, len(leaves), load, MAX_DEPTH - depth) if leaves else node


def _put(node: Node | None, leaves: Sequence[Leaf | Ran], keys: Sequence[int], begin: int, end: int, load: Load, low: int) -> Node | None:
    """`put` for the leaves from `begin` to before `end`, of which there are some. `low`: how many bits of their keys may differ."""
    if type(node) is Stub:
        node = load(node)
    if type(node) is Branch:
        left, right = node.left, node.right
        middle = bisect_left(keys, (keys[begin] >> low << low) | 1 << low - 1, begin, end)
        if middle > begin:
            left = _put(left, leaves, keys, begin, middle, load, low - 1)
        if middle < end:
            right = _put(right, leaves, keys, middle, end, load, low - 1)
        return branch(left, right)
    if isinstance(node, Leaf | Ran):
        at = bisect_left(keys, node.key, begin, end)
        if at == end or keys[at] != node.key:
            leaves = [*leaves[begin:at], node, *leaves[at:end]]
            return _build(leaves, [leaf.key for leaf in leaves], 0, len(leaves), low)
    return _build(leaves, keys, begin, end, low)


def _build(leaves: Sequence[Leaf | Ran], keys: Sequence[int], begin: int, end: int, low: int) -> Node | None:
    if end - begin < 2:
        return leaves[begin] if end > begin else None
    middle = bisect_left(keys, (keys[begin] >> low << low) | 1 << low - 1, begin, end)
    return branch(_build(leaves, keys, begin, middle, low - 1), _build(leaves, keys, middle, end, low - 1))


def branch(left: Node | None, right: Node | None) -> Branch:
    """Two parts of the map, with their hash."""
    digest = sha256(b"\1" + (left.hash if left is not None else EMPTY) + (right.hash if right is not None else EMPTY)).digest()
    return Branch(left, right, digest)


def find(node: Node | None, key: int, load: Load = no_stubs) -> Found:
    """Where the path of a key ends, and what proves it."""
    siblings: list[bytes] = []
    while True:
        if isinstance(node, Stub):
            node = load(node)
        if not isinstance(node, Branch):
            return Found(tuple(siblings), node)
        if key >> (MAX_DEPTH - 1 - len(siblings)) & 1:
            siblings.append(hash_of(node.left))
            if isinstance(node.right, Stub):
                node.right = load(node.right)
            node = node.right
        else:
            siblings.append(hash_of(node.right))
            if isinstance(node.left, Stub):
                node.left = load(node.left)
            node = node.left


def leaf_of(node: Node | None, key: int, load: Load = no_stubs) -> Leaf | Ran | None:
    """The leaf of a key, if it is in the map: `find` without what proves it."""
    bit = _HIGH
    while type(node) is Branch:
        if key & bit:
            child = node.right
            if type(child) is Stub:
                child = node.right = load(child)
        else:
            child = node.left
            if type(child) is Stub:
                child = node.left = load(child)
        node = child
        bit >>= 1
    if type(node) is Stub:
        return leaf_of(load(node), key, load)
    return node if node is not None and not isinstance(node, Stub | Branch) and node.key == key else None


def leaves(node: Node | None, load: Load = no_stubs) -> Iterator[Leaf | Ran]:
    """All leaves, in the order of their keys: workloads, then releases that ran."""
    if isinstance(node, Stub):
        node = load(node)
    if isinstance(node, Leaf | Ran):
        yield node
    elif isinstance(node, Branch):
        yield from leaves(node.left, load)
        yield from leaves(node.right, load)


def root_from(key: int, siblings: Sequence[bytes], end: bytes) -> bytes:
    """The root of the map in which the path of `key`, with these siblings, ends in the node with hash `end`."""
    for depth in range(len(siblings) - 1, -1, -1):
        sibling = siblings[depth]
        end = branch_hash(sibling, end) if key >> (MAX_DEPTH - 1 - depth) & 1 else branch_hash(end, sibling)
    return end


def shows_absence(key: int, siblings: Sequence[bytes], other: int | None) -> bool:
    """Whether a path that ends at nothing (`other` None) or at another key's leaf shows that `key` is not in the map.

    Another's leaf stands in for all of its part of the map: it shows something only if `key` would be in that part.
    """
    if other is None:
        return True
    low = MAX_DEPTH - len(siblings)
    return other != key and other >> low == key >> low
