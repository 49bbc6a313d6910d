"""RFC 6962 trees: the known roots, every proof of every small size, and no proof that is not one."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.trust import merkle

# the test tree that Certificate Transparency's reference implementations use
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


# the proofs in them that those are tested with (transparency-dev/merkle, proof/verify_test.go): nodes by level and place
NODES = {
    "00": "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "01": "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
    "04": "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    "06": "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
    "10": "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "11": "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
    "12": "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
    "13": "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "20": "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "21": "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
}
INCLUSION = [(0, 1, ""), (0, 8, "01 11 21"), (5, 8, "04 13 20"), (2, 3, "10"), (1, 5, "00 11 04")]
CONSISTENCY = [(1, 1, ""), (1, 8, "01 11 21"), (6, 8, "12 13 20"), (2, 5, "11 04"), (6, 7, "12 06 20")]


def leaves(count: int) -> list[bytes]:
    return [merkle.leaf_hash(b"%d" % number) for number in range(count)]


def slow_root(hashes: list[bytes]) -> bytes:
    """The definition of RFC 6962, section 2.1, word by word."""
    if not hashes:
        return hashlib.sha256().digest()
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return hashlib.sha256(b"\1" + slow_root(hashes[:k]) + slow_root(hashes[k:])).digest()


def subtree(hashes: list[bytes]):
    return lambda begin, end: merkle.root(hashes[begin:end])


@pytest.mark.parametrize("size", range(9))
def test_the_known_roots(size):
    assert merkle.root([merkle.leaf_hash(bytes.fromhex(text)) for text in INPUTS[:size]]).hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size", "path"), INCLUSION)
def test_the_known_inclusion_proofs(index, size, path):
    hashes = [merkle.leaf_hash(bytes.fromhex(text)) for text in INPUTS[:size]]
    known = [bytes.fromhex(NODES[name]) for name in path.split()]
    assert merkle.inclusion(index, size, subtree(hashes)) == known
    assert merkle.root_from_inclusion(index, size, hashes[index], known).hex() == ROOTS[size]


@pytest.mark.parametrize(("old", "new", "path"), CONSISTENCY)
def test_the_known_consistency_proofs(old, new, path):
    hashes = [merkle.leaf_hash(bytes.fromhex(text)) for text in INPUTS[:new]]
    known = [bytes.fromhex(NODES[name]) for name in path.split()]
    assert merkle.consistency(old, new, subtree(hashes)) == known
    assert merkle.is_consistent(old, new, bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[new]), known)


def test_roots_are_those_of_the_definition_however_they_are_computed():
    growing = merkle.Growing()
    assert growing.root() == merkle.EMPTY_ROOT
    for size, leaf in enumerate(leaves(300), 1):
        growing.add(leaf)
        assert growing.root() == merkle.root(leaves(size)) == slow_root(leaves(size))


def test_every_inclusion_proof_up_to_70():
    for size in range(1, 71):
        hashes = leaves(size)
        root = merkle.root(hashes)
        for index in range(size):
            path = merkle.inclusion(index, size, subtree(hashes))
            assert merkle.root_from_inclusion(index, size, hashes[index], path) == root
            # nobody else's place, and no longer or shorter path
            for other in {index - 1, index + 1, size, size + 1, -1} - {index}:
                assert merkle.root_from_inclusion(other, size, hashes[index], path) != root
            assert merkle.root_from_inclusion(index, size, hashes[index], [*path, bytes(32)]) != root
            if path:
                assert merkle.root_from_inclusion(index, size, hashes[index], path[:-1]) != root


def test_every_consistency_proof_up_to_70():
    roots = [merkle.root(leaves(size)) for size in range(71)]
    hashes = leaves(70)
    for new in range(71):
        for old in range(new + 1):
            path = merkle.consistency(old, new, subtree(hashes))
            assert merkle.is_consistent(old, new, roots[old], roots[new], path)
            if 0 < old < new:
                assert not merkle.is_consistent(old, new, bytes(32), roots[new], path)
                assert not merkle.is_consistent(old, new, roots[old], bytes(32), path)
                assert not merkle.is_consistent(old, new, roots[old], roots[new], path[:-1])
                assert not merkle.is_consistent(old, new, roots[old], roots[new], [*path, bytes(32)])
            assert not merkle.is_consistent(new + 1, new, roots[old], roots[new], path)
            assert not merkle.is_consistent(-1, new, roots[old], roots[new], path)


@given(st.integers(1, 5000), st.data())
def test_big_trees(size, data):
    hashes = [bytes([number & 255, number >> 8]) * 16 for number in range(size)]
    root = merkle.root(hashes)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    path = merkle.inclusion(index, size, subtree(hashes))
    assert merkle.root_from_inclusion(index, size, hashes[index], path) == root
    steps = merkle.consistency(old, size, subtree(hashes))
    assert merkle.is_consistent(old, size, merkle.root(hashes[:old]), root, steps)
    for wrong in (path, steps):
        if wrong:
            place = data.draw(st.integers(0, len(wrong) - 1))
            flipped = bytes([wrong[place][0] ^ 1]) + wrong[place][1:]
            wrong[place] = flipped
    if path:
        assert merkle.root_from_inclusion(index, size, hashes[index], path) != root
    if steps:
        assert not merkle.is_consistent(old, size, merkle.root(hashes[:old]), root, steps)


@given(st.integers(-5, 2**70), st.integers(-5, 2**70), st.lists(st.binary(min_size=32, max_size=32), max_size=70))
def test_nonsense_is_answered_not_raised(index, size, path):
    merkle.root_from_inclusion(index, size, bytes(32), path)
    assert not merkle.is_consistent(index, size, b"x" * 32, b"y" * 32, path)
