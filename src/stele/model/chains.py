"""Where every workload's chain stands: what changed since the last epoch in memory, the rest in the epoch map.

Not thread-safe: its owner serialises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stele.model import epochmap, facts
from stele.model.damage import damaged
from stele.model.epochmap import Leaf, Node, Ran, Stub, no_stubs

if TYPE_CHECKING:
    from collections.abc import Callable

    from stele.model.epochmap import Load
    from stele.model.event import Entry
    from stele.model.facts import Facts


class Chain(msgspec.Struct, frozen=True, gc=False):
    """Entries so far, digest of the last ("" before the first), and the facts that they make."""

    count: int
    head: str
    facts: Facts


_AT_ONCE = 16  # leaves of a draft: what they share of the way is made again for the next few
NEW = Chain(0, "", facts.NONE)


def _chain(leaf: Leaf) -> Chain:
    assert isinstance(leaf.kept, facts.Facts)
    return Chain(leaf.count, leaf.head, leaf.kept)


class Draft:
    """The map with some chains and releases put in: what makes it may run beside whoever counts in."""

    def __init__(self, root: Node | None, changed: list[tuple[str, Chain]], first: list[Ran], load: Load) -> None:
        self.root, self.changed, self.first, self._load = root, changed, first, load

    def work_out(self, between: Callable[[], object] | None = None) -> None:
        """Make the map. `between`: is called after every few leaves.

        Raises:
            SteleError: `ledger.bad-map`.
        """
        leaves: list[Leaf | Ran] = [
            epochmap.leaf(name, chain.count, chain.head, chain.facts.digest, chain.facts) for name, chain in self.changed
        ]
        leaves += self.first
        leaves.sort(key=epochmap.KEY)
        if between is None:
            self.root = epochmap.put(self.root, leaves, self._load)
            return
        for begin in range(0, len(leaves), _AT_ONCE):
            self.root = epochmap.put(self.root, leaves[begin : begin + _AT_ONCE], self._load)
            between()


class Chains:
    """The ends of all chains. `root`: the map of the last epoch; `workloads`: how many it holds."""

    def __init__(self, root: Node | None = None, workloads: int = 0, load: Load = no_stubs) -> None:
        self.root: Node | None = load(root) if isinstance(root, Stub) else root
        self.workloads = workloads
        self._load = load
        self._known: dict[str, Chain] = {}
        self._fresh: set[str] = set()  # not in the map yet
        self._changed: set[str] = set()
        self._ran: set[tuple[str, str]] = set()  # workload and release, as far as somebody asked
        self._first: list[Ran] = []  # not in the map yet

    def get(self, workload: str) -> Chain:
        """Where a workload's chain stands.

        Raises:
            SteleError: `ledger.bad-map`.
        """
        known = self._known.get(workload)
        if known is None:
            leaf = epochmap.leaf_of(self.root, epochmap.key_of(workload), self._load)
            if not isinstance(leaf, Leaf):
                known = NEW
                self._fresh.add(workload)
            else:
                known = _chain(leaf)
            self._known[workload] = known
        return known

    def take(self, entry: Entry, digest: str, index: int) -> None:
        """Count one more entry in.

        Args:
            entry: the entry.
            digest: of its bytes, as `sha256:<hex>`.
            index: its place in the log, for the error.

        Raises:
            SteleError: `ledger.damaged` if it does not continue its chain, `ledger.bad-map`; nothing was counted.
        """
        name = entry.event.workload
        chain = self.get(name)
        if (entry.seq, entry.prev) != (chain.count, chain.head):
            raise damaged(f"entry {index} does not continue the chain of {name or 'the host'}")
        self._count_in(chain, entry, digest)

    def put(self, entry: Entry, digest: str) -> None:
        """Count an entry in wherever its chain stands, as a reader does who looks for all that is wrong."""
        event = entry.event
        name = event.workload
        chain = self._known.get(name) or self.get(name)
        if event.kind in facts.KINDS:
            self._count_in(chain, entry, digest)
        else:  # most of them
            self._known[name] = Chain(entry.seq + 1, digest, chain.facts)
            self._changed.add(name)

    def _count_in(self, chain: Chain, entry: Entry, digest: str) -> None:
        event, after = entry.event, chain.facts
        name = event.workload
        if event.kind in facts.KINDS:
            if release := facts.started(event):
                self._start(name, release, entry.seq)
            after = after.after(event)
        self._known[name] = Chain(entry.seq + 1, digest, after)
        self._changed.add(name)

    def _start(self, name: str, release: str, seq: int) -> None:
        if (name, release) in self._ran:
            return
        made = epochmap.ran(name, release, seq)
        if epochmap.leaf_of(self.root, made.key, self._load) is None:
            self._first.append(made)
        self._ran.add((name, release))

    def draft(self) -> Draft:
        """What the next `fold` has to do so far. It may be worked out while more is counted in; `adopt` takes it in."""
        return Draft(self.root, [(name, self._known[name]) for name in self._changed], self._first[:], self._load)

    def adopt(self, draft: Draft) -> None:
        """Take in a draft that was worked out: nobody has folded since it was made."""
        self.root = draft.root
        for name, chain in draft.changed:
            if self._known[name] is chain:
                self._changed.discard(name)
            if name in self._fresh:
                self._fresh.discard(name)
                self.workloads += 1
        del self._first[: len(draft.first)]

    @property
    def changed(self) -> int:
        """How many workloads the next `fold` is about."""
        return len(self._changed)

    def fold(self) -> tuple[bytes, int]:
        """Make the map of what is counted in; returns its root and the number of its workloads.

        Raises:
            SteleError: `ledger.bad-map`.
        """
        draft = self.draft()
        draft.work_out()
        self.adopt(draft)
        return epochmap.hash_of(self.root), self.workloads

    def all(self) -> dict[str, Chain]:
        """Where every chain stands. Reads the whole map."""
        found = {leaf.workload: _chain(leaf) for leaf in epochmap.leaves(self.root, self._load) if isinstance(leaf, Leaf)}
        return found | {name: chain for name, chain in self._known.items() if chain.count}
