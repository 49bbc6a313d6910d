"""How a registry is shown who asks: Basic, or Bearer tokens that its token service gives (distribution, token spec)."""

from __future__ import annotations

import json
import re
import threading
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode, urlsplit

from stele.host.http_registry import bad_answer, origin_of
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stele.host.http_registry import Connections
    from stele.host.registry_login import Login

_LIMIT = 1 << 20  # bytes of a token service's answer
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  a grammar's word
_PARAMETER = re.compile(rf'[ \t,]*({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))[ \t]*(?=,|\Z)', re.ASCII)
_SCHEME = re.compile(rf"[ \t,]*({_TOKEN})(?:[ \t]+(?!=)|\Z)", re.ASCII)
_BEARER = re.compile(r"[A-Za-z0-9._~+/=-]+\Z", re.ASCII)


class Challenge(NamedTuple):
    """What a 401 asks for: `scheme` in lower case, its parameters by lower-case name."""

    scheme: str
    parameters: dict[str, str]


def parse_challenges(text: str) -> list[Challenge]:
    """The challenges of a WWW-Authenticate header (RFC 9110, 11.6.1); what cannot be read ends the list."""
    found: list[Challenge] = []
    at, text = 0, text[:8192]
    while scheme := _SCHEME.match(text, at):
        at = scheme.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(text, at):
            name, quoted, plain = parameter.groups()
            parameters.setdefault(name.lower(), plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
            at = parameter.end()
        found.append(Challenge(scheme[1].lower(), parameters))
    return found


class Tokens:
    """What authorises requests to one registry. Safe to use from several threads."""

    def __init__(
        self, connections: Connections, find_login: Callable[[], Login | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Nothing is looked up before the registry asks.

        Args:
            connections: to reach the token service through.
            find_login: looks for the user's login.
            clock: monotonic, in seconds.
        """
        self._connections = connections
        self._find_login = find_login
        self._clock = clock
        self._challenge: Challenge | None = None
        self._held: dict[str, tuple[str, float]] = {}  # scope -> token, until when
        self._login: Login | None = None
        self._looked = False
        self._lock = threading.Lock()

    def header(self, scope: str) -> str:
        """The value of `Authorization` for a scope; "" while the registry has not asked for any.

        Raises:
            SteleError: `registry.unauthorized`, `registry.bad-credentials`, `registry.bad-answer`, and those of connections.
        """
        with self._lock:
            if self._challenge is None:
                return ""
            if self._challenge.scheme == "basic":
                login = self._user()
                return login.basic() if login is not None and login.name else ""
            token, until = self._held.get(scope, ("", 0.0))
            if self._clock() >= until:
                token, seconds = self._fetch(self._challenge, scope)
                self._held[scope] = token, self._clock() + seconds
            return f"Bearer {token}"

    def challenged(self, header: str, scope: str) -> None:
        """The registry answered 401: note what it asks for; a token that it refused is forgotten.

        Raises:
            SteleError: `registry.bad-answer` if it asks for nothing that is known.
        """
        found = [item for item in parse_challenges(header) if item.scheme in {"bearer", "basic"}]
        if not found:
            raise bad_answer("it refuses access and does not say how to get it")
        with self._lock:
            self._challenge = min(found, key=lambda item: item.scheme != "bearer")
            self._held.pop(scope, None)

    def is_known(self) -> bool:
        """Whether a login was found for this registry."""
        with self._lock:
            return self._user() is not None

    def _user(self) -> Login | None:
        if not self._looked:
            self._login, self._looked = self._find_login(), True
        return self._login

    def _fetch(self, challenge: Challenge, scope: str) -> tuple[str, float]:
        realm = challenge.parameters.get("realm", "")
        if urlsplit(realm).scheme == "http" and not self._connections.base().startswith("http:"):
            raise bad_answer("its token service has no TLS")
        origin_of(realm)
        login = self._user()
        wanted = [("service", challenge.parameters["service"])] if "service" in challenge.parameters else []
        wanted += [("scope", part) for part in (scope or challenge.parameters.get("scope", "")).split(" ") if part]
        if login is not None and login.token:
            form = [("grant_type", "refresh_token"), ("refresh_token", login.token), ("client_id", "stele")]
            scopes = " ".join(value for name, value in wanted if name == "scope")
            form += [(name, value) for name, value in wanted if name != "scope"] + [("scope", scopes)]
            body = urlencode(form).encode("ascii")
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = self._connections.persist(lambda: self._connections.once("POST", realm, headers, body))
        else:
            url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(wanted)}" if wanted else realm
            headers = {} if login is None else {"Authorization": login.basic()}
            answer = self._connections.persist(lambda: self._connections.follow("GET", url, headers))
        with answer:
            if answer.status in {400, 401, 403}:
                raise unauthorised(self._connections.host, known=login is not None)
            if answer.status != 200:
                raise bad_answer(f"its token service answers with HTTP status {answer.status}")
            return _token(answer.read(_LIMIT))


def _token(data: bytes) -> tuple[str, float]:
    try:
        said = json.loads(data)
        token = said.get("token") or said.get("access_token")
        seconds = said.get("expires_in", 60)
    except (ValueError, RecursionError, AttributeError):
        raise bad_answer("its token service's answer is not JSON") from None
    if not isinstance(token, str) or not _BEARER.match(token) or not isinstance(seconds, int | float):
        raise bad_answer("its token service gives no token")
    return token, max(0.0, min(float(seconds), 86400.0) - 10)


def unauthorised(host: str, *, known: bool) -> SteleError:
    """The error for a registry that does not let one in."""
    return SteleError(
        f"the registry {host} does not accept this login" if known else f"the registry {host} wants a login",
        remedy=f"`docker login {host}` or `podman login {host}` as a user who may",
        code="registry.unauthorized",
    )
