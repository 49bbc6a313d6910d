"""RFC 6962 Merkle tree: hashes, roots, inclusion and consistency proofs and their verification. Pure."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_sha256 = hashlib.sha256
EMPTY_ROOT = _sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 ‖ entry)."""
    return _sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 ‖ left ‖ right)."""
    return _sha256(b"\1" + left + right).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Root over leaf hashes (RFC 6962 section 2.1)."""
    if not leaves:
        return EMPTY_ROOT
    level = list(leaves)
    while len(level) > 1:
        paired = [_sha256(b"\1" + left + right).digest() for left, right in zip(level[::2], level[1::2], strict=False)]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
    return level[0]


class Growing:
    """A tree that grows leaf by leaf; the root of every size on the way in logarithmic time."""

    def __init__(self) -> None:
        self.size = 0
        self._complete: list[bytes] = []  # roots of the complete subtrees, the largest first

    def add(self, leaf: bytes) -> None:
        """Append one leaf hash."""
        self.size += 1
        self._complete.append(leaf)
        for _ in range((self.size & -self.size).bit_length() - 1):
            right = self._complete.pop()
            self._complete[-1] = node_hash(self._complete[-1], right)

    def root(self) -> bytes:
        """Root over the leaves so far."""
        if not self._complete:
            return EMPTY_ROOT
        current = self._complete[-1]
        for left in reversed(self._complete[:-1]):
            current = node_hash(left, current)
        return current


def inclusion(index: int, size: int, subtree: Callable[[int, int], bytes]) -> list[bytes]:
    """Audit path of leaf `index` in a tree of `size`; `subtree(begin, end)` gives the root over those leaves."""
    path: list[bytes] = []

    def walk(begin: int, end: int) -> None:
        if end - begin <= 1:
            return
        middle = begin + split(end - begin)
        if index < middle:
            walk(begin, middle)
            path.append(subtree(middle, end))
        else:
            walk(middle, end)
            path.append(subtree(begin, middle))

    walk(0, size)
    return path


def split(size: int) -> int:
    """The largest power of two smaller than `size`."""
    return 1 << (size - 1).bit_length() - 1


def root_from_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes]) -> bytes | None:
    """The root that an audit path leads to (RFC 9162 section 2.1.3.2), or None if the path cannot be one."""
    found = roots_from_inclusion(index, size, leaf, path)
    return found[1] if found else None


def roots_from_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """The roots of the first `index` + 1 leaves and of all `size`: an audit path of a leaf says both. None if it cannot be one.

    What is beside the path on the left is the beginning of the log: with the leaf itself, it is the tree that ends there.
    """
    if not 0 <= index < size:
        return None
    fn, sn, current, first = index, size - 1, leaf, leaf
    for sibling in path:
        if sn == 0:
            return None
        if fn & 1 or fn == sn:
            current, first = node_hash(sibling, current), node_hash(sibling, first)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            current = node_hash(current, sibling)
        fn >>= 1
        sn >>= 1
    return (first, current) if sn == 0 else None


def consistency(old: int, new: int, subtree: Callable[[int, int], bytes]) -> list[bytes]:
    """Consistency proof from size `old` to `new` (RFC 6962 section 2.1.2)."""
    if old in {0, new}:
        return []
    path: list[bytes] = []

    def walk(m: int, begin: int, end: int, whole: bool) -> None:
        if m == end - begin:
            if not whole:
                path.append(subtree(begin, end))
            return
        k = split(end - begin)
        if m <= k:
            walk(m, begin, begin + k, whole)
            path.append(subtree(begin + k, end))
        else:
            walk(m - k, begin + k, end, False)
            path.append(subtree(begin, begin + k))

    walk(old, 0, new, True)
    return path


def is_consistent(old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether the tree of size `new` contains the one of size `old` as its beginning (RFC 9162 section 2.1.4.2)."""
    if old > new or old < 0:
        return False
    if old == new:
        return old_root == new_root and not path
    if old == 0:
        return old_root == EMPTY_ROOT and not path
    hashes = list(path)
    if old & (old - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        return False
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn >>= 1
        sn >>= 1
    fr = sr = hashes[0]
    for sibling in hashes[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr = node_hash(sibling, fr)
            sr = node_hash(sibling, sr)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            sr = node_hash(sr, sibling)
        fn >>= 1
        sn >>= 1
    return fr == old_root and sr == new_root and sn == 0
