"""What people call a release: a digest, the beginning of one, a tag, or a workload for its newest. Pure."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

from stele.model.release import reference_name
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from stele.model.release import Release

_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{4,64})\Z", re.ASCII)
_WHOLE = 64  # hex digits; what is one digest is no workload: names are shorter than that


def resolve(name: str, known: Sequence[str], releases: Callable[[], Iterable[Release]]) -> str:
    """The digest of the release that is meant; `releases` (newest first) is asked where the name is no beginning of a digest.

    Raises:
        SteleError: `store.unknown-release`, `store.ambiguous`.
    """
    prefix = _PREFIX.match(name)
    beginning = f"sha256:{prefix[1]}" if prefix else ""
    found = [digest for digest in known if digest.startswith(beginning)] if prefix else []
    if len(found) > 1:
        raise SteleError(f"{name!r} is the beginning of {len(found)} releases", remedy="give more of the digest", code="store.ambiguous")
    if not found and not (prefix and len(prefix[1]) == _WHOLE):
        named = (release for release in releases() if name in {release.workload, reference_name(release.workload, release.digest)})
        found = [release.digest for release in itertools.islice(named, 1)]
    if not found:
        raise SteleError(
            f"the store has no release {name[:100]!r}",
            remedy="`stele releases` lists what is there; name a digest, the beginning of one (4 hex digits or more), or a workload",
            code="store.unknown-release",
        )
    return found[0]
