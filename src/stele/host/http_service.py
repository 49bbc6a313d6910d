"""One address on the web and the connections to it: what reading files and posting requests have in common."""

from __future__ import annotations

from typing import Self

from stele.host.http_registry import STALL_SECONDS, Connections, origin_of
from stele.trust.errors import SteleError

_REFUSED = "the registry's answer is refused: "  # how the doorway for connections begins what it says of any server


class HttpService:
    """An address, without a slash at its end, and its connections, kept for the next request. A context manager."""

    what = "a service"
    example = "https://example.com/path (http works, too)"

    def __init__(self, base: str, *, stall: float = STALL_SECONDS) -> None:
        """Nothing is connected yet.

        Args:
            base: `https://host/path` or http; no user, query or fragment.
            stall: seconds in which something must come.

        Raises:
            SteleError: `http.bad-address`.
        """
        try:
            origin = origin_of(base)
            if not base.isascii() or set(base) & set("?#\\") or not base.isprintable() or " " in base:
                raise ValueError
        except (SteleError, ValueError) as error:
            raise SteleError(
                f"{base[:200]!r} is not the address of {self.what}", remedy=f"write it like {self.example}", code="http.bad-address"
            ) from error
        self.base = base.rstrip("/")
        self._connections = Connections(origin.host, stall=stall)

    def close(self) -> None:
        """Close what is open."""
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def no_tls(error: SteleError) -> SteleError:
    """What the doorway says of a registry's certificate, said of a server."""
    return SteleError(error.reason, remedy="name the authority's certificate in SSL_CERT_FILE", code="http.tls")


def bad_answer(error: SteleError, who: str, remedy: str) -> SteleError:
    """What the doorway says of a registry's answer, said of a server's. `who`: what answered, as the beginning of a sentence."""
    return SteleError(f"{who} is refused: {error.reason.removeprefix(_REFUSED)}", remedy=remedy, code="http.bad-answer")
