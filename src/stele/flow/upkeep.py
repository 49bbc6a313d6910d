"""What the ledger is told of the store's upkeep: before files are removed or mended, and after a repair (docs/spec/event.md, `store.*`)."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Literal, Protocol

from stele.model.event import HOST_WORKLOAD
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from stele.flow.record import Recorder
    from stele.model.event import Event
    from stele.store.checking import Finding

MOST = 200  # items of a list in one entry, whose size is limited
LIMIT = 60_000  # characters of what another process wants recorded
_FACTS: dict[str, dict[str, type]] = {
    "store.removing": {"why": str, "files": list, "bytes": int},
    "store.repairing": {"problems": list},
    "store.repaired": {"mended": list, "left": list},
}


class Record(Protocol):
    """Commits an event; when it returns, it is in the ledger. Raises `SteleError` if it is not."""

    def __call__(self, workload: str, kind: str, /, **facts: Any) -> None:
        """Commit."""


def removing(record: Record, why: Literal["unnamed", "damaged", "packed"], root: Path, paths: Iterable[str]) -> None:
    """Say which files are about to go: `paths` below `root`; those that are not there are left out.

    Raises:
        SteleError: `ledger.*`, `agent.*`: it could not be recorded, and nothing may be removed.
    """
    held: dict[str, int] = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            held[path] = (root / path).lstat().st_blocks * 512
    for names in _pieces(sorted(held)):
        record(HOST_WORKLOAD, "store.removing", why=why, files=names, bytes=sum(held[name] for name in names))


def repairing(record: Record, work: Sequence[Finding]) -> None:
    """Say what is about to be mended. Raises like `removing`."""
    for items in _pieces([[item.kind, item.path] for item in work]):
        record(HOST_WORKLOAD, "store.repairing", problems=items)


def repaired(record: Record, mended: Sequence[tuple[str, str, str]], left: Sequence[Finding]) -> None:
    """Say what became of it; `mended`: path, by which way, and where the damaged bytes are. Raises like `removing`."""
    items = [list(item) for item in mended]
    paths = list(dict.fromkeys(item.path for item in left))
    for at in range(0, max(len(items), len(paths)), MOST):
        record(HOST_WORKLOAD, "store.repaired", mended=items[at : at + MOST], left=paths[at : at + MOST])


def _pieces(items: list[Any]) -> Iterator[list[Any]]:
    return (items[at : at + MOST] for at in range(0, len(items), MOST))


def event(record: Recorder, kind: str, data: Any) -> Event:
    """The event of what another process does with the store, from what it says of it.

    Raises:
        SteleError: `api.bad-request`.
    """
    known = _FACTS.get(kind, {})
    if (
        not known
        or not isinstance(data, dict)
        or data.keys() != known.keys()
        or not all(type(value) is known[name] for name, value in data.items())
        or not all(_is_plain(item) for value in data.values() if isinstance(value, list) for item in value)
        or len(str(data)) > LIMIT
    ):
        raise SteleError("this is no upkeep of the store", remedy="use the stele command line of the same version", code="api.bad-request")
    return record.event(HOST_WORKLOAD, kind, **data)


def _is_plain(item: Any) -> bool:
    return isinstance(item, str) or (isinstance(item, list) and len(item) <= 3 and all(isinstance(part, str) for part in item))
