"""Keys of key services that really sign: OpenBao's transit engine, and AWS KMS as local-kms has it. Judged by cosign."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import hvac
import pytest
import requests

from stele.host import key_service, vault_keys
from stele.trust.errors import SteleError
from stele.trust.policy import key_id
from stele.trust.release_key import PrivateKey, PublicKey
from tests import certificates, judges
from tests.data_folder import Data, holds
from tests.integration.conftest import serving

pytestmark = pytest.mark.timeout(1500)  # cosign takes minutes to build where it is not in the cache
HERE = Path(__file__).parent / "judges"
TOKEN = "a-token-that-is-never-shown"


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path)


def refused(data: Data, *argv: object, env: dict[str, str], status: int = 3) -> str:
    """What is said of a key that cannot sign; nothing is sealed by it, and no secret is shown."""
    done = (data.run if "VAULT_ADDR" in env else data.process)("--debug", *argv, **env)  # boto3 remembers credentials
    assert done.returncode == status, done.stdout + done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "trust.key-service"
    assert TOKEN not in done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
    with contextlib.suppress(FileNotFoundError):
        assert not json.loads((data.data / "store" / "index.json").read_bytes())["manifests"]
    return f"{error['reason']}\n{error['remedy']}"


# ---- Vault


def two_ports() -> int:
    """A free port whose next one is free, too: there its servers would speak to each other."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as one, contextlib.suppress(OSError, OverflowError):
            port = int(one.getsockname()[1])
            with socket.create_server(("127.0.0.1", port + 1)):
                return port


@contextlib.contextmanager
def bao(folder: Path, *more: str) -> Iterator[tuple[hvac.Client, dict[str, str]]]:
    """A server in memory, unsealed; a client of its owner, and the environment of whoever uses it."""
    program = judges.pypi_program("bao", HERE / "openbao" / "requirements.txt")
    address = f"127.0.0.1:{two_ports()}"
    argv = [program, "server", "-dev", "-dev-no-store-token", f"-dev-root-token-id={TOKEN}", f"-dev-listen-address={address}", *more]
    url = f"{'https' if more else 'http'}://{address}"
    context = ssl._create_unverified_context()  # whether it is up is all that is asked
    env = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    with (folder / "bao.log").open("w") as log, subprocess.Popen([*map(str, argv)], env=env, cwd=folder, stdout=log, stderr=log) as served:
        try:
            while True:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{url}/v1/sys/health", timeout=60, context=context).close()
                    break
                assert served.poll() is None, (folder / "bao.log").read_text()
            client = hvac.Client(url, token=TOKEN, timeout=120, verify=str(next(folder.glob("*ca.pem"), "")) or True)
            client.sys.enable_secrets_engine("transit")
            yield client, {"VAULT_ADDR": url, "VAULT_TOKEN": TOKEN, "HOME": str(folder)}
        finally:
            served.terminate()
            served.wait(60)


@pytest.fixture(scope="module")
def vault(tmp_path_factory) -> Iterator[tuple[hvac.Client, dict[str, str]]]:
    with bao(tmp_path_factory.mktemp("bao")) as running:
        yield running


def test_a_vault_key_seals_and_signs_and_cosign_verifies_until_it_is_revoked(data, vault, cosign_program):
    client, env = vault
    client.secrets.transit.create_key("shop", key_type="ecdsa-p256")
    shown = data("key", "public", "hv:shop", "-o", "vault.pub", **env)
    public = PublicKey.from_pem((data.folder / "vault.pub").read_bytes())
    assert shown["key"] == key_id(public)
    assert shown["uri"] == "hv:shop/1"
    data("key", "add", "vault", "vault.pub")
    data("key", "require", "*", 2, "vault", "release")
    release = data.seal("one", "--key", "hv:shop", **env)
    assert data.refused("verify", release) == "trust.too-few-signers"
    assert holds(data, cosign_program, "vault.pub")
    assert data("sign", release)["accepted"]
    data("verify", release)
    # and the other way round: sealed by a file, signed by Vault, in a process of its own
    (data.folder / "root" / "app").write_text("two")
    other = data.seal("two")
    assert not holds_only(data, cosign_program, other, "vault.pub")
    done = data.process("sign", other, "--key", "hv:shop/1", **env)
    assert json.loads(done.stdout)["accepted"], done.stdout + done.stderr
    assert holds_only(data, cosign_program, other, "vault.pub")
    data("key", "revoke", shown["key"], "--reason", "the token was stolen", "--from", 0)
    for one in (release, other):
        assert data.refused("verify", one) == "trust.key-revoked"
    late = data.seal("three", "--key", "hv:shop", **env)
    assert data.refused("verify", late) == "trust.key-revoked"


def holds_only(data: Data, program: Path, release: str, public: str) -> bool:
    """Whether cosign finds a signature by this key on this one of several releases."""
    index = data.data / "store" / "index.json"
    before = index.read_bytes()
    kept = json.loads(before)
    kept["manifests"] = [one for one in kept["manifests"] if one["digest"] == release or tagged(one).startswith(release.replace(":", "-"))]
    index.write_text(json.dumps(kept))
    try:
        return holds(data, program, public)
    finally:
        index.write_bytes(before)


def tagged(entry: dict[str, Any]) -> str:
    return str(entry.get("annotations", {}).get("org.opencontainers.image.ref.name", ""))


def test_a_rotated_vault_key_signs_with_its_newest_version_or_with_the_one_that_is_named(data, vault):
    client, env = vault
    client.secrets.transit.create_key("turned", key_type="ecdsa-p256")
    data("key", "public", "hv:turned", "-o", "one.pub", **env)
    data("key", "add", "vault", "one.pub")
    data("key", "require", "*", 1, "vault")
    client.secrets.transit.rotate_key("turned")
    assert data("key", "public", "hv:turned", "-o", "two.pub", **env)["uri"] == "hv:turned/2"
    by_new = data.seal("one", "--key", "hv:turned", **env)
    assert data.refused("verify", by_new) == "store.unknown-signer"
    data("verify", data.seal("two", "--key", "hv:turned/1", **env))
    data("key", "rotate", "vault", "--public", "two.pub")
    data("verify", data.seal("three", "--key", "hv:turned", **env))
    client.secrets.transit.update_key_configuration("turned", min_encryption_version=2)
    done = data.run("seal", "root", "--key", "hv:turned/1", **env)
    said = json.loads(done.stdout)["error"]
    assert said["code"] == "trust.key-service"
    assert "versions 2 to 2 may" in said["reason"]


def test_an_engine_that_is_mounted_elsewhere_is_named(data, vault):
    client, env = vault
    client.sys.enable_secrets_engine("transit", path="teams/shop")
    client.secrets.transit.create_key("k", key_type="ecdsa-p256", mount_point="teams/shop")
    shown = data("key", "public", "hv:k?mount=teams/shop", **env)
    assert shown["uri"] == "hv:k/1?mount=teams/shop"
    assert data.seal("one", "--key", shown["uri"], **env)


def test_a_key_in_a_namespace_is_found(data, vault):
    client, env = vault
    client.sys.create_namespace("team")
    inside = hvac.Client(client.url, token=TOKEN, namespace="team", timeout=120)
    inside.sys.enable_secrets_engine("transit")
    inside.secrets.transit.create_key("inside", key_type="ecdsa-p256")
    assert "has no key" in refused(data, "seal", "root", "--key", "hv:inside", env=env)
    assert data.seal("one", "--key", "hv:inside", **env, VAULT_NAMESPACE="team")


def test_a_vault_whose_certificate_is_not_known_gets_no_token(data, tmp_path):
    (tmp_path / "bao").mkdir()
    with bao(tmp_path / "bao", "-dev-tls", f"-dev-tls-cert-dir={tmp_path}/bao") as (client, env):
        client.secrets.transit.create_key("k", key_type="ecdsa-p256")
        assert "VAULT_CACERT" in refused(data, "seal", "root", "--key", "hv:k", env=env)
        done = data.process("seal", "root", "--key", "hv:k", **env, VAULT_CACERT=str(next((tmp_path / "bao").glob("*ca.pem"))))
        assert json.loads(done.stdout)["release"], done.stdout


def test_a_version_that_azures_signer_would_not_take_is_refused():
    key_service._same_version("//v.vault.azure.net/keys/k/2", "//v.vault.azure.net/keys/k/2")
    key_service._same_version("//v.vault.azure.net/keys/k", "//v.vault.azure.net/keys/k/2")
    with pytest.raises(SteleError) as raised:
        key_service._same_version("//v.vault.azure.net/keys/k/1", "//v.vault.azure.net/keys/k/2")
    assert raised.value.code == "trust.key-service"


def test_a_token_that_may_only_read_is_told_what_its_policy_lacks(data, vault):
    client, env = vault
    client.secrets.transit.create_key("policed", key_type="ecdsa-p256")
    rules = {"none": "", "reads": 'path "transit/keys/policed" { capabilities = ["read"] }'}
    rules["signs"] = rules["reads"] + 'path "transit/sign/policed" { capabilities = ["update"] }'
    said = {}
    for name, rule in rules.items():
        client.sys.create_or_update_policy(name, rule or 'path "x" { capabilities = ["read"] }')
        token = client.auth.token.create(policies=[name], no_default_policy=True)["auth"]["client_token"]
        if name == "signs":
            assert data.seal("one", "--key", "hv:policed", **{**env, "VAULT_TOKEN": token})
        else:
            said[name] = refused(data, "seal", "root", "--key", "hv:policed", env={**env, "VAULT_TOKEN": token})
            assert token not in said[name]
    assert all("`read` on transit/keys/policed and `update` on transit/sign/policed" in text for text in said.values())


def test_what_vault_cannot_do_is_said_with_what_to_do(data, vault, tmp_path):
    client, env = vault
    for name, kind in (("edwards", "ed25519"), ("wide", "ecdsa-p384"), ("aes", "aes256-gcm96"), ("plain", "ecdsa-p256")):
        client.secrets.transit.create_key(name, key_type=kind)
    (tmp_path / "home").mkdir()
    away = {**env, "VAULT_ADDR": "http://127.0.0.1:1"}
    nobody = {**{name: value for name, value in env.items() if name != "VAULT_TOKEN"}, "HOME": str(tmp_path / "home")}
    for uri, given, status, word in (
        ("hv:plain", nobody, 3, "VAULT_TOKEN"), ("hv:plain", {**env, "VAULT_TOKEN": "wrong"}, 3, "permission denied"),
        ("hv:edwards", env, 3, "type=ecdsa-p256"), ("hv:wide", env, 3, "type=ecdsa-p256"), ("hv:aes", env, 3, "type=ecdsa-p256"),
        ("hv:nothing", env, 3, "vault list transit/keys"), ("hv:plain?mount=other", env, 3, "has no key other/keys/plain"),
        ("hv:plain/2", env, 3, "its versions 1 to 1 may"), ("hv:plain/0", env, 3, "names no key"), ("hv:", env, 3, "names no key"),
        ("hv:../sys/seal", env, 3, "names no key"), ("hv:plain/1/2", env, 3, "names no key"), ("hv:plain", away, 4, "VAULT_ADDR"),
    ):  # fmt: skip
        assert word in refused(data, "seal", "root", "--key", uri, env=given, status=status), uri


@pytest.mark.parametrize(("name", "value", "word"), [
    ("VAULT_TOKEN", f"{TOKEN}\n", "a line feed"), ("VAULT_TOKEN", f" {TOKEN}", "a space"), ("VAULT_TOKEN", f"{TOKEN}\u20ac", "a character"),
    ("VAULT_ADDR", f"http://me:{TOKEN}@127.0.0.1:1", "Vault at http://127.0.0.1:1 does not"),
    ("VAULT_ADDR", f"http://me:{TOKEN}@[", "Vault at http://["), ("VAULT_NAMESPACE", "a\nb", "VAULT_ADDR"),
])  # fmt: skip
def test_what_is_secret_in_the_environment_is_not_told(data, name, value, word):
    env = {"VAULT_ADDR": "http://127.0.0.1:1", "VAULT_TOKEN": TOKEN, name: value}
    said = refused(data, "seal", "root", "--key", "hv:k", env=env, status=3 if name == "VAULT_TOKEN" else 4)
    assert word in said


def test_a_vault_whose_certificate_nobody_vouches_for_is_told_no_token(data, tmp_path):
    made, told = certificates.self_signed(tmp_path), []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.append(self.headers["X-Vault-Token"])
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made.cert, made.private)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        env = {"VAULT_ADDR": f"https://127.0.0.1:{server.server_port}", "VAULT_TOKEN": TOKEN, "VAULT_SKIP_VERIFY": "1"}
        for given, word in (({}, "CERTIFICATE_VERIFY_FAILED"), ({"VAULT_CACERT": str(made.cert)}, "has no key")):
            assert told == []
            done = data.process("--debug", "seal", "root", "--key", "hv:k", **env, **given)
            assert word in done.stdout
            assert TOKEN not in done.stdout + done.stderr
        assert told == [TOKEN]
        server.shutdown()


def test_a_redirect_does_not_lead_off_tls():
    for there, code, is_followed in (
        ("https://other.example/v1", 307, True), ("/v1/other", 301, True), ("http://vault.example/v1", 307, False),
        ("HTTP://vault.example/", 302, False), ("ftp://vault.example/", 307, False), ("http://vault.example/", 200, True),
    ):  # fmt: skip
        answer = requests.Response()
        answer.status_code, answer.url, answer.headers["location"] = code, "https://vault.example/v1/x", there
        if is_followed:
            assert vault_keys.Session().get_redirect_target(answer) == (there if code != 200 else None)
        else:
            with pytest.raises(requests.RequestException):
                vault_keys.Session().get_redirect_target(answer)


def test_a_sealed_vault_may_be_asked_again(data, tmp_path):
    (tmp_path / "bao").mkdir()
    with bao(tmp_path / "bao") as (client, env):
        client.secrets.transit.create_key("k", key_type="ecdsa-p256")
        client.sys.seal()
        assert "unseal" in refused(data, "seal", "root", "--key", "hv:k", env=env, status=4)


@contextlib.contextmanager
def liar(key: dict[str, Any], signature: Any) -> Iterator[dict[str, str]]:
    """Something that answers like Vault, but not as it."""

    class Answer(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            body = json.dumps({"data": key if "/keys/" in self.path else signature}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = answer

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield {"VAULT_ADDR": f"http://127.0.0.1:{server.server_port}", "VAULT_TOKEN": TOKEN}
        server.shutdown()


def test_what_a_lying_vault_says_is_not_believed(data):
    mine, other = PrivateKey.generate(), PrivateKey.generate()
    key = {
        "type": "ecdsa-p256",
        "latest_version": 1,
        "min_encryption_version": 0,
        "keys": {"1": {"public_key": mine.public.pem().decode()}},
    }
    forged = base64.b64encode(other.sign(b"what was not asked")).decode()
    signed = {"signature": f"vault:v1:{forged}"}
    for changed, signature in (
        ({}, signed), ({}, {"signature": f"vault:v2:{forged}"}), ({}, {"signature": "vault:v1:%%%"}), ({}, {"signature": "x"}), ({}, {}),
        ({}, None), ({"keys": {}}, signed), ({"keys": {"1": {"public_key": "x"}}}, signed), ({"keys": []}, signed),
        ({"latest_version": "x"}, signed), ({"latest_version": None}, signed), ({"type": None}, signed), ({"latest_version": 0}, signed),
        ({"min_encryption_version": 9}, signed),
    ):  # fmt: skip
        with liar({**key, **changed}, signature) as env:
            done = data.run("seal", "root", "--key", "hv:k", **env)
            assert done.returncode in {3, 4}
            assert json.loads(done.stdout)["error"]["code"] == "trust.key-service", (changed, signature, done.stdout)
    assert data.kinds() == []


# ---- AWS KMS

SECRET = "a-secret-key-that-is-never-shown"


@pytest.fixture(scope="module")
def kms(tmp_path_factory) -> Iterator[tuple[Any, dict[str, str]]]:
    """A client of its owner, and the environment of whoever uses it."""
    for address in serving(judges.go_main(HERE / "local-kms"), tmp_path_factory.mktemp("kms")):
        env = {
            "AWS_ENDPOINT_URL": f"http://{address}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_SESSION_TOKEN": TOKEN, "AWS_DEFAULT_REGION": "eu-central-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1",
        }  # fmt: skip
        client = boto3.client(
            "kms", endpoint_url=f"http://{address}", region_name="eu-central-1", aws_access_key_id="test", aws_secret_access_key=SECRET,
            config=botocore.config.Config(read_timeout=120),
        )  # fmt: skip
        yield client, env


def made(client: Any, spec: str) -> str:
    return str(client.create_key(KeySpec=spec, KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"])


def test_an_aws_key_seals_and_signs_and_cosign_verifies(data, kms, cosign_program):
    client, env = kms
    key = made(client, "ECC_NIST_P256")
    client.create_alias(AliasName="alias/shop", TargetKeyId=key)
    shown = json.loads(data.process("key", "public", f"awskms:{key}", "-o", "aws.pub", **env).stdout)
    assert shown["key"] == key_id(PublicKey.from_der(client.get_public_key(KeyId=key)["PublicKey"]))
    data("key", "add", "aws", "aws.pub")
    data("key", "require", "*", 1, "aws")
    release = json.loads(data.process("seal", "root", "--key", "awskms:alias/shop", **env).stdout)["release"]
    data("verify", release)
    assert holds(data, cosign_program, "aws.pub")
    assert not holds(data, cosign_program, "data/keys/release.pub")
    by_file = data.seal("two")
    assert data.refused("verify", by_file) == "trust.signer-not-allowed"
    done = data.process("sign", by_file, "--key", f"awskms:{key}", **env)
    assert json.loads(done.stdout)["accepted"], done.stdout + done.stderr
    data("verify", by_file)
    assert holds_only(data, cosign_program, by_file, "aws.pub")
    data("key", "revoke", shown["key"], "--reason", "left", "--from", 0)
    assert data.refused("verify", release) == "trust.key-revoked"


def test_what_aws_cannot_do_is_said(data, kms):
    client, env = kms
    off = made(client, "ECC_NIST_P256")
    client.disable_key(KeyId=off)
    nobody = {**env, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "HOME": str(data.folder)}
    good = made(client, "ECC_NIST_P256")
    for key, given, status, word in (
        (made(client, "ECC_NIST_P384"), env, 3, "ecdsa-sha2-nistp256"), (made(client, "RSA_2048"), env, 3, "ecdsa-sha2-nistp256"),
        (off, env, 3, "disabled"), ("12345678-1234-1234-1234-123456789012", env, 3, "NotFoundException"),
        (good, nobody, 3, "redentials"), (good, {**env, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, 4, "Could not connect"),
    ):  # fmt: skip
        assert word in refused(data, "seal", "root", "--key", f"awskms:{key}", env=given, status=status), key
