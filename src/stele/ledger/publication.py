"""Copying a published ledger to object storage so that it cannot be taken back (docs/spec/publishing.md).

Entries and tiles first, then the archived checkpoint, then the head: whoever reads the head finds all that it covers.
"""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, NamedTuple, Protocol

from stele.ledger import tiles
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stele.ledger.published import Published
    from stele.trust.note import Checkpoint


class ExistsError(Exception):
    """There is something already where nothing was to be, or something else than what was to be replaced."""


class Head(NamedTuple):
    """A checkpoint as it was found somewhere. `where`: in words. `tag`: of the object, to replace just this one."""

    where: str
    note: bytes
    checkpoint: Checkpoint
    tag: str = ""


class Target(Protocol):
    """Where files are put. Safe to use from several threads. All raise `SteleError` where it cannot be done."""

    def get(self, name: str) -> tuple[bytes, str] | None:
        """Bytes and tag of a file; None if there is none."""

    def put(self, name: str, data: bytes, *, locked: bool, replaces: str) -> None:
        """Write a file; `replaces`: the tag of the one that is there, "" if none may be.

        Durable on return. Idempotent only together with `get`.

        Raises:
            ExistsError: something else is there.
        """


class Done(NamedTuple):
    """What was put where. `found`: files that were there already."""

    size: int
    put: int
    found: int
    bytes: int


def refuse_split(local: Published, heads: Sequence[Head]) -> None:
    """Every checkpoint that somebody saw must be one of this ledger's past.

    Raises:
        SteleError: `publish.split-view`, `publish.ahead`.
    """
    for head in heads:
        said = head.checkpoint
        if said.size > local.size:
            raise SteleError(
                f"{head.where} is of {said.size} entries, the ledger here has only {local.size}: published entries are missing here",
                remedy="nothing was uploaded. Was this ledger restored from a backup, or has another machine its key? Compare the two",
                code="publish.ahead",
            )
        if local.root_at(said.size) != said.root:
            raise SteleError(
                f"{head.where} is signed by this ledger's key, but what it says of {said.size} entries is not what the ledger here says: "
                "there are two histories",
                remedy="ALARM: nothing was uploaded, both checkpoints are kept. Stop, and find out which one was forged",
                code="publish.split-view",
            )


def files(local: Published, begin: int) -> Iterator[tuple[str, bytes, bool]]:
    """Name, bytes and whether it is full of each tile and bundle that a copy of the first `begin` entries lacks; all checked."""
    size = local.size
    for number in range(begin // tiles.WIDTH, -(-size // tiles.WIDTH)):
        width = min(tiles.WIDTH, size - number * tiles.WIDTH)
        yield tiles.bundle_path(number, width), tiles.pack_bundle(local.bundle(number)), width == tiles.WIDTH
    level = 0
    while size >> (8 * level):
        full, partial = tiles.widths(size, level)
        for number in range(tiles.widths(begin, level)[0], full):
            yield tiles.tile_path(level, number, tiles.WIDTH), local.tile(level, number), True
        if partial:
            yield tiles.tile_path(level, full, partial), local.tile(level, full), False
        level += 1


def publish(
    local: Published,
    note: bytes,
    remote: Head | None,
    target: Target,
    *,
    begin: int,
    workers: int,
    lock_partial: bool,
    say: Callable[[int], None],
) -> Done:
    """Put what is new, then the checkpoint. Begun again after it was cut off, it goes on.

    Args:
        local: the ledger as its checkpoint has it.
        note: that checkpoint, signed.
        remote: the head that is there now, which `refuse_split` has seen.
        target: where to.
        begin: the first so many entries are there already.
        workers: uploads at once.
        lock_partial: lock partial tiles, too.
        say: told how many files were put.

    Raises:
        SteleError: `publish.other-bytes`, `publish.raced`, and what `target` raises.
    """
    counted = _Counted(target)
    with ThreadPoolExecutor(workers, thread_name_prefix="publish") as pool:
        waiting: set[Future[None]] = set()
        try:
            for name, data, full in files(local, begin):
                if len(waiting) >= 2 * workers:
                    finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for each in finished:
                        each.result()
                    say(counted.put_count)
                waiting.add(pool.submit(counted.put_new, name, data, locked=full or lock_partial))
            for each in waiting:
                each.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    counted.put_new(f"checkpoints/{local.size}", note, locked=True, same=_same_body)
    if remote is None or remote.note != note:
        try:
            target.put("checkpoint", note, locked=False, replaces=remote.tag if remote else "")
        except ExistsError as error:
            raise SteleError(
                "somebody else published a checkpoint there meanwhile",
                remedy="run it again; let only one machine publish a ledger",
                code="publish.raced",
                retryable=True,
            ) from error
    return Done(local.size, counted.put_count, counted.found, counted.bytes)


def _same_body(one: bytes, other: bytes) -> bool:
    """Whether two notes say the same: one may have been cosigned by more witnesses meanwhile."""
    return one.partition(b"\n\n")[0] == other.partition(b"\n\n")[0]


class _Counted:
    def __init__(self, target: Target) -> None:
        self._target = target
        self.put_count = self.found = self.bytes = 0  # under the GIL, and only ever told to people

    def put_new(self, name: str, data: bytes, *, locked: bool, same: Callable[[bytes, bytes], bool] = bytes.__eq__) -> None:
        """Put what never changes: what is there already must be the same."""
        try:
            self._target.put(name, data, locked=locked, replaces="")
        except ExistsError:
            there = self._target.get(name)
            if there is None or not same(there[0], data):
                raise SteleError(
                    f"{name} is there already, and is something else than what the ledger here has",
                    remedy="ALARM: it was not overwritten and no checkpoint was published; compare the two, and see who may write there",
                    code="publish.other-bytes",
                ) from None
            self.found += 1
            return
        self.put_count += 1
        self.bytes += len(data)
