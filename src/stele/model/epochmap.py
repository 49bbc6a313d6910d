"""The epoch map, version 0: an RFC 6962 tree over (workload, count, head), sorted by workload (docs/spec/ledger.md). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.trust import canonical, merkle

if TYPE_CHECKING:
    from collections.abc import Mapping


def map_leaf(workload: str, count: int, head: str) -> bytes:
    """The leaf hash of one workload."""
    return merkle.leaf_hash(canonical.encode({"workload": workload, "count": count, "head": head}))


def _leaves(heads: Mapping[str, tuple[int, str]]) -> list[bytes]:
    return [map_leaf(name, *heads[name]) for name in sorted(heads)]


def map_root(heads: Mapping[str, tuple[int, str]]) -> bytes:
    """Root of the map."""
    return merkle.root(_leaves(heads))


def map_inclusion(heads: Mapping[str, tuple[int, str]], workload: str) -> tuple[int, list[bytes]]:
    """Index and audit path of one workload."""
    leaves = _leaves(heads)
    index = sorted(heads).index(workload)
    return index, merkle.inclusion(index, len(leaves), lambda begin, end: merkle.root(leaves[begin:end]))
