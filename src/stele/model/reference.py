"""A reference to something in an OCI registry: `REGISTRY/REPO[:TAG][@DIGEST]` (docs/spec/distribution.md, References)."""

from __future__ import annotations

import re

import msgspec

from stele.trust.digest import parse_digest
from stele.trust.errors import SteleError

DEFAULT_TAG = "latest"
DOCKER_HUB = "docker.io"
_DOCKER_HUB_API = "registry-1.docker.io"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]{{2,45}}\])(?::[1-9][0-9]{{0,4}})?\Z", re.ASCII)
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*\Z", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z", re.ASCII)
_MAX = 512  # characters


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """Where something lies. `registry`: host and port as people write it. `tag` or `digest` may be empty, not both."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def host(self) -> str:
        """The host, with port where it is not the scheme's own, that answers the API."""
        return _DOCKER_HUB_API if self.registry == DOCKER_HUB else self.registry

    @property
    def name(self) -> str:
        """What the API calls it: the digest, which wins, or the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.registry}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> Reference:
    """Read a reference; one spelling only. Without tag and digest the tag is `latest`, as everywhere.

    Raises:
        SteleError: `registry.bad-reference`.
    """
    rest, at, digest = text.partition("@")
    registry, slash, path = rest.partition("/")
    path, colon, tag = path.partition(":")
    if registry == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    local = registry == "localhost" or any(char in registry for char in ".:")
    good = (
        len(text) <= _MAX
        and slash
        and local
        and _HOST.match(registry)
        and len(path) <= 255
        and _REPOSITORY.match(path)
        and (not colon or _TAG.match(tag))
    )
    port = registry.rpartition(":")[2]
    if not good or (port.isdigit() and int(port) > 65535):
        raise _bad(text)
    try:
        found = parse_digest(digest) if at else ""
    except SteleError as error:
        raise _bad(text) from error
    return Reference(registry=registry, repository=path, tag=tag or ("" if found else DEFAULT_TAG), digest=found)


def repository(text: str) -> str:
    """A repository's name alone, checked.

    Raises:
        SteleError: `registry.bad-reference`.
    """
    if len(text) > 255 or not _REPOSITORY.match(text):
        raise _bad(text)
    return text


def _bad(text: str) -> SteleError:
    return SteleError(
        f"{text[:200]!r} does not name anything in a registry",
        remedy="write REGISTRY/REPOSITORY[:TAG] or REGISTRY/REPOSITORY@sha256:<64 hex>, in lower case and without https://, "
        "as registry.example.com/team/shop:1.4",
        code="registry.bad-reference",
    )
