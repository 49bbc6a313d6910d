"""A release that is made visible and taken back where it does not come to count (docs/spec/store.md, Writing).

index.json as it was keeps a second name meanwhile: to bring it back takes no room, of which there may be none.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

from stele.host import durable, locks
from stele.model.release import reference_name
from stele.store import drafts
from stele.store import index as indexes
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stele.model.release import Publication
    from stele.store.layout import Layout

# codes of errors after which nothing is in the ledger; an agent that broke off may have recorded it
UNRECORDED = ("ledger.", "host.", "agent.not-running", "agent.not-permitted", "agent.stopping")


@contextlib.contextmanager
def published(store: Layout, publication: Publication) -> Iterator[None]:
    """Publish; where what is done inside cannot be recorded (UNRECORDED), or is given up before, that is taken back.

    The release is then not visible, or as it was before. Nothing is taken back where somebody else published since: there was room
    for that.

    Raises:
        SteleError: those of `Layout.publish`, and of what is done inside.
    """
    with _kept(store) as before:
        store.publish(publication)
        try:
            yield
        except (SteleError, OSError, locks.GivenUpError) as error:
            if before is not None and (not isinstance(error, SteleError) or error.code.startswith(UNRECORDED)):
                with contextlib.suppress(SteleError):
                    _take_back(store, publication, before)
            raise


@contextlib.contextmanager
def _kept(store: Layout) -> Iterator[Path | None]:
    """A second name of index.json in `tmp/`, locked like what is written there; None where there is no index yet."""
    index, path = store.root / "index.json", store.root / "tmp" / os.urandom(8).hex()
    try:
        fd = os.open(index, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        yield None
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        with drafts.writing(store.root):
            os.link(index, path)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _take_back(store: Layout, publication: Publication, before: Path) -> None:
    with store.changing(), drafts.writing(store.root):
        was, now = (indexes.Index.decode(path.read_bytes()) for path in (before, store.root / "index.json"))
        if _of_others(was, publication) == _of_others(now, publication):
            os.rename(before, store.root / "index.json")
            durable.sync_dir(store.root)


def _of_others(index: indexes.Index, publication: Publication) -> list[indexes.Plain]:
    """The entries that a publication leaves as they are."""
    digest = publication.release.digest
    own = {reference_name(publication.release.workload, digest), indexes.referrers_tag(digest), indexes.signatures_tag(digest)}
    referrers = {item.descriptor.digest for item in publication.referrers}

    def is_own(tag: str | None, entry: indexes.Plain) -> bool:
        return tag in own or (tag is None and indexes.descriptor(entry).digest in referrers)

    return [entry for tag, entry in index if not is_own(tag, entry)]
