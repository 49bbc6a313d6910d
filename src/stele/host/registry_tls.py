"""Whom to believe when a registry shows its certificate: the system, SSL_CERT_FILE, and docker's certs.d folders."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from stele.trust.errors import SteleError


def _roots() -> list[Path]:
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    roots = [config / "containers" / "certs.d", config / "docker" / "certs.d", Path.home() / ".docker" / "certs.d"]
    return [*roots, Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d")]


def folder(host: str) -> Path | None:
    """The first `certs.d` folder of a registry (host, with port where it was given); None if there is none."""
    return next((root / host for root in _roots() if (root / host).is_dir()), None)


def context(host: str, port: int) -> ssl.SSLContext:
    """The TLS settings for a host: TLS 1.2 or later, its name checked, and the authorities of its `certs.d` believed, too.

    Raises:
        SteleError: `registry.bad-certificate` if a file in `certs.d` cannot be read.
    """
    made = ssl.create_default_context()  # reads SSL_CERT_FILE and SSL_CERT_DIR itself
    found = folder(f"{host}:{port}") or (folder(host) if port == 443 else None)
    if found is None:
        return made
    for path in sorted(found.iterdir()):
        try:
            if path.suffix == ".crt":
                made.load_verify_locations(cafile=path)
            elif path.suffix == ".cert":
                made.load_cert_chain(path, path.with_suffix(".key"))
        except (OSError, ssl.SSLError) as error:
            raise SteleError(
                f"the certificate {path} cannot be used: {error}",
                remedy="it must be PEM and readable; NAME.cert, which names this client, needs NAME.key beside it",
                code="registry.bad-certificate",
            ) from error
    return made
