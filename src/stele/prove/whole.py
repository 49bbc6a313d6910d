"""A proof that brings the whole log: every hash, chain and map made anew. Pure (docs/spec/proof.md, step 2, form `log`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stele.model import epoch as epoch_leaves
from stele.model import history
from stele.model.chains import Chains
from stele.prove.chain import Chain
from stele.prove.heads import read_entry
from stele.prove.shape import invalid
from stele.trust import merkle
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.model.event import Entry
    from stele.prove.heads import Epoch
    from stele.prove.shape import Proof


class Whole(NamedTuple):
    """What the log says. `mine`: index and entry of those of the workload that is asked about. `first`: of every workload."""

    mine: list[tuple[int, Entry]]
    first: dict[str, tuple[int, Entry]]

    def chain(self, workload: str, epochs: Sequence[Epoch]) -> Chain:
        """The workload's chain, as `chain.check` has it."""
        counts = [sum(index < epoch.at for index, _ in self.mine) for epoch in epochs]
        return Chain(workload, 0, history.start(workload), self.mine, counts)


def check(proof: Proof, workload: str | None, epochs: Sequence[Epoch]) -> Whole:
    """Make everything anew from the entries.

    Raises:
        SteleError: `prove.invalid`.
    """
    if len(proof.log) != epochs[-1].size:
        raise invalid("a proof that brings the log brings all of it")
    for head, epoch in zip(proof.heads, epochs, strict=True):
        if not head.index < epoch.size <= len(proof.log) or proof.log[head.index] != head.entry:
            raise invalid("a head's epoch is not the one of the log")
    sizes = {epoch.size for epoch in epochs}
    made: dict[int, bytes] = {}
    chains, trail, tree = Chains(), epoch_leaves.Trail(), merkle.Growing()
    whole = Whole([], {})
    for index, text in enumerate(proof.log):
        entry = read_entry(text)
        raw = text.encode()
        try:
            if entry.event.kind == "epoch":
                epoch_leaves.check(entry, index, chains, trail)
            chains.take(entry, sha256(raw), index)
        except SteleError as error:
            raise invalid(error.reason) from error
        trail.take(entry, index)
        tree.add(merkle.leaf_hash(raw))
        whole.first.setdefault(entry.event.workload, (index, entry))
        if entry.event.workload == workload:
            whole.mine.append((index, entry))
        if index + 1 in sizes:
            made[index + 1] = tree.root()
    if any(made[epoch.size] != epoch.opened.checkpoint.root for epoch in epochs):
        raise invalid("the entries do not lead to the signed root")
    return whole
