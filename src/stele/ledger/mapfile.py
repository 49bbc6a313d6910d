"""The nodes of all epoch maps on disk, each once, appended and never changed (docs/spec/epoch-map.md).

It is made from the entries and can be made again; nothing read from it is believed before it fits the hash that it is asked for.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_left
from typing import TYPE_CHECKING, Self

import msgspec

from stele.host import durable
from stele.ledger import regular
from stele.model import epochmap, facts
from stele.model.epochmap import EMPTY, Branch, Kept, Leaf, Node, Ran, Stub, branch_hash, hash_of
from stele.trust import canonical
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stele.model.event import Event

_BRANCH = struct.Struct("<cQ32sQ32s")
_LEAF = struct.Struct("<cI")
_ROOT = struct.Struct("<QQ32sQQ")  # epoch's index, root's place, root, workloads, the epoch's stamp
RECORD = _ROOT.size
_MAX_LEAF = 1 << 24
_GUESS = 1024  # bytes: most nodes are shorter


class Root(msgspec.Struct, frozen=True):
    """One epoch's map. `epoch`: index of its entry. `node`: its root. `workloads`: how many it holds. `time_ns`: its entry's stamp."""

    epoch: int
    node: Node | None
    workloads: int
    time_ns: int


def stale(reason: str) -> SteleError:
    """The error for a file that does not fit the ledger."""
    return SteleError(
        f"the ledger's epoch map cannot be used: {reason}",
        remedy="stop what writes the ledger; `stele log rebuild` makes the map again from the entries",
        code="ledger.bad-map",
    )


class MapFile:
    """The open files. Reading is safe from several threads; one thread writes."""

    def __init__(self, folder: Path, *, write: bool = False) -> None:
        """Open `<folder>/map`; for writing it is made where there is none.

        Raises:
            OSError: it cannot be, or (for reading) is not there.
        """
        flags = os.O_RDWR | os.O_CREAT if write else os.O_RDONLY
        if write:
            durable.make_dirs(folder / "map")
        self._nodes = regular.opened(folder / "map" / "nodes", flags)
        try:
            self._roots = regular.opened(folder / "map" / "roots", flags)
        except BaseException:
            os.close(self._nodes)
            raise
        self._count = os.fstat(self._roots).st_size // _ROOT.size
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        os.close(self._nodes)
        os.close(self._roots)

    # --- reading

    def root(self, epoch: int) -> Root | None:
        """The map of the epoch entry at this index, as the file has it; compare its hash with the entry's."""
        at = bisect_left(range(self._count), epoch, key=lambda number: self._record(number).epoch)
        found = self._record(at) if at < self._count else None
        return found if found is not None and found.epoch == epoch else None

    def around(self, time_ns: int) -> tuple[Root | None, Root | None]:
        """The last map whose stamp is before an instant, and the one after it; None where there is none.

        Stamps of epochs only grow (docs/spec/ledger.md), so this looks at few records.
        """
        at = bisect_left(range(self._count), time_ns, key=lambda number: self._record(number).time_ns)
        return self._record(at - 1) if at else None, self._record(at) if at < self._count else None

    def _record(self, number: int) -> Root:
        raw = os.pread(self._roots, _ROOT.size, number * _ROOT.size)
        if len(raw) < _ROOT.size:
            raise stale("a record is cut off")
        epoch, at, digest, workloads, time_ns = _ROOT.unpack(raw)
        return Root(epoch, Stub(digest, at) if at else None, workloads, time_ns)

    def load(self, stub: Stub) -> Kept:
        """The node of a stub.

        Raises:
            SteleError: `ledger.bad-map`: what is there is not it.
        """
        at = stub.at - 1
        raw = os.pread(self._nodes, _GUESS, at) if 0 <= at < 1 << 62 else b""
        if raw[:1] == b"B" and len(raw) >= _BRANCH.size:
            _, left_at, left, right_at, right = _BRANCH.unpack_from(raw)
            # children lie before their parents: no circles
            fits = left_at <= at >= right_at and (left_at == 0) == (left == EMPTY) and (right_at == 0) == (right == EMPTY)
            if not fits or branch_hash(left, right) != stub.hash:
                raise stale("a branch is not the one that is meant")
            return Branch(Stub(left, left_at) if left_at else None, Stub(right, right_at) if right_at else None, stub.hash, stub.at)
        if raw[:1] != b"L" or len(raw) < _LEAF.size:
            raise stale("a node is missing")
        _, length = _LEAF.unpack_from(raw)
        if length > _MAX_LEAF:
            raise stale("a leaf is not the one that is meant")
        body = raw[_LEAF.size : _LEAF.size + length]
        if len(body) < length:
            body = os.pread(self._nodes, length, at + _LEAF.size)
        node = _leaf(body)
        if node.hash != stub.hash:
            raise stale("a leaf is not the one that is meant")
        node.at = stub.at
        return node

    def _end_of(self, root: Root | None) -> int:
        """Where the nodes of a map end: with its root, which is written last."""
        if root is None or root.node is None:
            return 0
        node = self.load(root.node) if isinstance(root.node, Stub) else root.node
        return node.at - 1 + (_BRANCH.size if isinstance(node, Branch) else _LEAF.size + len(_leaf_body(node)))

    def since(self, base: int, epochs: Mapping[int, Event]) -> Root | None:
        """The newest map, if those of the `epochs` from index `base` on (by index, all there are) are in the file, with whole nodes.

        Those of older ones are not read. What was written for epochs after them is forgotten.
        """
        try:
            self.keep(max(epochs, default=-1) + 1)
            begin = bisect_left(range(self._count), base, key=lambda number: self._record(number).epoch)
            if self._count - begin != len(epochs):
                return None
            floor = self._end_of(self._record(begin - 1)) if begin else 0
            found, read = None, dict[int, Kept]()
            for number, (index, event) in enumerate(sorted(epochs.items()), begin):
                found = self._record(number)
                said = event.data.get("map_root"), event.data.get("map_size"), event.time_ns
                if found.epoch != index or (hash_of(found.node).hex(), found.workloads, found.time_ns) != said:
                    return None
                if isinstance(found.node, Stub):
                    found = msgspec.structs.replace(found, node=self._read_above(floor, found.node, read))
        except SteleError:
            return None
        return found

    def _read_above(self, floor: int, root: Stub, read: dict[int, Kept]) -> Kept:
        """A map with all of its nodes that begin at `floor` or after; `read`: those that were, by place."""

        def node_of(stub: Stub) -> Kept:
            node = read.get(stub.at)
            if node is None:
                node = read[stub.at] = self.load(stub)
                if type(node) is Branch:
                    pending.append(node)
            elif node.hash != stub.hash:
                raise stale("a node is not the one that is meant")
            return node

        pending: list[Branch] = []
        top = node_of(root)
        while pending:
            branch = pending.pop()
            if type(branch.left) is Stub and branch.left.at > floor:
                branch.left = node_of(branch.left)
            if type(branch.right) is Stub and branch.right.at > floor:
                branch.right = node_of(branch.right)
        return top

    def check(self, maps: Mapping[int, tuple[bytes, int, int]]) -> list[str]:
        """Read every node; returns what does not fit the roots, sizes and stamps that there should be, by their epochs.

        Raises:
            SteleError: `ledger.bad-map`: a node is not what its hash says, or a map is missing.
        """
        problems = []
        seen: dict[int, bytes] = {}  # nodes that were read, by where they lie
        for number, (epoch, expected) in enumerate(sorted(maps.items())):
            found = self._record(number)
            if (found.epoch, hash_of(found.node), found.workloads, found.time_ns) != (epoch, *expected):
                problems.append(f"the epoch map of entry {epoch} on disk is not the one of the entries")
                continue
            pending = [found.node]
            while pending:
                node = pending.pop()
                if isinstance(node, Stub) and seen.get(node.at) != node.hash:
                    loaded = self.load(node)
                    seen[node.at] = node.hash
                    pending += [loaded.left, loaded.right] if isinstance(loaded, Branch) else []
        return problems

    # --- writing

    def keep(self, size: int) -> Root | None:
        """Forget the maps of epochs at or beyond `size`; returns the newest that is left."""
        found = None
        while self._count:
            record = self._record(self._count - 1)
            if record.epoch < size:
                found = record
                break
            self._count -= 1
        try:
            self._end = self._end_of(found)
        except SteleError:  # its root is not there: none of it is of use
            found, self._count, self._end = None, 0, 0
        os.ftruncate(self._roots, self._count * _ROOT.size)
        os.ftruncate(self._nodes, self._end)
        return found

    def write_again(self, base: int) -> None:
        """Write the maps since `base` once more, which are whole: memory may show what a disk that failed does not have.

        Raises:
            OSError: that cannot be done.
            SteleError: `ledger.bad-map`.
        """
        begin = bisect_left(range(self._count), base, key=lambda number: self._record(number).epoch)
        floor = self._end_of(self._record(begin - 1)) if begin else 0
        for fd, at, end in (self._nodes, floor, self._end), (self._roots, begin * RECORD, self._count * RECORD):
            durable.write_at(fd, os.pread(fd, end - at, at), at)

    def commit(self, epoch: int, node: Node | None, workloads: int, time_ns: int) -> None:
        """Append an epoch's map: the nodes that are not kept yet, then its record. Not synced.

        Raises:
            OSError: nothing was committed; the same call may succeed later.
        """
        out = bytearray()
        fresh: list[Kept] = []
        self._collect(node, out, fresh)
        try:
            durable.write_at(self._nodes, out, self._end)
            record = _ROOT.pack(epoch, node.at if node else 0, node.hash if node else EMPTY, workloads, time_ns)
            durable.write_at(self._roots, record, self._count * _ROOT.size)
        except BaseException:
            for each in fresh:
                each.at = 0
            raise
        self._end, self._count = self._end + len(out), self._count + 1

    def _collect(self, node: Node | None, out: bytearray, fresh: list[Kept]) -> int:
        """Add a node and what is below to `out`, children first; returns its place."""
        if node is None:
            return 0
        if node.at or isinstance(node, Stub):
            return node.at
        if isinstance(node, Branch):
            left, right = self._collect(node.left, out, fresh), self._collect(node.right, out, fresh)
            data = _BRANCH.pack(b"B", left, node.left.hash if node.left else EMPTY, right, node.right.hash if node.right else EMPTY)
        else:
            body = _leaf_body(node)
            data = _LEAF.pack(b"L", len(body)) + body
        node.at = self._end + len(out) + 1
        fresh.append(node)
        out += data
        return node.at


def _leaf_body(leaf: Leaf | Ran) -> bytes:
    if isinstance(leaf, Ran):
        return canonical.encode({"workload": leaf.workload, "release": leaf.release, "seq": leaf.seq})
    assert isinstance(leaf.kept, facts.Facts)
    kept = leaf.kept
    made = canonical.encode_record(_Record(leaf.count, msgspec.Raw(kept.encoded), leaf.head, leaf.workload))
    return made or canonical.encode({"workload": leaf.workload, "count": leaf.count, "head": leaf.head, "facts": kept.plain()})


class _Record(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A workload's leaf."""

    count: int
    facts: msgspec.Raw
    head: str
    workload: str


_READER = msgspec.json.Decoder(_Record)


def _leaf(body: bytes) -> Leaf | Ran:
    try:
        # how it is spelled does not matter: all that is read of it is in the hash
        if b"\\" not in body and body[:9] == b'{"count":':
            found = _READER.decode(body)
            kept = facts.from_bytes(bytes(found.facts))
            return epochmap.leaf(found.workload, found.count, found.head, kept.digest, kept)
        plain = msgspec.json.decode(body) if b"\\" not in body else canonical.decode(body)
        if "release" in plain:
            return epochmap.ran(plain["workload"], plain["release"], plain["seq"])
        kept = facts.from_plain(plain["facts"])
        leaf = epochmap.leaf(plain["workload"], plain["count"], plain["head"], kept.digest, kept)
    except (SteleError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise stale("a leaf cannot be read") from error
    return leaf


def remove(folder: Path) -> None:
    """Delete the maps of a ledger that nobody writes; its next opening makes them again."""
    for name in ("nodes", "roots"):
        (folder / "map" / name).unlink(missing_ok=True)
