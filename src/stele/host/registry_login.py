"""Who one is to a registry: docker's config.json and containers' auth.json, with their credential helpers."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from stele.host import proc
from stele.model.reference import DOCKER_HUB
from stele.trust.errors import SteleError

_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z", re.ASCII)
_HELPER_SECONDS = 60.0
_LIMIT = 4 << 20  # bytes of a file
_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")
_NONE = b"credentials not found"


class Login(NamedTuple):
    """Name and password, or a refresh token in place of both. Never shown."""

    name: str = ""
    password: str = ""
    token: str = ""

    def __repr__(self) -> str:
        return "Login(…)"

    def basic(self) -> str:
        """As the header `Authorization` has it."""
        return "Basic " + base64.b64encode(f"{self.name}:{self.password}".encode()).decode("ascii")


def files() -> list[Path]:
    """The files that are looked at, in this order; the first that knows a registry decides."""
    home, runtime = Path.home(), os.environ.get("XDG_RUNTIME_DIR")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    found = [Path(given)] if (given := os.environ.get("REGISTRY_AUTH_FILE")) else []
    found.append(Path(os.environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json")
    if runtime:
        found.append(Path(runtime) / "containers" / "auth.json")
    return [*found, config / "containers" / "auth.json"]


def find(registry: str, repository: str) -> Login | None:
    """The login for a repository; None for nobody in particular.

    Raises:
        SteleError: `registry.bad-credentials` if a file cannot be read or a helper fails.
    """
    for path in files():
        try:
            with path.open("rb") as file:
                data = file.read(_LIMIT + 1)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise _bad(f"{path} cannot be read: {error.strerror}") from error
        config = _decoded(path, data)
        found = _in_file(path, config, registry, repository)
        if found is not None:
            return found
    return None


def _decoded(path: Path, data: bytes) -> dict[str, Any]:
    try:
        config = json.loads(data) if len(data) <= _LIMIT else None
    except (ValueError, RecursionError):
        config = None  # what it says is not repeated: it holds secrets
    if not isinstance(config, dict):
        raise _bad(f"{path} is not a JSON object")
    return config


def _in_file(path: Path, config: dict[str, Any], registry: str, repository: str) -> Login | None:
    helpers, auths = config.get("credHelpers"), config.get("auths")
    keys = _keys(registry)
    if isinstance(helpers, dict):
        for key in keys:
            if isinstance(helpers.get(key), str):
                return _ask(helpers[key], key)
    store = config.get("credsStore")
    if isinstance(store, str) and store:
        for key in keys:
            found = _ask(store, key)
            if found is not None:
                return found
    if not isinstance(auths, dict):
        return None
    known = {_plain(key): value for key, value in auths.items()}
    parts = repository.split("/")
    narrower = ["/".join([registry, *parts[:count]]) for count in range(len(parts), 0, -1)]  # containers-auth.json(5)
    for key in [*narrower, *map(_plain, keys)]:
        if isinstance(known.get(key), dict):
            return _entry(path, key, known[key])
    return None


def _keys(registry: str) -> tuple[str, ...]:
    return _HUB_KEYS if registry == DOCKER_HUB else (registry, f"https://{registry}")


def _plain(key: str) -> str:
    """A key of `auths` without what older clients wrote around the host."""
    for scheme in ("https://", "http://"):
        if key.startswith(scheme):
            key = key[len(scheme) :]
            return key.partition("/")[0]
    return key.rstrip("/")


def _entry(path: Path, key: str, entry: dict[str, Any]) -> Login | None:
    texts = {name: entry.get(name) for name in ("auth", "username", "password", "identitytoken")}
    if not all(value is None or isinstance(value, str) for value in texts.values()):
        raise _bad(f"{path} has a malformed entry for {key[:200]}")
    if texts["identitytoken"]:
        return Login(token=str(texts["identitytoken"]))
    if texts["auth"]:
        try:
            name, colon, password = base64.b64decode(str(texts["auth"]), validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            name, colon, password = "", "", ""
        if not colon:
            raise _bad(f"{path} has a malformed entry for {key[:200]}")
        return Login(name, password.rstrip("\0"))
    if texts["username"] and texts["password"]:
        return Login(str(texts["username"]), str(texts["password"]))
    return None


def _ask(helper: str, key: str) -> Login | None:
    """Ask a credential helper (the protocol of docker-credential-helpers)."""
    if not _HELPER.match(helper):
        raise _bad(f"{helper[:80]!r} is not the name of a credential helper")
    program = f"docker-credential-{helper}"
    try:
        done = proc.run([program, "get"], timeout=_HELPER_SECONDS, stdin=key.encode(), env=os.environ, check=False)
    except SteleError as error:
        raise _bad(error.reason) from error
    if done.returncode != 0:
        if _NONE in done.stdout.lower() or _NONE in done.stderr.lower():
            return None
        raise _bad(f"{program} ended with status {done.returncode}")
    try:
        said = json.loads(done.stdout)
        name, secret = said["Username"], said["Secret"]
        if not isinstance(name, str) or not isinstance(secret, str):
            raise TypeError
    except (ValueError, RecursionError, KeyError, TypeError):
        raise _bad(f"{program} gave an answer that cannot be read") from None  # which may hold the secret
    return Login(token=secret) if name == "<token>" else Login(name, secret)


def _bad(what: str) -> SteleError:
    return SteleError(
        f"the credentials for the registry cannot be had: {what}",
        remedy="log in again with `docker login` or `podman login`, or mend the file",
        code="registry.bad-credentials",
    )
