"""Small requests by POST to a service: a witness, a timestamp authority. One try each; who asks decides about another."""

from __future__ import annotations

from typing import NamedTuple, Self

from stele.host.http_registry import BrokenError, Connections, origin_of
from stele.trust.errors import SteleError


class Posted(NamedTuple):
    """What came back: status, content type without parameters, body."""

    status: int
    content_type: str
    body: bytes


class HttpPosts:
    """A service below one address. Connections are kept for the next request. Safe to use from several threads."""

    def __init__(self, base: str, *, timeout: float) -> None:
        """Nothing is connected yet.

        Args:
            base: `https://host/path` or http; no user, query or fragment.
            timeout: seconds in which something must come; a slow answer of many pieces takes longer.

        Raises:
            SteleError: `http.bad-address`.
        """
        try:
            origin = origin_of(base)
            if not base.isascii() or set(base) & set("?#\\") or not base.isprintable() or " " in base:
                raise ValueError
        except (SteleError, ValueError) as error:
            raise SteleError(
                f"{base[:200]!r} is not the address of a service",
                remedy="write it like https://witness.example.com/stele (http works, too: every answer is checked against keys)",
                code="http.bad-address",
            ) from error
        self.base = base.rstrip("/")
        self._connections = Connections(origin.host, stall=timeout)

    def post(self, path: str, body: bytes, content_type: str, limit: int) -> Posted:
        """Send a request.

        Args:
            path: after the address, with its slash; "" for the address itself.
            body: what is sent.
            content_type: of it.
            limit: bytes; a longer answer is refused.

        Raises:
            SteleError: `http.unreachable` (retryable), `http.tls`, `http.bad-answer`.
        """
        url = self.base + path
        try:
            with self._connections.once("POST", url, {"Content-Type": content_type}, body) as answer:
                kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
                return Posted(answer.status, kind, answer.read(limit))
        except BrokenError as error:
            raise SteleError(
                f"{url} does not answer: {error}",
                remedy="check the address, the network and any proxy (HTTPS_PROXY); it is tried again",
                code="http.unreachable",
                retryable=True,
            ) from error
        except SteleError as error:
            if error.code == "registry.tls":
                raise SteleError(error.reason, remedy="name the authority's certificate in SSL_CERT_FILE", code="http.tls") from error
            reason = error.reason.removeprefix("the registry's answer is refused: ")
            raise SteleError(
                f"what {url} answered is refused: {reason}",
                remedy="nothing of it was believed; check the address, and ask who runs it",
                code="http.bad-answer",
            ) from error

    def close(self) -> None:
        """Close what is open."""
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
