"""A proof that brings the whole log: every hash, chain and map made anew. Pure (docs/spec/proof.md, step 4, form `log`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.model import epoch as epoch_leaves
from stele.model.chains import Chains
from stele.prove.heads import read_entry
from stele.prove.shape import invalid
from stele.trust import merkle
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.prove.heads import Epoch
    from stele.prove.shape import Proof


def check(proof: Proof, last: Epoch) -> None:
    """Make everything anew from the entries.

    Raises:
        SteleError: `prove.invalid`.
    """
    checkpoint = last.opened.checkpoint
    # first of all: whoever has no key cannot make a verifier work for long
    if len(proof.log) != checkpoint.size or merkle.root([merkle.leaf_hash(_bytes(text)) for text in proof.log]) != checkpoint.root:
        raise invalid("the log that it brings is not the one that was signed")
    chains, trail = Chains(), epoch_leaves.Trail()
    for index, text in enumerate(proof.log):
        entry = read_entry(text, index)
        try:
            if entry.event.kind == "epoch":
                epoch_leaves.check(entry, index, chains, trail)
            chains.take(entry, sha256(_bytes(text)), index)
        except SteleError as error:
            raise invalid(error.reason) from error
        trail.take(entry, index)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
