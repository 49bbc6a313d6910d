"""Who may: Debian's docker-registry behind TLS by a private CA, with Basic and with tokens of a token service."""

from __future__ import annotations

import base64
import http.server
import json
import os
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from stele.host.http_registry import Connections
from stele.host.registry import Repository
from stele.host.registry_transfer import download, upload
from stele.model import reference as references
from stele.trust.digest import sha256
from stele.trust.errors import SteleError
from tests import certificates
from tests.certificates import Certificate

NAME, SECRET = "maria", "not to be shown"
HASHED = "$2b$05$qNFloY8f1S5VDPC1EnD.C.hhpYFE7Qg258XOWvsrjbEMqONVGObom"  # bcrypt of SECRET: Python 3.13 cannot make one
BLOB = bytes(range(256)) * 40_000  # 10 MB


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Certificate:
    return certificates.self_signed(tmp_path_factory.mktemp("tls"))


class _TokenService(http.server.BaseHTTPRequestHandler):
    """A token service (distribution, token specification): for the one login, signed by the certificate's key."""

    def do_GET(self) -> None:
        served: Any = self.server
        asked = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        given = self.headers.get("Authorization", "")
        served.asked.append((given, asked))
        allowed = given == "Basic " + base64.b64encode(f"{NAME}:{SECRET}".encode()).decode()
        self.send_response(200 if allowed else 401)
        body = json.dumps({"token": self._token(asked), "expires_in": 300} if allowed else {}).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _token(self, asked: dict[str, list[str]]) -> str:
        served: Any = self.server
        now = int(time.time())
        parts = [scope.split(":") for scope in asked.get("scope", [])]
        access = [{"type": kind, "name": name, "actions": actions.split(",")} for kind, name, actions in parts]
        head = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(served.certificate.der).decode()]}
        times = {"exp": now + 300, "nbf": now - 60, "iat": now}
        claims = {"iss": "test-issuer", "sub": NAME, "aud": asked["service"][0], "jti": "1", **times, "access": access}
        text = ".".join(_url64(json.dumps(part).encode()) for part in (head, claims))
        r, s = decode_dss_signature(served.certificate.key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{_url64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def log_message(self, *_: object) -> None:
        pass


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def registry(folder: Path, certificate: Certificate, auth: str) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}', tls: {{certificate: {certificate.cert}, key: {certificate.private}}}}}\nauth: {auth}\n"
    )
    with subprocess.Popen(["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as served:
        context = ssl.create_default_context(cafile=str(certificate.cert))
        while True:
            try:
                urllib.request.urlopen(f"https://127.0.0.1:{port}/v2/", timeout=5, context=context).close()
                break
            except urllib.error.HTTPError:
                break  # it asks for a login: it is there
            except OSError:
                assert served.poll() is None
        yield f"127.0.0.1:{port}"
        served.terminate()


@pytest.fixture(scope="module")
def basic(tmp_path_factory, certificate) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("basic")
    (folder / "htpasswd").write_text(f"{NAME}:{HASHED}\n")
    yield from registry(folder, certificate, f"{{htpasswd: {{realm: test, path: {folder / 'htpasswd'}}}}}")


@pytest.fixture(scope="module")
def service(certificate) -> Iterator[Any]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _TokenService) as server:
        server.certificate, server.asked = certificate, []  # type: ignore[attr-defined]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.cert, certificate.private)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def bearer(tmp_path_factory, certificate, service) -> Iterator[str]:
    realm = f"https://127.0.0.1:{service.server_address[1]}/token"
    auth = f"{{token: {{realm: '{realm}', service: test-service, issuer: test-issuer, rootcertbundle: {certificate.cert}}}}}"
    yield from registry(tmp_path_factory.mktemp("bearer"), certificate, auth)


@pytest.fixture(params=["basic", "bearer"])
def guarded(request) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """A user with no configuration at all."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def log_in(home: Path, host: str, secret: str = SECRET) -> None:
    entry = {"auth": base64.b64encode(f"{NAME}:{secret}".encode()).decode()}
    (home / ".docker").mkdir(exist_ok=True)
    (home / ".docker" / "config.json").write_text(json.dumps({"auths": {host: entry}}))


def there_and_back(host: str, home: Path) -> None:
    digest, copied = sha256(BLOB), home / "copied"
    (home / "blob").write_bytes(BLOB)
    with Repository(Connections(host), references.parse(f"{host}/team/app")) as repository, (home / "blob").open("rb") as file:
        assert repository.manifest("nothing") is None
        upload(repository, digest, len(BLOB), file)
        assert repository.has_blob(digest)
        with copied.open("w+b") as target:
            download(repository, digest, len(BLOB), target.fileno())
    assert copied.read_bytes() == BLOB


def refused(host: str) -> SteleError:
    with Repository(Connections(host), references.parse(f"{host}/team/app")) as repository, pytest.raises(SteleError) as raised:
        repository.manifest("nothing")
    assert SECRET not in str(raised.value)
    assert not raised.value.retryable
    return raised.value


def test_a_login_of_dockers_file(guarded, home, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.cert))
    log_in(home, guarded)
    there_and_back(guarded, home)


def test_a_login_of_a_helper_and_an_authority_of_certs_d(guarded, home, certificate, monkeypatch):
    place = home / ".config" / "containers" / "certs.d" / guarded
    place.mkdir(parents=True)
    (place / "ca.crt").write_bytes(certificate.cert.read_bytes())
    if not _has_basic(guarded, certificate):
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.cert))  # the token service is at another port, which certs.d does not name
    program = home / "bin" / "docker-credential-test"
    program.parent.mkdir()
    answer = json.dumps({"ServerURL": guarded, "Username": NAME, "Secret": SECRET})
    program.write_text(f"#!/bin/sh\nread -r host\n[ \"$host\" = '{guarded}' ] && echo '{answer}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    (home / ".docker").mkdir()
    (home / ".docker" / "config.json").write_text(json.dumps({"credHelpers": {guarded: "test"}}))
    there_and_back(guarded, home)
    program.write_text(f"#!/bin/sh\necho '{SECRET}'\necho '{SECRET}' >&2\nexit 1\n")
    assert refused(guarded).code == "registry.bad-credentials"


def _has_basic(host: str, certificate: Certificate) -> bool:
    context = ssl.create_default_context(cafile=str(certificate.cert))
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(f"https://{host}/v2/", context=context)
    with raised.value as answer:
        return answer.headers["WWW-Authenticate"].startswith("Basic")


def test_nobody_and_a_wrong_password_are_refused_at_once(guarded, home, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.cert))
    assert refused(guarded).code == "registry.unauthorized"
    log_in(home, guarded, "wrong")
    assert refused(guarded).code == "registry.unauthorized"


def test_an_authority_that_nobody_named_is_refused_before_anything_is_said(guarded, home, service):
    log_in(home, guarded)
    before = len(service.asked)
    assert refused(guarded).code == "registry.tls"
    assert len(service.asked) == before


def test_one_token_serves_many_requests(bearer, home, certificate, service, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.cert))
    log_in(home, bearer)
    service.asked.clear()
    with Repository(Connections(bearer), references.parse(f"{bearer}/team/app")) as repository:
        for _ in range(5):
            assert repository.manifest("nothing") is None
    assert [asked["scope"] for _, asked in service.asked] == [["repository:team/app:pull"]]
