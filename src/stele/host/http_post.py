"""Small requests by POST to a service: a witness, a timestamp authority. One try each; who asks decides about another."""

from __future__ import annotations

from typing import NamedTuple

from stele.host.http_registry import BrokenError
from stele.host.http_service import HttpService, bad_answer, no_tls
from stele.trust.errors import SteleError


class Posted(NamedTuple):
    """What came back: status, content type without parameters, body."""

    status: int
    content_type: str
    body: bytes


class HttpPosts(HttpService):
    """A service below one address. Connections are kept for the next request. Safe to use from several threads."""

    example = "https://witness.example.com/stele (http works, too: every answer is checked against keys)"

    def __init__(self, base: str, *, timeout: float) -> None:
        """Nothing is connected yet.

        Args:
            base: `https://host/path` or http; no user, query or fragment.
            timeout: seconds in which something must come; a slow answer of many pieces takes longer.

        Raises:
            SteleError: `http.bad-address`.
        """
        super().__init__(base, stall=timeout)

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
                raise no_tls(error) from error
            remedy = "nothing of it was believed; check the address, and ask who runs it"
            raise bad_answer(error, f"what {url} answered", remedy) from error
