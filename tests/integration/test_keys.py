"""Keys as people use them: passphrases, signers, rotation, revocation, tokens. Judged by cosign, OpenSSL and SoftHSM2."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stele.cli.secret import PASSPHRASE, PIN
from stele.flow.places import Places
from stele.trust import key_files
from stele.trust.errors import SteleError
from stele.trust.policy import key_id
from stele.trust.release_key import PublicKey
from tests.data_folder import WORD, Data, cosign, holds

pytestmark = pytest.mark.timeout(1500)  # cosign takes minutes to build where it is not in the cache


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path)


def two_signers(data: Data) -> None:
    data("key", "generate", "alice.key", "--plain")
    data("key", "add", "alice", "alice.pub")
    data("key", "require", "shop", 2, "release", "alice")


def test_two_of_two_signers_then_it_may_run(data):
    release = data.seal()
    two_signers(data)
    assert data.refused("verify", release) == "trust.too-few-signers"
    assert data("sign", release, "--key", "alice.key")["accepted"]
    data("verify", release)
    assert data("sign", release, "--key", "alice.key")["accepted"]  # again changes nothing
    assert len(data("sign", release)["keys"]) == 2
    assert [kind for kind in data.kinds() if kind.startswith(("key.", "release."))][:3] == ["release.sealed", "key.added", "key.required"]


def test_a_second_signer_elsewhere_signs_what_is_pushed_and_only_then_it_is_pulled(data, crane):
    """Three machines: one seals, one signs, one runs; each with a policy of its own."""
    target = f"{crane}/{data.folder.name.replace('_', '-').lower()}/shop:v1"
    signer, runs = (Data(data.folder / name) for name in ("signer", "runs") if not (data.folder / name).mkdir())
    own = data.data / "keys" / "release.pub"
    signer("key", "generate", "alice.key", "--plain")
    signer("key", "add", "builder", own)
    signer("key", "require", "shop", 1, "builder")
    runs("key", "add", "builder", own)
    runs("key", "add", "alice", signer.folder / "alice.pub")
    runs("key", "require", "shop", 2, "builder", "alice")
    release = data.seal()
    data("push", "shop", target)
    assert runs.refused("pull", target) == "trust.too-few-signers"
    assert runs("releases") == []
    signer("pull", target)
    signer("key", "add", "alice", "alice.pub")
    signer("sign", release, "--key", "alice.key")
    signer("push", release, target)
    data("push", "shop", target)  # the first one again: what others signed stays
    assert runs("pull", target)["release"] == release
    runs("verify", release)
    assert len(json.loads(runs.run("log", "--kind", "release.pulled").stdout.splitlines()[-1])["data"]["keys"]) == 2


def test_a_rotated_key_signs_nothing_new_and_what_it_signed_stays_good(data):
    old = data.seal()
    shutil.copy(data.data / "keys" / "release.key", data.folder / "old.key")
    done = data("key", "rotate")
    assert done["from"] > 0
    data("verify", old)
    with_old = data.seal("two", "--key", "old.key")
    assert data.refused("verify", with_old) == "trust.key-not-valid"
    assert data("sign", with_old)["accepted"]
    data("verify", data.seal("three"))
    assert "key.rotated" in data.kinds()


def test_what_a_stolen_key_signed_counts_only_if_it_was_recorded_before(data):
    before = data.seal()
    size = len(data.kinds()) * 2  # an epoch follows each
    bad = data.seal("evil")
    stolen = data.key("release")
    shutil.copy(data.data / "keys" / "release.key", data.folder / "stolen.key")
    data("key", "rotate")
    assert data.refused("key", "revoke", stolen, "--reason", "x", "--from", 10**6) == "trust.no-such-key"
    data("key", "revoke", stolen[:8], "--reason", "stolen", "--from", size)
    data("verify", before)
    assert data.refused("verify", bad) == "trust.key-revoked"
    assert data("sign", bad, "--key", "stolen.key")["accepted"] is False  # the thief adds it again
    late = data.seal("later", "--key", "stolen.key")
    assert data.refused("verify", late) == "trust.key-revoked"
    data("verify", data.seal("good"))
    data("key", "revoke", stolen, "--reason", "all of it", "--from", 0)
    assert data.refused("verify", before) == "trust.key-revoked"
    assert data("sign", before)["accepted"]


def test_a_policy_from_a_backup_undoes_no_revocation(data):
    release = data.seal()
    saved = (data.data / "keys" / "trust.policy").read_bytes()
    data("key", "revoke", data.key("release"), "--reason", "stolen", "--from", 0)
    (data.data / "keys" / "trust.policy").write_bytes(saved)
    assert data.refused("verify", release) == "trust.policy-outdated"


@contextlib.contextmanager
def agent_that_cannot_publish(path: Path):
    """What answers on the agent's socket while witnesses hold publication back."""
    error = {"reason": "too few witnesses", "remedy": "wait", "code": "witness.no-quorum", "retryable": True}
    body = json.dumps({"error": error}).encode() + b"\n"

    class Answer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            size = 0
            while line := self.rfile.readline().strip():
                size = int(line[15:]) if line.lower().startswith(b"content-length:") else size
            self.rfile.read(size)
            self.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    path.parent.mkdir(parents=True, exist_ok=True)
    with socketserver.ThreadingUnixStreamServer(str(path), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def test_a_stolen_key_is_revoked_also_while_witnesses_hold_publication_back(data):
    release, key = data.seal(), data.key("release")
    with agent_that_cannot_publish(Places(data.data).agent_socket):
        assert data.refused("key", "rotate") == "witness.no-quorum"  # its index has to be right
        data("key", "revoke", key, "--reason", "stolen", "--from", 0)
    assert data.refused("verify", release) == "trust.key-revoked"


def test_keys_are_never_overwritten_and_only_for_their_owner(data):
    data("key", "generate", "alice.key", "--plain")
    first = (data.folder / "alice.key").read_bytes()
    assert (data.folder / "alice.key").stat().st_mode & 0o777 == 0o600
    assert data.refused("key", "generate", "alice.key", "--plain") == "trust.key-exists"
    (data.folder / "alice.key").rename(data.folder / "bob.key")
    assert data.refused("key", "generate", "alice.key", "--plain") == "trust.key-exists"  # alice.pub is another's
    assert (data.folder / "bob.key").read_bytes() == first
    assert data.refused("key", "generate", "carol.pub", "--plain") == "trust.key-exists"  # its public half would take its place
    assert data.refused("trust", "holder", "carol", "carol.vkey", "--plain") == "trust.key-exists"
    assert not list(data.folder.glob("carol*"))


def test_a_passphrase_protects_and_is_seen_nowhere(data, tmp_path):
    (tmp_path / "word").write_text(WORD + "\nsecond line\n")
    data("key", "protect", **{PASSPHRASE: WORD})
    path = data.data / "keys" / "release.key"
    assert path.read_bytes().startswith(key_files.ENCRYPTED)
    assert data.refused("seal", "root") == "trust.no-passphrase"
    assert data.refused("seal", "root", **{PASSPHRASE: "wrong"}) == "trust.wrong-passphrase"
    assert data.refused("seal", "root", **{PASSPHRASE: ""}) == "trust.wrong-passphrase"
    release = data.seal("one", **{PASSPHRASE: WORD})
    assert data("sign", release, "--passphrase-file", "word")["accepted"]
    for argv in (("--debug", "sign", release), ("--debug", "seal", "root"), ("--debug", "key", "list")):
        done = data.process(*argv, **{PASSPHRASE: WORD})
        assert done.returncode == 0
        assert WORD not in done.stdout + done.stderr
    for file in data.data.rglob("*"):
        assert not file.is_file() or WORD.encode() not in file.read_bytes(), file
    data("init", "--keys-only")  # reads no private key
    data("key", "protect", "--plain", **{PASSPHRASE: WORD})
    data.seal("two")


def test_a_passphrase_goes_to_no_child(data, monkeypatch):
    from stele.cli.secret import Secrets

    monkeypatch.setenv(PASSPHRASE, WORD)
    monkeypatch.setenv(PIN, "1234")
    secrets = Secrets(None)
    assert secrets("passphrase of x") == WORD
    assert secrets("pin") == "1234"
    assert WORD not in repr(secrets) + str(vars(type(secrets)))
    assert PASSPHRASE not in os.environ
    assert WORD not in subprocess.run(["env"], capture_output=True, text=True, check=True).stdout


def test_openssl_reads_protected_keys_and_we_read_its_own(data, tmp_path):
    data("key", "generate", "alice.key", **{PASSPHRASE: WORD})
    shown = subprocess.run(
        ["openssl", "pkey", "-in", "alice.key", "-passin", "stdin", "-pubout"],
        input=WORD + "\n", capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert shown.stdout == (tmp_path / "alice.pub").read_text()
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-aes256", "-pass", "stdin", "-out", "o.key"],
        check=True, capture_output=True, cwd=tmp_path, input=WORD.encode() + b"\n",
    )  # fmt: skip
    assert key_files.load((tmp_path / "o.key").read_bytes(), WORD.encode()).public
    with pytest.raises(SteleError) as raised:
        key_files.load((tmp_path / "o.key").read_bytes(), b"wrong")
    assert raised.value.code == "trust.wrong-passphrase"


# ---- cosign


def test_we_sign_with_keys_that_cosign_made_and_cosign_verifies_both_kinds(data, cosign_program):
    assert cosign(data, cosign_program, "generate-key-pair").returncode == 0
    data("key", "add", "carol", "cosign.pub")
    data("key", "require", "*", 1, "carol", "release")
    release = data.seal("one", "--key", "cosign.key", **{PASSPHRASE: WORD})
    data("verify", release)
    assert holds(data, cosign_program, "cosign.pub")
    assert not holds(data, cosign_program, "data/keys/release.pub")
    assert data.refused("sign", release, "--key", "cosign.key", **{PASSPHRASE: "wrong"}) == "trust.wrong-passphrase"
    # and the other way round: cosign takes ours, under a passphrase
    data("key", "generate", "alice.key", "--plain")
    assert cosign(data, cosign_program, "import-key-pair", "--key", "alice.key", "--output-key-prefix", "alice2").returncode == 0
    again = key_files.load((data.folder / "alice2.key").read_bytes(), WORD.encode())
    assert again.public.pem() == (data.folder / "alice.pub").read_bytes()


def test_a_damaged_or_greedy_cosign_key_is_refused(data, cosign_program):
    assert cosign(data, cosign_program, "generate-key-pair").returncode == 0
    import base64

    text = (data.folder / "cosign.key").read_text()
    head, body, tail = text.partition("-----\n")[0], text.split("-----\n")[1].split("-----END")[0], text.split("\n-----END")[1]
    plain = json.loads(base64.b64decode(body))

    def code(change: dict, word: bytes = WORD.encode()) -> str:
        spoiled = base64.encodebytes(json.dumps({**plain, **change}).encode()).decode()
        with pytest.raises(SteleError) as raised:
            key_files.load(f"{head}-----\n{spoiled}-----END{tail}".encode(), word)
        return raised.value.code

    kdf = plain["kdf"]
    assert code({}, b"wrong") == "trust.wrong-passphrase"
    for params in ({"N": 1 << 30}, {"N": "65536"}, {"r": 0}, {"p": True}, {"N": 65537}):
        assert code({"kdf": {**kdf, "params": {**kdf["params"], **params}}}) == "trust.bad-key", params
    for change in (
        {"kdf": {}},
        {"kdf": None},
        {"cipher": {**plain["cipher"], "name": "x"}},
        {"ciphertext": "%"},
        {"cipher": {"nonce": ""}},
    ):
        assert code(change) == "trust.bad-key", change
    assert code({"ciphertext": base64.b64encode(b"x" * 100).decode()}) == "trust.wrong-passphrase"


# ---- a token (PKCS#11)

SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"


@pytest.fixture
def token(tmp_path, monkeypatch):
    """A software token with a P-256 key of id 2, and one on another curve of id 3; its environment."""
    import pkcs11
    from pkcs11.util.ec import encode_named_curve_parameters

    (tmp_path / "tokens").mkdir()
    conf = tmp_path / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {tmp_path}/tokens\n")
    env = {"SOFTHSM2_CONF": str(conf), "PYKCS11LIB": SOFTHSM}
    make = f"""
import pkcs11
from pkcs11.util.ec import encode_named_curve_parameters
token = pkcs11.lib({SOFTHSM!r}).get_token(token_label="stele")
with token.open(rw=True, user_pin="4321") as session:
    for number, curve in ((2, "secp256r1"), (3, "secp384r1")):
        parameters = session.create_domain_parameters(pkcs11.KeyType.EC, {{
            pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters(curve)}}, local=True)
        parameters.generate_keypair(store=True, id=bytes([number]), label=curve)
"""
    argv = ["softhsm2-util", "--init-token", "--free", "--label", "stele", "--pin", "4321", "--so-pin", "8765"]
    for command in (argv, [sys.executable, "-c", make]):
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, **env})
    assert pkcs11
    assert encode_named_curve_parameters
    return env


URI = "hsm:2?label=stele"


@pytest.mark.needs(SOFTHSM)
def test_a_key_in_a_token_signs_and_cosign_verifies(data, token, cosign_program):
    shown = json.loads(data.process("key", "public", URI, "-o", "hsm.pub", **token, **{PIN: "4321"}).stdout)
    public = PublicKey.from_pem((data.folder / "hsm.pub").read_bytes())
    assert shown["key"] == key_id(public)
    data("key", "add", "vault", "hsm.pub")
    data("key", "require", "*", 1, "vault")
    release = json.loads(data.process("seal", "root", "--key", URI, **token, **{PIN: "4321"}).stdout)["release"]
    data("verify", release)
    assert holds(data, cosign_program, "hsm.pub")


@pytest.mark.parametrize(
    ("uri", "pin", "expected"),
    [
        (URI, "0000", "trust.key-service"), (URI, None, "trust.no-passphrase"), ("hsm:9?label=stele", "4321", "trust.key-service"),
        ("hsm:3?label=stele", "4321", "trust.key-service"), ("hsm:2?label=other", "4321", "trust.key-service"),
        ("hsm:x?label=stele", "4321", "trust.key-service"),
    ],
)  # fmt: skip
@pytest.mark.needs(SOFTHSM)
def test_what_a_token_cannot_do_is_said_and_the_pin_is_not(data, token, uri, pin, expected):
    done = data.process("--debug", "seal", "root", "--key", uri, **token, **({PIN: pin} if pin else {}))
    assert done.returncode == 3  # nothing that may pass by itself: whoever tries a wrong PIN again locks the token
    assert json.loads(done.stdout)["error"]["code"] == expected
    assert "4321" not in (done.stdout + done.stderr).replace(str(data.folder), "")
    with contextlib.suppress(FileNotFoundError):
        assert not json.loads((data.data / "store" / "index.json").read_bytes())["manifests"]


WITHOUT = "import sys; sys.modules[sys.argv.pop(1)] = None; from stele.cli.main import main; main()"


@pytest.mark.parametrize(
    ("uri", "extra", "library"),
    [
        ("awskms:1234", "awskms", "boto3"), ("gcpkms:projects/x", "gcpkms", "google.cloud.kms"),
        ("azurekms://v.vault.azure.net/keys/k/1", "azurekms", "azure.identity"), ("hv:k", "vault", "hvac"), (URI, "hsm", "pkcs11"),
    ],
)  # fmt: skip
def test_a_library_that_is_missing_is_named_with_its_extra(data, uri, extra, library):
    command = [sys.executable, "-c", WITHOUT, library, "--data", data.data, "--json", "seal", "root", "--key", uri]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=data.folder, stdin=subprocess.DEVNULL)
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "trust.library-missing", error
    assert f"stele[{extra}]" in error["remedy"]


def test_a_key_that_is_not_there_is_said(data):
    assert data.refused("seal", "root", "--key", "nobody.key") == "trust.no-such-key"
    (data.folder / "rubbish.key").write_text("rubbish")
    assert data.refused("seal", "root", "--key", "rubbish.key") == "trust.bad-key"
    assert data.refused("sign", "shop") == "store.unknown-release"


@pytest.mark.parametrize("uri", ["hashivault://shop", "HSM://2", "https://keys.example.com/shop"])
def test_a_key_service_that_is_not_known_is_no_file(data, uri):
    error = json.loads(data.process("seal", "root", "--key", uri).stdout)["error"]
    assert error["code"] == "trust.key-service"
    assert uri.partition(":")[0] + "://" in error["reason"]
    assert all(known in error["remedy"] for known in ("hsm:", "awskms:", "gcpkms:", "azurekms:", "hv:"))
