"""The one doorway for HTTP to registries: pooled connections, TLS, redirects, retries, bounded answers.

What a registry says is hostile until a digest proves it: no answer is read without a limit, none is decompressed, no
connection may stand still, and what authorises goes to the registry's own origin only (docs/spec/distribution.md).
"""

from __future__ import annotations

import ipaddress
import logging
import random
import threading
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

import urllib3
from urllib3.exceptions import HTTPError, SSLError

from stele import __version__
from stele.host import registry_tls
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from urllib3.response import BaseHTTPResponse

log = logging.getLogger(__name__)
T = TypeVar("T")
TRIES = 6  # of one request, the first included
AGAIN = frozenset({408, 429, 500, 502, 503, 504})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 5
MAX_WAIT = 120.0  # seconds: a registry that wants more is not waited for
STALL_SECONDS = 60.0
STALL_BYTES = 16 << 10  # fewer than this in STALL_SECONDS: the connection stands still
PIECE = 256 << 10
CONNECTIONS = 8
_CONNECT, _READ = 15.0, 60.0  # seconds


class BrokenError(Exception):
    """A connection broke, or stood still: the same may succeed on a new one. `retry_after`: seconds, as was asked for."""

    def __init__(self, reason: str, *, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after = retry_after


class Origin(NamedTuple):
    """Scheme, host and port: to what an authorisation is bound."""

    scheme: str
    host: str
    port: int


def origin_of(url: str) -> Origin:
    """The origin of a URL.

    Raises:
        SteleError: `registry.bad-answer` if it is not one of http or https.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme in {"http", "https"} and parts.hostname and not parts.username and parts.password is None:
            return Origin(parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
    except ValueError:
        pass
    raise bad_answer(f"it names the address {url[:200]!r}, which is none")


def is_loopback(host: str) -> bool:
    """Whether a host name, without port, is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def bad_answer(what: str) -> SteleError:
    """The error for a registry that does not keep to the protocol."""
    return SteleError(
        f"the registry's answer is refused: {what}",
        remedy="nothing of it was believed; ask who runs the registry, or the proxy before it, and look with --debug",
        code="registry.bad-answer",
    )


class Answer:
    """One answer whose body is still to be read; a context manager."""

    def __init__(self, raw: BaseHTTPResponse, count: Callable[[int], None], stall: float) -> None:
        self._raw = raw
        self._count = count
        self._stall = stall
        self.status = raw.status
        self.headers: Mapping[str, str] = raw.headers

    @property
    def length(self) -> int | None:
        """Content-Length in bytes, if it is said and is a number."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes, as it was sent (never decompressed).

        Raises:
            BrokenError: the connection broke, ended early, or stands still.
        """
        begun, came = time.monotonic(), 0
        while True:
            try:
                piece = self._raw.read1(PIECE, decode_content=False)
            except (HTTPError, OSError, ValueError) as error:
                raise BrokenError(_words(error)) from error
            if not piece:
                break
            self._count(len(piece))
            came += len(piece)
            now = time.monotonic()
            if now - begun > self._stall:
                if came < STALL_BYTES:
                    raise BrokenError(f"fewer than {STALL_BYTES} bytes in {self._stall:g} s")
                begun, came = now, 0
            yield piece
        if (left := self._raw.length_remaining) and self._raw.status not in {204, 304}:
            raise BrokenError(f"the body ended {left} bytes early")

    def read(self, limit: int) -> bytes:
        """The body whole.

        Raises:
            SteleError: `registry.bad-answer` if it is larger than `limit` bytes.
            BrokenError: like `pieces`.
        """
        kept = bytearray()
        for piece in self.pieces():
            kept += piece
            if len(kept) > limit:
                raise bad_answer(f"it has more than {limit} bytes where that is the limit")
        return bytes(kept)

    def close(self) -> None:
        """Give the connection back, or close it if not all was read."""
        if self._raw.length_remaining == 0 or self.status in {204, 304}:
            self._raw.drain_conn()  # also of nothing: http.client counts an answer as read only when its end was
            self._raw.release_conn()
        else:
            self._raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Connections:
    """Connections for one registry and where it redirects to. Safe to use from several threads."""

    def __init__(
        self, host: str, *, plain_http: bool = False, sleep: Callable[[float], None] = time.sleep, stall: float = STALL_SECONDS
    ) -> None:
        """Nothing is connected yet.

        Args:
            host: of the registry, with port where it is not the scheme's own.
            plain_http: speak http, without TLS.
            sleep: waits, in seconds.
            stall: seconds in which at least STALL_BYTES must come.
        """
        self.host = host
        self.sleep = sleep
        self.received = self.sent = 0  # bytes of bodies
        self._plain_http = plain_http
        self._stall = stall
        self._pools: dict[Origin, urllib3.PoolManager] = {}
        self._scheme = ""
        self._lock = threading.Lock()
        self._scheme_lock = threading.Lock()

    def base(self) -> str:
        """Scheme and host: `https`, or `http` if it was asked for or the registry is on this machine and speaks no TLS.

        Raises:
            SteleError: `registry.unreachable`, `registry.tls`.
        """
        with self._scheme_lock:
            if not self._scheme:
                self._scheme = "http" if self._plain_http else "https"
                if not self._plain_http and is_loopback(urlsplit(f"//{self.host}").hostname or "") and not registry_tls.folder(self.host):
                    self._scheme = self._spoken_here()
            return f"{self._scheme}://{self.host}"

    def _spoken_here(self) -> str:
        try:
            self.once("GET", f"https://{self.host}/v2/", {}).close()
        except BrokenError:
            return "http"  # if nothing listens at all, that is what the next request says
        return "https"

    def once(self, method: str, url: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] | None = None) -> Answer:
        """One request, as it is: no retry, no redirect.

        Raises:
            SteleError: `registry.tls`, `registry.bad-answer`.
            BrokenError: there was no answer.
        """
        origin = origin_of(url)
        log.debug("%s %s", method, url.partition("?")[0])
        try:
            raw = self._pool(origin).urlopen(
                method,
                url,
                body=body,
                headers={"User-Agent": f"stele/{__version__}", "Accept-Encoding": "identity", **headers},
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=urllib3.Timeout(connect=_CONNECT, read=min(_READ, self._stall)),
            )
        except SSLError as error:
            if "CERTIFICATE" in str(error).upper():
                raise _untrusted(origin, error) from error
            raise BrokenError(_words(error)) from error
        except (HTTPError, OSError, ValueError) as error:
            raise BrokenError(_words(error)) from error
        if isinstance(body, bytes):
            self.count_sent(len(body))
        return Answer(raw, self._count_received, self._stall)

    def follow(self, method: str, url: str, headers: Mapping[str, str]) -> Answer:
        """One GET or HEAD that follows redirects; `Authorization` goes to the origin of `url` only. Raises like `once`."""
        first = origin_of(url)
        sent = dict(headers)
        for _ in range(MAX_REDIRECTS + 1):
            answer = self.once(method, url, sent)
            if answer.status not in REDIRECTS:
                return answer
            answer.close()
            url = urljoin(url, answer.headers.get("Location", ""))
            target = origin_of(url)
            if target.scheme == "http" and first.scheme == "https":
                raise bad_answer("it redirects from https to http")
            if target != first:
                sent.pop("Authorization", None)
        raise bad_answer(f"it redirects more than {MAX_REDIRECTS} times")

    def persist(self, attempt: Callable[[], Answer]) -> Answer:
        """Try a request until it is answered by anything but "later": with growing pauses, or the one that was asked for.

        Raises:
            SteleError: `registry.unreachable`, `registry.throttled`, `registry.unavailable`, and what `attempt` raises.
        """

        def now() -> Answer:
            answer = attempt()
            if answer.status in AGAIN:
                answer.close()
                raise later(answer)
            return answer

        try:
            return self.again(now)
        except BrokenError as error:
            raise self.gave_up(error) from error

    def again(self, attempt: Callable[[], T], tries: int = TRIES) -> T:
        """Try until nothing breaks: with growing pauses, or the one that was asked for. `tries`: the first included.

        Raises:
            BrokenError: the last; whatever else `attempt` raises.
        """
        for number in range(tries):
            try:
                return attempt()
            except BrokenError as error:
                broken = error
            if number + 1 == tries or (broken.retry_after or 0) > MAX_WAIT:
                break
            self.pause(number, broken)
        raise broken

    def pause(self, number: int, broken: BrokenError) -> None:
        """Wait before the next try; `number` counts from 0."""
        wait = min(30.0, 0.5 * 2**number) * random.uniform(0.5, 1.0) if broken.retry_after is None else broken.retry_after  # noqa: S311
        log.debug("%s: %s; again in %.1f s", self.host, broken, wait)
        self.sleep(wait)

    def gave_up(self, broken: BrokenError) -> SteleError:
        """The error of a registry that could not be asked."""
        if broken.status == 429:
            return SteleError(
                f"the registry {self.host} wants fewer requests (HTTP status 429)",
                remedy="try again later, or log in: registries let those they know ask more often",
                code="registry.throttled",
                retryable=True,
            )
        if broken.status:
            return SteleError(
                f"the registry {self.host} does not work at the moment ({broken})",
                remedy="try again later; what was moved is kept",
                code="registry.unavailable",
                retryable=True,
            )
        return SteleError(
            f"the registry {self.host} cannot be reached: {broken}",
            remedy="check its name, the network and any proxy (HTTPS_PROXY); a registry without TLS needs --plain-http",
            code="registry.unreachable",
            retryable=True,
        )

    def count_sent(self, count: int) -> None:
        """Count bytes of bodies sent."""
        with self._lock:
            self.sent += count

    def _count_received(self, count: int) -> None:
        with self._lock:
            self.received += count

    def _pool(self, origin: Origin) -> urllib3.PoolManager:
        with self._lock:
            if origin not in self._pools:
                context = registry_tls.context(origin.host, origin.port) if origin.scheme == "https" else None
                proxy = getproxies_environment().get(origin.scheme)
                if proxy and not proxy_bypass_environment(origin.host) and not is_loopback(origin.host):
                    self._pools[origin] = urllib3.ProxyManager(proxy, maxsize=CONNECTIONS, ssl_context=context)
                else:
                    self._pools[origin] = urllib3.PoolManager(maxsize=CONNECTIONS, ssl_context=context)
            return self._pools[origin]

    def close(self) -> None:
        """Close what is open."""
        with self._lock:
            for pool in self._pools.values():
                pool.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def later(answer: Answer) -> BrokenError:
    """What an answer says whose status is one of AGAIN."""
    wait = retry_after(answer.headers.get("Retry-After", ""))
    return BrokenError(f"HTTP status {answer.status}", status=answer.status, retry_after=wait)


def retry_after(text: str, now: float | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date; None where it says nothing that can be read."""
    text = text.strip()[:100]
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - (time.time() if now is None else now))
    except (ValueError, OverflowError, OSError):
        return None


def _untrusted(origin: Origin, error: Exception) -> SteleError:
    return SteleError(
        f"the certificate of {origin.host}:{origin.port} is not trusted: {_words(error)}",
        remedy=f"put the authority's certificate into /etc/docker/certs.d/{origin.host}:{origin.port}/ca.crt, or name it in SSL_CERT_FILE",
        code="registry.tls",
    )


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]
