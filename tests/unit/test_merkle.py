"""RFC 6962 hashing and proofs, against the RFC's structure computed the slow way, and known roots."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.trust import merkle

# the eight leaves and roots of the Certificate Transparency reference implementation
LEAVES = [
    bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def _slow_root(hashes: list[bytes]) -> bytes:
    if len(hashes) <= 1:
        return hashes[0] if hashes else hashlib.sha256(b"").digest()
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return merkle.node_hash(_slow_root(hashes[:k]), _slow_root(hashes[k:]))


def test_the_known_roots_come_out() -> None:
    hashes = [merkle.leaf_hash(leaf) for leaf in LEAVES]
    assert tuple(merkle.root(hashes[: size + 1]).hex() for size in range(8)) == ROOTS
    assert merkle.root([]) == hashlib.sha256(b"").digest()


@pytest.mark.parametrize("size", [*range(1, 40), 255, 256, 257, 513])
def test_inclusion_holds_for_every_leaf_and_for_no_other(size: int) -> None:
    hashes = [merkle.leaf_hash(str(number).encode()) for number in range(size)]
    root = _slow_root(hashes)
    assert merkle.root(hashes) == root
    for index in range(0, size, max(1, size // 17)):
        path = merkle.inclusion(index, size, lambda begin, end: _slow_root(hashes[begin:end]))
        assert merkle.root_from_inclusion(index, size, hashes[index], path) == root
        assert merkle.root_from_inclusion(index, size, merkle.leaf_hash(b"x"), path) != root
        if size > 1:
            assert merkle.root_from_inclusion((index + 1) % size, size, hashes[index], path) != root
            assert merkle.root_from_inclusion(index, size, hashes[index], path[:-1]) != root
            assert merkle.root_from_inclusion(index, size, hashes[index], [*path, path[0]]) != root


@given(st.integers(0, 80), st.integers(0, 80))
def test_consistency_holds_between_a_tree_and_its_beginning(old: int, new: int) -> None:
    old, new = min(old, new), max(old, new)
    hashes = [merkle.leaf_hash(str(number).encode()) for number in range(new)]
    roots = _slow_root(hashes[:old]), _slow_root(hashes)
    path = merkle.consistency(old, new, lambda begin, end: _slow_root(hashes[begin:end])) if old else []
    assert merkle.is_consistent(old, new, *roots, path)
    other = merkle.leaf_hash(b"other")
    if old:
        assert not merkle.is_consistent(old, new, other, roots[1], path)
    if new and old != new and old:
        assert not merkle.is_consistent(old, new, roots[0], other, path)
        assert not merkle.is_consistent(old, new, *roots, path[:-1])


@given(st.integers(-2, 20), st.integers(-2, 20), st.lists(st.binary(min_size=32, max_size=32), max_size=6))
def test_made_up_proofs_never_raise(index: int, size: int, path: list[bytes]) -> None:
    merkle.root_from_inclusion(index, size, b"\0" * 32, path)
    merkle.is_consistent(index, size, b"\0" * 32, b"\1" * 32, path)
