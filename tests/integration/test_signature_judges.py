"""Cosign and npm's sigstore verifier accept what we sign, in both forms, and refuse what was altered; and the other way round."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from stele.host import immutable
from stele.model import spec as specs
from stele.model.release import BUNDLE_TYPE, SIMPLE_TYPE, Descriptor, Publication, SimpleSignature
from stele.model.tree import Tree
from stele.seal import release as sealing
from stele.seal.sign import sign
from stele.store.layout import Layout
from stele.trust import canonical, cosign
from stele.trust.errors import SteleError
from stele.trust.release_key import PrivateKey
from tests import judges
from tests.trees import Held, file, folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stele.seal.release import Sealed

# cosign takes minutes to build where it is not in the cache
pytestmark = pytest.mark.timeout(1500)
KEY = PrivateKey.generate()
STRANGER = PrivateKey.generate()
ANNOTATIONS = {"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": cosign.PREDICATE_TYPE}
NPM = Path(__file__).parent / "judges" / "sigstore-verify"


class Home(NamedTuple):
    """Where cosign keeps its caches, and the public keys lie."""

    path: Path
    key: Path
    stranger: Path


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path, tmp_path / "key.pub", tmp_path / "stranger.pub")
    made.key.write_bytes(KEY.public.pem())
    made.stranger.write_bytes(STRANGER.public.pem())
    yield made
    for path in tmp_path.glob("*/erofs/*"):
        immutable.make_mutable(path)


def run(home: Home, *argv: object) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(home.path), "COSIGN_PASSWORD": "word", "DO_NOT_TRACK": "1"}
    return subprocess.run([str(part) for part in argv], capture_output=True, text=True, check=False, timeout=120, env=env, cwd=home.path)


def seal(store: Layout, content: bytes = b"v1") -> Sealed:
    held = Held()
    tree = Tree.build([folder(b""), file(b"app", content * 3000, held), file(b"conf", b"x", held)])
    spec = specs.from_builtins({"stele": 0, "name": "shop", "command": ["/app"], "settings": [{"path": "/conf"}]})
    return sealing.seal(tree, held, spec, store)


def publish(store: Layout, sealed: Sealed, bundle: bytes = b"", simple: tuple[bytes, bytes] | None = None) -> str:
    """Publish a release with these signatures, whatever they are; returns its digest."""
    referrers, signatures = [], []
    if bundle:
        blob = Descriptor(media_type=BUNDLE_TYPE, digest=store.put(bundle), size=len(bundle))
        referrers.append(sealing.attach(store, sealed.release, BUNDLE_TYPE, blob, ANNOTATIONS))
    if simple:
        payload, signature = simple
        blob = Descriptor(media_type=SIMPLE_TYPE, digest=store.put(payload), size=len(payload))
        signatures.append(SimpleSignature(payload=blob, signature=base64.b64encode(signature).decode()))
    store.publish(Publication(release=sealed.release, referrers=tuple(referrers), signatures=tuple(signatures)))
    return sealed.release.digest


def altered(bundle: bytes, other: str) -> dict[str, bytes]:
    """What must be refused, each by its name. Everything but the truncated one is still a bundle by its form."""
    plain = json.loads(bundle)
    envelope = plain["dsseEnvelope"]
    payload, signature = base64.b64decode(envelope["payload"]), base64.b64decode(envelope["signatures"][0]["sig"])

    def with_envelope(**change: object) -> bytes:
        return canonical.encode({**plain, "dsseEnvelope": {**envelope, **change}})

    def signed(raw: bytes) -> list[dict[str, str]]:
        return [{"sig": base64.b64encode(raw).decode()}]

    return {
        "another digest in the payload": with_envelope(
            payload=base64.b64encode(payload.replace(payload.split(b'"sha256":"')[1][:64], other[7:].encode())).decode()
        ),
        "a changed payload": with_envelope(payload=base64.b64encode(payload + b" ").decode()),
        "a changed signature": with_envelope(signatures=signed(signature[:-1] + bytes([signature[-1] ^ 1]))),
        "a signature cut short": with_envelope(signatures=signed(signature[:-1])),
        "no signature": with_envelope(signatures=signed(b"")),
        "another payload type": with_envelope(payloadType="application/vnd.in-toto+jsom"),
        "by another key": cosign.make_bundle(f"sha256:{payload.split(b'sha256')[1][3:67].decode()}", STRANGER),
        "of another release": cosign.make_bundle(other, KEY),
        "truncated": bundle[: len(bundle) // 2],
    }


def test_cosign_accepts_a_release_in_its_layout(home: Home, cosign_program: Path) -> None:
    store = Layout(home.path / "store")
    sealed = seal(store)
    store.publish(sign(sealed, KEY, store))
    verify = (cosign_program, "verify", "--insecure-ignore-tlog=true", "--local-image", home.path / "store", "--key")
    done = run(home, *verify, home.key)
    assert done.returncode == 0, done.stderr
    refused = run(home, *verify, home.stranger)
    assert refused.returncode != 0


def test_cosign_refuses_altered_bundles_and_so_do_we(home: Home, cosign_program: Path) -> None:
    other = seal(Layout(home.path / "other"), b"v2").release.digest
    scratch = Layout(home.path / "scratch")
    good = cosign.make_bundle(seal(scratch).release.digest, KEY)
    for number, (what, bundle) in enumerate({"nothing altered": good, **altered(good, other)}.items()):
        root = home.path / f"store-{number}"
        store = Layout(root, trusted=(KEY.public,))
        digest = publish(store, seal(store), bundle)
        done = run(home, cosign_program, "verify", "--insecure-ignore-tlog=true", "--local-image", root, "--key", home.key)
        if number == 0:
            assert done.returncode == 0, done.stderr
            store.check_signature(digest)
            continue
        assert done.returncode != 0, what
        with pytest.raises(SteleError) as raised:
            store.check_signature(digest)
        assert raised.value.code in {"store.bad-signature", "store.unknown-signer"}, what


def pushed(home: Home, registry: str, root: Path, digest: str, name: str) -> str:
    """Copy a release with both forms of its signatures into a registry; returns the reference with the digest."""
    for tag in (f"shop-{digest[7:19]}", f"sha256-{digest[7:]}", f"sha256-{digest[7:]}.sig"):
        done = run(
            home, "skopeo", "copy", "-q", "--all", "--dest-tls-verify=false", f"oci:{root}:{tag}", f"docker://{registry}/{name}:{tag}"
        )
        assert done.returncode == 0 or tag.startswith("sha256-"), done.stderr  # one form may not be there
    return f"{registry}/{name}@{digest}"


@pytest.mark.parametrize("form", ["bundle", "sig"])
def test_cosign_accepts_each_form_from_a_registry(home: Home, cosign_program: Path, crane: str, form: str) -> None:
    store = Layout(home.path / "store")
    sealed = seal(store)
    digest = sealed.release.digest
    payload = cosign.make_payload(digest, "shop")
    if form == "bundle":
        publish(store, sealed, cosign.make_bundle(digest, KEY))
    else:
        publish(store, sealed, simple=(payload, KEY.sign(payload)))
    reference = pushed(home, crane, home.path / "store", digest, f"alone-{form}")
    verify = (cosign_program, "verify", "--insecure-ignore-tlog=true", f"--new-bundle-format={str(form == 'bundle').lower()}", "--key")
    done = run(home, *verify, home.key, reference)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["critical"]["image"]["docker-manifest-digest"] == digest
    assert run(home, *verify, home.stranger, reference).returncode != 0


def test_cosign_refuses_altered_signatures_of_the_older_form_and_so_do_we(home: Home, cosign_program: Path, crane: str) -> None:
    digest = seal(Layout(home.path / "scratch")).release.digest
    other = seal(Layout(home.path / "scratch"), b"v2").release.digest
    payload = cosign.make_payload(digest, "shop")
    good, elsewhere = KEY.sign(payload), cosign.make_payload(other, "shop")
    for number, (what, simple) in enumerate(
        {
            "another payload": (payload + b" ", good),
            "another signature": (payload, good[:-1] + bytes([good[-1] ^ 1])),
            "another key": (payload, STRANGER.sign(payload)),
            "another release": (elsewhere, KEY.sign(elsewhere)),
        }.items()
    ):
        root = home.path / f"store-{number}"
        store = Layout(root, trusted=(KEY.public,))
        publish(store, seal(store), simple=simple)
        reference = pushed(home, crane, root, digest, f"altered-{number}")
        done = run(home, cosign_program, "verify", "--insecure-ignore-tlog=true", "--new-bundle-format=false", "--key", home.key, reference)
        assert done.returncode != 0, what
        with pytest.raises(SteleError) as raised:
            store.check_signature(digest)
        assert raised.value.code in {"store.bad-signature", "store.unknown-signer"}, what


def test_a_signature_that_cosign_made_holds_here(home: Home, cosign_program: Path, crane: str) -> None:
    store = Layout(home.path / "store", trusted=(KEY.public,))
    sealed = seal(store)
    digest = publish(store, sealed)
    reference = pushed(home, crane, home.path / "store", digest, "signed-by-cosign")
    (home.path / "key.pem").write_bytes(KEY.pem())
    imported = run(home, cosign_program, "import-key-pair", "--key", home.path / "key.pem", "--output-key-prefix", "imported")
    assert imported.returncode == 0, imported.stderr
    options = ("--yes", "--use-signing-config=false", "--tlog-upload=false", "--key", home.path / "imported.key")
    for name, form in (("bundle", "true"), ("sig", "false")):
        done = run(home, cosign_program, "sign", *options, f"--new-bundle-format={form}", reference)
        assert done.returncode == 0, done.stderr
        there = home.path / f"back-{name}"
        source = f"docker://{reference.partition('@')[0]}"
        tags = [f"shop-{digest[7:19]}", f"sha256-{digest[7:]}" + (".sig" if name == "sig" else "")]
        for tag in tags:
            copied = run(home, "skopeo", "copy", "-q", "--all", "--src-tls-verify=false", f"{source}:{tag}", f"oci:{there}:{tag}")
            assert copied.returncode == 0, copied.stderr
        assert Layout(there, trusted=(KEY.public,)).check_signature(digest).form == name


def test_npms_verifier_accepts_ours_and_refuses_altered_ones(home: Home) -> None:
    modules = judges.npm_judge("sigstore-verify", NPM / "package-lock.json")
    shutil.copy(NPM / "verify.js", home.path)
    digest, other = (f"sha256:{number:064x}" for number in (7, 8))
    good = cosign.make_bundle(digest, KEY)

    def verdict(bundle: bytes, key: PrivateKey = KEY, of: str = digest) -> bool:
        (home.path / "bundle.json").write_bytes(bundle)
        (home.path / "its.pub").write_bytes(key.public.pem())
        hint = json.loads(good)["verificationMaterial"]["publicKey"]["hint"]
        env = {"PATH": os.environ["PATH"]}
        argv = ["node", home.path / "verify.js", home.path / "bundle.json", home.path / "its.pub", hint, of[7:]]
        done = subprocess.run(argv, cwd=modules, env=env, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode == 0) == (done.stdout == "ok\n")
        return done.returncode == 0

    assert verdict(good)
    assert not verdict(good, STRANGER)
    assert not verdict(good, of=other)
    for what, bundle in altered(good, other).items():
        assert not verdict(bundle), what
