"""The search for credentials: what it finds, what it lets pass, and that it never says what it found."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import string

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from stele.model import spec as specs
from stele.model.tree import Node, Tree
from stele.seal import secret_rules, secrets
from stele.trust.errors import SteleError

ALNUM = string.ascii_letters + string.digits


def noise(count: int, alphabet: str = ALNUM, seed: int = 7) -> str:
    return "".join(random.Random(seed).choices(alphabet, k=count))


def pem(key, form=serialization.PrivateFormat.PKCS8, lock=None) -> str:
    lock = lock or serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, lock).decode()


EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def b64json(value: dict) -> str:
    return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).decode().rstrip("=")


JWT = f"{b64json({'alg': 'HS256', 'typ': 'JWT'})}.{b64json({'sub': '1', 'name': 'someone'})}.{noise(43)}"
FOUND = {
    "pkcs8": (pem(EC), "private-key"),
    "sec1": (pem(EC, serialization.PrivateFormat.TraditionalOpenSSL), "private-key"),
    "rsa": (pem(rsa.generate_private_key(65537, 2048), serialization.PrivateFormat.TraditionalOpenSSL), "private-key"),
    "openssh": (pem(ED, serialization.PrivateFormat.OpenSSH), "private-key"),
    "ed25519": (pem(ED), "private-key"),
    "encrypted": (pem(EC, lock=serialization.BestAvailableEncryption(b"x")), "private-key"),
    "in JSON": (json.dumps({"key": pem(EC)}), "private-key"),
    "in YAML": ("key: |\n" + "\n".join("    " + line for line in pem(EC).splitlines()), "private-key"),
    "putty": ("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nPrivate-Lines: 1\nabc", "private-key"),
    "age": ("AGE-SECRET-KEY-1" + noise(58, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"), "private-key"),
    "jwk": (json.dumps({"d": noise(43), "kty": "EC", "crv": "P-256", "x": "a", "y": "b"}), "json-web-key"),
    "jwt": (JWT, "json-web-token"),
    "aws": ("AKIA" + noise(16, string.ascii_uppercase + "234567"), "aws-access-key"),
    "aws secret": ("aws_secret_access_key = " + noise(40), "aws-secret-key"),
    "google": ("AIza" + noise(35), "google-api-key"),
    "azure": ("AccountName=a;AccountKey=" + noise(86) + "==;", "azure-storage-key"),
    "github": ("ghp_" + noise(36), "github-token"),
    "github fine": ("github_pat_" + noise(82), "github-token"),
    "gitlab": ("glpat-" + noise(20), "gitlab-token"),
    "slack": ("xoxb-" + noise(11, string.digits) + "-" + noise(12, string.digits) + noise(24), "slack-token"),
    "stripe": ("sk_live_" + noise(24), "stripe-key"),
    "npm": ("npm_" + noise(36), "npm-token"),
    "pypi": ("pypi-AgEIcHlwaS5vcmc" + noise(80), "pypi-token"),
    "url": ("postgres://shop:" + noise(12) + "@db.internal/shop", "url-password"),
    "kubeconfig": ("client-key-data: " + base64.b64encode(pem(EC).encode()).decode(), "kubernetes-client-key"),
}  # fmt: skip


class Files:
    """A tree's contents in memory."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.by_digest = {hashlib.sha256(data).hexdigest(): data for data in files.values()}
        self.asked: list[str] = []

    def chunks(self, digest: str, size: int = 1 << 20):
        self.asked.append(digest)
        data = self.by_digest[digest]
        yield from (data[at : at + size] for at in range(0, len(data), size))

    def read(self, digest: str) -> bytes:
        return self.by_digest[digest]


def made(files: dict[str, bytes]) -> tuple[Tree, Files]:
    nodes = {b"": Node(path=b"", kind="dir", mode=0o755, uid=0, gid=0, mtime=0)}
    for name, data in files.items():
        path = name.encode()
        for depth in range(1, path.count(b"/") + 1):
            above = b"/".join(path.split(b"/")[:depth])
            nodes[above] = Node(path=above, kind="dir", mode=0o755, uid=0, gid=0, mtime=0)
        nodes[path] = Node(
            path=path, kind="file", mode=0o644, uid=0, gid=0, mtime=0, size=len(data), sha256=hashlib.sha256(data).hexdigest()
        )
    return Tree.build(nodes.values()), Files(files)


def spec(**more) -> specs.Spec:
    return specs.from_builtins({"stele": 0, "name": "shop", "command": ["/bin/shop"], **more})


def scan(files: dict[str, bytes], *, packaged=(), known=frozenset(), **more) -> secrets.Report:
    return secrets.scan(*made(files), spec(**more), packaged, known)


@pytest.mark.parametrize("name", FOUND)
def test_each_kind_of_credential_is_refused_and_its_line_named(name):
    text, rule = FOUND[name]
    report = scan({"srv/app/config": b"# first\n# second\nvalue = " + text.encode() + b"\n# last\n"})
    assert {(item.place, item.rule) for item in report.refused} == {("/srv/app/config", rule)}
    assert report.refused[0].line in ({3} if name != "in YAML" else {3, 4})
    with pytest.raises(SteleError) as caught:
        report.check()
    assert caught.value.code == "seal.secret-found"


@pytest.mark.parametrize("name", FOUND)
def test_no_part_of_a_credential_is_ever_said(name):
    text, _ = FOUND[name]
    report = scan({"srv/config": text.encode()}, env={"A_TOKEN": text})
    with pytest.raises(SteleError) as caught:
        report.check()
    said = str(caught.value) + repr(report)
    for at in range(len(text) - 11):
        assert text[at : at + 12] not in said or text[at : at + 12] in "aws_secret_access_key"


@pytest.mark.parametrize(
    "text",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "-----BEGIN RSA PRIVATE KEY-----\n...\n-----END RSA PRIVATE KEY-----",
        "if header == '-----BEGIN PRIVATE KEY-----': parse(); continue_with_the_following_block_of_text_which_is_not_a_key_at_all",
        "https://user:password@example.com/",
        "https://user:${PASSWORD}@example.com/",
        "postgres://{name}:{password}@{host}/",
        "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "the_npm_" + "a" * 36,
        '{"kty": "RSA", "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx", "e": "AQAB"}',
        "eyJhbGciOiJIUzI1NiJ9.not.a-token",
        "/etc/ssl/certs/ca-certificates.crt",
    ],
)
def test_placeholders_and_public_things_pass(text):
    assert not scan({"srv/config": text.encode()}).refused


@pytest.mark.parametrize(
    ("path", "text", "rule"),
    [
        ("root/.netrc", "machine example.org\n login me\n password hunter22\n", "netrc"),
        ("root/.pypirc", "[pypi]\nusername = me\npassword = hunter22\n", "pypirc"),
        ("root/.git-credentials", "https://me:hunter22x@git.internal\n", "git-credentials"),
        ("root/.docker/config.json", '{"auths": {"r.internal": {"auth": "bWU6aHVudGVyMjI="}}}', "docker-credentials"),
        ("root/.pgpass", "db:5432:shop:shop:hunter22\n", "pgpass"),
        ("root/.npmrc", "//registry.internal/:_auth=bWU6aHVudGVyMjI=\n", "npm-token"),
        ("etc/krb5.keytab", "\x05\x02\0\0\0<secret", "kerberos-keytab"),
        ("srv/app/.env", "export DB_PASSWORD='c0rrect-horse'\nDEBUG=1\n", "env-secret"),
        ("srv/app/production.env", "API_KEY=q8Zk2mP0vL\n", "env-secret"),
    ],
)
def test_files_named_for_credentials(path, text, rule):
    assert rule in {item.rule for item in scan({path: text.encode()}).refused}


@pytest.mark.parametrize("path", ["srv/app/.env.example", "srv/app/.env"])
def test_templates_of_env_files_pass(path):
    assert not scan({path: b"DB_PASSWORD=changeme\nAPI_KEY=<your key>\nTOKEN_FILE=/run/token\nSECRET=${SECRET}\n"}).refused


def test_the_specs_environment_and_command_are_looked_at():
    report = scan(
        {}, env={"DB_PASSWORD": "c0rrect-horse", "PASSWORD_FILE": "/run/x", "LEVEL": "info"}, command=["/bin/shop", "ghp_" + noise(36)]
    )
    assert {(item.place, item.rule) for item in report.refused} == {
        ("spec: env DB_PASSWORD", "env-secret"),
        ("spec: command[1]", "github-token"),
    }


def test_settings_are_read_as_assignments():
    data = b"user: shop\ndb_password: c0rrect-horse\n"
    assert not scan({"etc/shop.yaml": data}).refused
    report = scan({"etc/shop.yaml": data}, settings=[{"path": "/etc/shop.yaml", "content": "x"}])
    assert [(item.place, item.line, item.rule) for item in report.refused] == [("/etc/shop.yaml", 2, "env-secret")]


def test_what_the_spec_allows_passes_and_is_sealed():
    key = pem(EC).encode()
    allow = [{"path": "/srv/fixtures/*", "rule": "private-key", "reason": "test keys"}, {"path": "/gone", "rule": "jwt", "reason": "none"}]
    files = {"srv/fixtures/a.pem": key, "srv/fixtures/deep/b.pem": key + b"\n"}
    report = scan(files, secrets={"allow": allow})
    assert [item.place for item in report.allowed] == ["/srv/fixtures/a.pem"]
    assert [item.place for item in report.refused] == ["/srv/fixtures/deep/b.pem"]
    assert [entry.path for entry in report.unused] == ["/gone"]
    assert specs.sealed(spec(secrets={"allow": allow}))["secrets"]["allow"][0]["reason"] == "test keys"
    assert "secrets" not in specs.sealed(spec())
    with pytest.raises(SteleError, match="reason"):
        spec(secrets={"allow": [{"path": "/a", "rule": "b", "reason": " "}]})


def test_test_data_of_published_packages_is_told_and_their_other_files_are_refused():
    key = pem(EC).encode()
    site = "usr/local/lib/python3.11/site-packages/"
    report = scan(
        {
            site + "aio/tests/server.pem": key,
            site + "aio/server.pem": key + b"\n",
            "srv/node_modules/x/README.md": b"https://me:hunter22x@host/",
            "srv/app/tests/server.pem": key + b"\n\n",
            "usr/share/doc/openssl/key.pem": key + b"\n\n\n",
        }
    )
    assert {item.place for item in report.told} == {
        f"/{site}aio/tests/server.pem",
        "/srv/node_modules/x/README.md",
        "/usr/share/doc/openssl/key.pem",
    }
    assert {item.place for item in report.refused} == {f"/{site}aio/server.pem", "/srv/app/tests/server.pem"}


def test_the_same_content_in_a_test_and_elsewhere_is_refused_elsewhere():
    key = pem(EC).encode()
    report = scan({"a/node_modules/x/test/k.pem": key, "etc/k.pem": key})
    assert [item.place for item in report.refused] == ["/etc/k.pem"]


def test_what_the_distribution_packaged_is_left_out_but_where_it_is_edited():
    key = pem(EC).encode()
    files = {"usr/share/x/key.pem": key, "etc/x/key.pem": key}
    report = scan(files, packaged=[name.encode() for name in files])
    assert [item.place for item in report.refused] == ["/etc/x/key.pem"]


def test_a_clean_content_is_read_once_and_a_dirty_one_each_time():
    files = {"a": b"nothing here", "b": pem(EC).encode()}
    first = scan(files)
    assert first.clean == (hashlib.sha256(b"nothing here").hexdigest(),)
    tree, contents = made(files)
    again = secrets.scan(tree, contents, spec(), (), frozenset(first.clean))
    assert again.refused == first.refused
    assert contents.asked == [hashlib.sha256(files["b"]).hexdigest()]


def test_large_binaries_are_left_out_and_small_ones_are_not():
    token = ("ghp_" + noise(36)).encode()
    assert not scan({"big": b"\0" * secrets.BINARY + token}).refused
    assert scan({"small": b"\0" * 100 + token}).refused
    assert scan({"text": b"a\n" * secrets.BINARY + token}).refused


def test_a_match_across_two_files_is_none():
    name = "aws_secret_access_key ="
    assert not scan({"a": name.encode(), "b": noise(40).encode()}).refused
    assert not scan({"b": name.encode(), "a": noise(40).encode()}).refused


def test_the_error_names_ten_and_counts_the_rest():
    report = scan({f"f{at}": pem(EC).encode() + b"\n" * at for at in range(13)})
    with pytest.raises(SteleError, match="and 3 more"):
        report.check()


def test_names_that_are_not_text_are_quoted():
    data = pem(EC).encode()
    node = Node(path=b"a\n\xff", kind="file", mode=0o644, uid=0, gid=0, mtime=0, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    tree = Tree.build([Node(path=b"", kind="dir", mode=0o755, uid=0, gid=0, mtime=0), node])
    assert secrets.scan(tree, Files({"": data}), spec()).refused[0].place == "/a%0A%FF"


PIECES = st.sampled_from(
    [text.encode() for text, _ in FOUND.values()] + [b"-----BEGIN PRIVATE KEY-----", b'"kty":"RSA"', b"://", b"eyJ", b"\n", b"{", b"}"]
)


@settings(deadline=None)  # patterns are compiled when they are first met
@given(st.lists(st.one_of(PIECES, st.binary(max_size=40)), max_size=8))
def test_any_bytes_are_read_without_a_fault_and_the_same_way_each_time(parts):
    data = b"".join(parts)
    found = list(secret_rules.matches(data))
    assert all(0 <= item.start < item.end <= len(data) and item.rule in secret_rules.NAMES for item in found)
    assert found == list(secret_rules.matches(data))
    for path in ("x", "root/.netrc", ".env", "etc/shadow", "a/.docker/config.json"):
        scan({path: data or b" "})


@given(st.sampled_from(sorted(FOUND)), st.binary(max_size=60), st.binary(max_size=60))
def test_a_credential_is_found_whatever_lies_around_it(name, before, after):
    text, rule = FOUND[name]
    data = before + b"\n\n" + text.encode() + b"\n\n" + after
    assert rule in {item.rule for item in secret_rules.matches(data)}
