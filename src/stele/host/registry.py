"""One repository of an OCI registry (OCI distribution-spec 1.1): manifests, blobs, referrers.

Digests are checked here for what is read whole; a blob that is streamed is checked by who writes it.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote, urljoin

from stele.host import registry_login
from stele.host.http_registry import BrokenError, Connections, bad_answer, origin_of
from stele.host.registry_tokens import Tokens, unauthorised
from stele.model.release import INDEX_TYPE, MANIFEST_TYPE
from stele.trust.digest import digest_hex, parse_digest, sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

    from stele.host.http_registry import Answer
    from stele.model.reference import Reference

DOCKER_TYPES = ("application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json")
ACCEPT = ", ".join((MANIFEST_TYPE, INDEX_TYPE, *DOCKER_TYPES))
MANIFEST_LIMIT = 4 << 20  # bytes; as registries have it
T = TypeVar("T")
PAGES = 16  # of a list of referrers
UNKNOWN_TRIES = 4  # of a manifest that names blobs that were pushed before it
_UNKNOWN_BLOB = "MANIFEST_BLOB_UNKNOWN"
TAGS_AT_ONCE, TAG_PAGES = 1000, 1000  # of a list of tags; the registry may give fewer at once
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z", re.ASCII)
_NEXT = re.compile(r'<([^<>]{1,4096})>\s*;[^,]*\brel\s*=\s*"?next"?', re.ASCII)


class Manifest(NamedTuple):
    """A manifest or index as received: its digest is that of `data`; the media type is the registry's claim."""

    digest: str
    media_type: str
    data: bytes


class Repository:
    """A repository. Safe to use from several threads; a context manager."""

    def __init__(self, connections: Connections, reference: Reference) -> None:
        """Nothing is asked yet."""
        self.connections = connections
        self.name = reference.repository
        self.registry = reference.registry
        self._reference = reference
        self._tokens = Tokens(connections, lambda: registry_login.find(reference.registry, reference.repository))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connections.close()

    # --- reading

    def find(self, name: str) -> str:
        """The digest that the registry says a tag has, or the digest itself if it has that; "" where there is none or it does not say.

        Raises:
            SteleError: `registry.*` if it could not be looked up.
        """
        with self.request("HEAD", f"manifests/{name}", accept=ACCEPT) as answer:
            said = name if ":" in name else answer.headers.get("Docker-Content-Digest", "")
            try:
                return parse_digest(said) if self._is_there(answer) else ""
            except SteleError:
                return ""

    def named(self) -> Manifest:
        """The manifest or index that the repository's reference names.

        Raises:
            SteleError: `registry.unknown` where there is none, and those of `manifest`.
        """
        found = self.manifest(self._reference.name)
        if found is None:
            raise self._unknown()
        return found

    def _unknown(self) -> SteleError:
        return SteleError(
            f"{self._reference} is not there",
            remedy="check registry, repository and tag; some registries say so of what you may not see, too",
            code="registry.unknown",
        )

    def manifest(self, name: str, *, limit: int = MANIFEST_LIMIT) -> Manifest | None:
        """The manifest or index that a tag or digest names, checked against the digest; None where there is none.

        Raises:
            SteleError: `registry.wrong-bytes`, and `registry.*` if it could not be looked up.
        """

        def read() -> Manifest | None:
            with self.request("GET", f"manifests/{name}", accept=ACCEPT) as answer:
                if not self._is_there(answer):
                    return None
                data = answer.read(limit)
                return Manifest(sha256(data), answer.headers.get("Content-Type", "").partition(";")[0].strip(), data)

        found = self._read(read)
        if found is not None and ":" in name and found.digest != name:
            raise wrong_bytes(name)
        return found

    def blob(self, digest: str, size: int, limit: int = MANIFEST_LIMIT) -> bytes | None:
        """A small blob whole, checked against digest and size (bytes); None where there is none. Raises like `manifest`."""
        if not 0 <= size <= limit:
            raise bad_answer(f"it names a blob of {size} bytes where {limit} is the limit")

        def read() -> bytes | None:
            with self.open_blob(digest) as answer:
                return answer.read(size) if self._is_there(answer) else None

        data = self._read(read)
        if data is not None and (len(data) != size or sha256(data) != digest):
            raise wrong_bytes(digest)
        return data

    def has_blob(self, digest: str) -> bool:
        """Whether the registry says that the repository has a blob. Raises like `find`."""
        with self.request("HEAD", f"blobs/{parse_digest(digest)}") as answer:
            return self._is_there(answer)

    def blob_size(self, digest: str) -> int | None:
        """The size of a blob in bytes as the registry says it; None where it is not there or not said. Raises like `find`."""
        with self.request("HEAD", f"blobs/{parse_digest(digest)}") as answer:
            return answer.length if self._is_there(answer) else None

    def open_blob(self, digest: str, start: int = 0) -> Answer:
        """A blob's answer from byte `start` on, not checked: status 200, 206, 404 or 416.

        Raises:
            SteleError: `registry.*`.
        """
        headers = {"Range": f"bytes={start}-"} if start else {}
        return self.request("GET", f"blobs/{parse_digest(digest)}", headers=headers)

    def referrers(self, digest: str) -> list[dict[str, Any]]:
        """Descriptors of what refers to a manifest: from the referrers API, else and besides from the tag `sha256-<hex>`.

        Plain data by whoever may write to the repository: not one word of it is believed here.

        Raises:
            SteleError: `registry.*` if it could not be looked up.
        """
        found = self.manifest(f"sha256-{digest_hex(digest)}")
        listed = [] if found is None else _descriptors(found.data)
        listed += self._from_api(digest) or []  # last: some name the config's media type as the artifact's
        seen: dict[str, dict[str, Any]] = {}
        for item in listed:
            if isinstance(item.get("digest"), str):
                seen.setdefault(item["digest"], item)
        return list(seen.values())

    def knows_referrer(self, subject: str, digest: str) -> bool:
        """Whether the referrers API lists `digest` for `subject`. Raises like `referrers`."""
        return any(item.get("digest") == digest for item in self._from_api(subject) or [])

    def _from_api(self, digest: str) -> list[dict[str, Any]] | None:
        """None where the registry has no such API."""
        target = f"referrers/{parse_digest(digest)}"
        listed: list[dict[str, Any]] = []
        for _ in range(PAGES):

            def read(target: str = target) -> tuple[bytes, str] | None:
                with self.request("GET", target, accept=INDEX_TYPE) as answer:
                    if answer.status in {400, 404, 405, 501}:
                        return None
                    self._is_there(answer)
                    is_index = answer.headers.get("Content-Type", "").partition(";")[0].strip() == INDEX_TYPE
                    return (answer.read(MANIFEST_LIMIT), answer.headers.get("Link", "")) if is_index else None

            page = self._read(read)
            if page is None:
                return listed or None
            listed += _descriptors(page[0])
            following = self._following(target, page[1])
            if not following:
                return listed
            target = following
        raise bad_answer(f"its list of referrers has more than {PAGES} pages")

    def _following(self, target: str, link: str) -> str:
        """Where a list goes on, by the header Link of its answer; "" where it does not."""
        found = _NEXT.search(link)
        following = urljoin(self.url(target), found[1]) if found else ""
        if following and origin_of(following) != origin_of(self.connections.base()):
            raise bad_answer("a list of it goes on at another host")
        return following

    def tags(self) -> list[str]:
        """All tags of the repository, as the registry lists them.

        Raises:
            SteleError: `registry.unknown` where it has no such repository, and `registry.*` if it could not be looked up.
        """
        target, found = f"tags/list?n={TAGS_AT_ONCE}", list[str]()
        for _ in range(TAG_PAGES):

            def read(target: str = target) -> tuple[bytes, str]:
                with self.request("GET", target) as answer:
                    if not self._is_there(answer):
                        raise self._unknown()
                    return answer.read(MANIFEST_LIMIT), answer.headers.get("Link", "")

            data, link = self._read(read)
            found += parse_tags(data)
            following = self._following(target, link)
            if not following:
                return found
            target = following
        raise bad_answer(f"its list of tags has more than {TAG_PAGES} pages")

    # --- writing

    def delete_manifest(self, name: str) -> None:
        """Remove a manifest by its digest, in most registries with all tags that name it; or a tag. One that is not there is no error.

        Raises:
            SteleError: `registry.refused` (many registries let nothing be removed), and `registry.*`.
        """
        with self.request("DELETE", f"manifests/{name}", writes=True, also=f"repository:{self.name}:delete") as answer:
            if answer.status not in {200, 202, 204, 404}:
                raise self.refusal(answer, f"the removal of {name[:40]}")

    def put_manifest(self, name: str, media_type: str, data: bytes) -> bool:
        """Store a manifest or index under a tag or its digest; returns whether the registry said that it noted its subject.

        Where several push the same blobs at once, Debian's docker-registry does not know for a moment one that it has: it is asked again.

        Raises:
            SteleError: `registry.*`.
        """
        headers = {"Content-Type": media_type}

        def put() -> bool:
            with self.request("PUT", f"manifests/{name}", headers=headers, body=data, writes=True) as answer:
                if answer.status in {200, 201, 202}:
                    return bool(answer.headers.get("OCI-Subject"))
                refused = self.refusal(answer, f"the manifest {name}")
            if _UNKNOWN_BLOB in refused.reason:
                raise BrokenError(_UNKNOWN_BLOB, status=answer.status) from refused
            raise refused

        try:
            return self.connections.again(put, UNKNOWN_TRIES)
        except BrokenError as error:
            raise error.__cause__ or error from None

    # --- one request

    def url(self, target: str) -> str:
        """The URL of what `target` names within this repository, or `target` itself if it is one."""
        return target if "://" in target else f"{self.connections.base()}/v2/{self.name}/{quote(target, safe='/:?=&%')}"

    def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        accept: str = "",
        body: bytes | None = None,
        writes: bool = False,
        also: str = "",
    ) -> Answer:
        """Ask, with authorisation, as often as it takes; any status but 401, 403 and "later" is the caller's to judge.

        Args:
            method: of HTTP.
            target: below `/v2/<repository>/`, or a URL that the registry gave.
            headers: more of them.
            accept: which media types.
            body: to be sent.
            writes: the token must allow pushing.
            also: one more scope.

        Raises:
            SteleError: `registry.unreachable`, `registry.throttled`, `registry.unavailable`, `registry.unauthorized`,
                `registry.forbidden`, `registry.tls`, `registry.bad-answer`, `registry.bad-credentials`.
        """
        url = self.url(target)
        scope = self.scope(writes=writes, also=also)
        more = {**(headers or {}), **({"Accept": accept} if accept else {})}

        def attempt() -> Answer:
            sent = {**more, **self.authorisation(url, scope)}
            return self.connections.follow(method, url, sent) if body is None else self.connections.once(method, url, sent, body)

        if body is None and method not in {"GET", "HEAD"}:
            body = b""
        for last in (False, True):
            answer = self.connections.persist(attempt)
            if answer.status != 401:
                break
            answer.close()
            if last:
                raise unauthorised(self.registry, known=self._tokens.is_known())
            self._tokens.challenged(answer.headers.get("WWW-Authenticate", ""), scope)
        if answer.status == 403:
            with answer:
                raise self.refusal(answer, "access")
        return answer

    def scope(self, *, writes: bool, also: str = "") -> str:
        """The scope that a token needs."""
        return f"repository:{self.name}:{'pull,push' if writes else 'pull'}" + (f" {also}" if also else "")

    def authorisation(self, url: str, scope: str) -> dict[str, str]:
        """The header that authorises a request, if it goes to the registry itself. Raises like `Tokens.header`."""
        if origin_of(url) != origin_of(self.connections.base()):
            return {}
        value = self._tokens.header(scope)
        return {"Authorization": value} if value else {}

    def refusal(self, answer: Answer, what: str) -> SteleError:
        """The error for an answer that says no; its words are the registry's own, shortened."""
        said = _said(answer)
        if answer.status in {401, 403} or "DENIED" in said:
            return SteleError(
                f"the registry {self.registry} forbids {what} in {self.name}: HTTP status {answer.status}{said}",
                remedy=f"log in to {self.registry} as a user who may, or name another repository",
                code="registry.forbidden",
            )
        return SteleError(
            f"the registry {self.registry} refused {what} in {self.name}: HTTP status {answer.status}{said}",
            remedy="see what it says; registries limit names, sizes and kinds of what they take",
            code="registry.refused",
        )

    def _is_there(self, answer: Answer) -> bool:
        if answer.status in {200, 206}:
            return True
        if answer.status == 404:
            return False
        raise bad_answer(f"HTTP status {answer.status} is not an answer to what was asked")

    def _read(self, read: Callable[[], T]) -> T:
        """Read an answer's body whole; again, where the connection breaks in the middle of it."""
        try:
            return self.connections.again(read)
        except BrokenError as error:
            raise self.connections.gave_up(error) from error


def _descriptors(data: bytes) -> list[dict[str, Any]]:
    try:
        index = json.loads(data)
        listed = index.get("manifests") or []
    except (ValueError, RecursionError, AttributeError):
        raise bad_answer("a list of referrers is not JSON") from None
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise bad_answer("a list of referrers is malformed")
    return listed


def parse_tags(data: bytes) -> list[str]:
    """The tags in a list of them; what is none is left out. Raises `registry.bad-answer`."""
    try:
        listed = json.loads(data).get("tags") or []
    except (ValueError, RecursionError, AttributeError):
        raise bad_answer("its list of tags is not JSON") from None
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
        raise bad_answer("its list of tags is malformed")
    return [item for item in listed if _TAG.match(item)]


def _said(answer: Answer) -> str:
    """What an error answer says in words, for people: at most 300 characters."""
    try:
        errors = json.loads(answer.read(64 << 10))["errors"]
        return ": " + "; ".join(f"{item.get('code', '')} {item.get('message', '')}".strip() for item in errors[:3])[:300]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError, BrokenError, SteleError):
        return ""


def wrong_bytes(digest: str) -> SteleError:
    """The error for content that is not what its digest says."""
    return SteleError(
        f"the registry gave other bytes than {digest[:19]} has",
        remedy="what it gave was thrown away; try again, or pull from where it is whole, and ask who changed it",
        code="registry.wrong-bytes",
    )
