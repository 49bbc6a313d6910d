"""Updates in a registry whose release is no longer there: whoever removed it left them (docs/spec/update.md, In a registry)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from stele.flow import registry_lists
from stele.host.http_registry import Connections
from stele.host.registry import Repository
from stele.model import reference as references
from stele.model.release import UPDATE_TYPE
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable

_UPDATE = re.compile(r"update-[0-9a-f]{12}-([0-9a-f]{12})", re.ASCII)
_ABOUT = re.compile(r"sha256-([0-9a-f]{64})(\.[a-z]+)?", re.ASCII)


class Leftover(NamedTuple):
    """An update that leads to nothing. `size`: bytes of it, and of its manifest."""

    tag: str
    digest: str
    size: int


class Pruned(NamedTuple):
    """What was removed, or would be. `kept`: how many updates lead to a release that is there."""

    where: str
    gone: tuple[Leftover, ...]
    kept: int

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(item.size for item in self.gone)


def prune(target: str, *, plain_http: bool, dry_run: bool, say: Callable[[str], None]) -> Pruned:
    """Remove from a repository the updates to releases that it does not have any more.

    A release is there if its manifest is: under a tag, or by the digest that the tag of its signatures or referrers has
    (`sha256-<hex>…`). A push that goes on meanwhile has written both before it writes an update.

    Args:
        target: `REGISTRY/REPOSITORY`.
        plain_http: speak http without TLS.
        dry_run: only say what would be removed.
        say: told of each step.

    Raises:
        SteleError: `registry.*`; `registry.refused` where the registry lets nothing be removed.
    """
    reference = references.parse(target)
    with Repository(Connections(reference.host, plain_http=plain_http), reference) as repository:
        tags = repository.tags()
        updates = {tag: found[1] for tag in tags if (found := _UPDATE.fullmatch(tag))}
        say(f"looking for the releases of {len(updates)} updates")
        there = _present(repository, [tag for tag in tags if tag not in updates], set(updates.values()))
        gone = []
        for tag, short in updates.items():
            found_there = None if short in there else _leftover(repository, tag)
            if found_there is not None:
                gone.append(found_there)
        for item in () if dry_run else gone:
            say(f"removing {item.tag}")
            repository.delete_manifest(item.digest)
            if repository.find(item.tag):  # some keep tags apart
                repository.delete_manifest(item.tag)
    return Pruned(f"{reference.registry}/{reference.repository}", tuple(gone), sum(short in there for short in updates.values()))


def _present(repository: Repository, tags: list[str], asked: set[str]) -> set[str]:
    """Those beginnings of digests (12 hex digits), of the ones that are asked for, by which a manifest is there."""
    found: set[str] = set()
    for tag in tags:
        about = _ABOUT.fullmatch(tag)
        name = f"sha256:{about[1]}" if about else tag
        if about and about[1][:12] not in asked - found:
            continue
        digest = repository.find(name)
        if not digest and not about:  # some registries do not say it
            held = repository.manifest(name)
            digest = held.digest if held is not None else ""
        found.add(digest[7:19])
    return found


def _leftover(repository: Repository, tag: str) -> Leftover | None:
    """An update by its tag; None if the tag is something else's."""
    held = repository.manifest(tag)
    if held is None:
        return None
    try:
        parts = registry_lists.parts(held.data, tag)
    except SteleError:
        return None
    if parts[0].media_type != UPDATE_TYPE:
        return None
    return Leftover(tag, held.digest, len(held.data) + sum(part.size for part in parts))
