"""Files by HTTP from any web server: small ones, whole, by GET. For ledgers that are published as static files.

What comes is bounded and otherwise believed in nothing: who asks checks it against signatures and hashes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from stele.host.http_registry import AGAIN, STALL_SECONDS, BrokenError, later
from stele.host.http_service import HttpService, bad_answer, no_tls
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.host.http_registry import Answer

TRIES = 5


class HttpFiles(HttpService):
    """The files below one address. Safe to use from several threads; a context manager."""

    what = "a folder on a web server"
    example = "https://logs.example.com/shop/ (http works, too: everything is checked against signatures)"

    def __init__(self, base: str, *, tries: int = TRIES, stall: float = STALL_SECONDS) -> None:
        """Nothing is connected yet.

        Args:
            base: `https://host/path/`, or http; no user, query or fragment.
            tries: of one request, the first included.
            stall: seconds in which something must come.

        Raises:
            SteleError: `http.bad-address`.
        """
        super().__init__(base, stall=stall)
        self._tries = tries
        self.base += "/"

    def get(self, name: str, limit: int) -> bytes | None:
        """The bytes of a file below the address; None where the server says that there is none.

        Raises:
            SteleError: `http.unreachable` (retryable), `http.refused`, `http.tls`, `http.bad-answer`: also if it is larger than `limit`.
        """
        url = self.base + quote(name)

        def read() -> bytes | None:
            with self._connections.follow("GET", url, {"Cache-Control": "no-cache"}) as answer:
                return self._body(answer, url, limit)

        try:
            return self._connections.again(read, self._tries)
        except BrokenError as error:
            raise SteleError(
                f"{url} cannot be read: {error}",
                remedy="check the address, the network and any proxy (HTTPS_PROXY), and try again",
                code="http.unreachable",
                retryable=True,
            ) from error
        except SteleError as error:
            raise _translated(error, url) from error

    def _body(self, answer: Answer, url: str, limit: int) -> bytes | None:
        if answer.status in AGAIN:
            raise later(answer)
        if answer.status in {404, 410}:
            return None
        if answer.status != 200:
            raise SteleError(
                f"the web server answered {answer.status} for {url}",
                remedy="check that the address is right and may be read without a password",
                code="http.refused",
            )
        return answer.read(limit)


def _translated(error: SteleError, url: str) -> SteleError:
    """What the doorway says of registries, said of a web server."""
    if error.code == "registry.tls":
        return no_tls(error)
    if error.code == "registry.bad-answer":
        remedy = "nothing of it was believed; check that this is the ledger's address, and ask who runs the server"
        return bad_answer(error, f"what the web server answered for {url}", remedy)
    return error
