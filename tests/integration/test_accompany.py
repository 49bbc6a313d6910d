"""What `stele seal` attaches to a release, as others see it: cosign, syft, CycloneDX's own library and schema."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import jsonschema_rs
import pytest
from cyclonedx.model.bom import Bom

pytestmark = pytest.mark.timeout(1500)
SPEC = "stele: 0\nname: shop\ncommand: [/bin/shop]\nsettings:\n  - {path: /etc/shop.conf, source: shop.conf}\n"
GIT = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b",
    "GIT_CONFIG_NOSYSTEM": "1",
}


def stele(data: Path, *argv: str, fails: bool = False) -> str:
    done = subprocess.run([sys.executable, "-m", "stele", "--data", str(data), *argv], capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stdout + done.stderr if fails else done.stdout


def git(folder: Path, *argv: str) -> str:
    env = {**os.environ, **GIT}
    return subprocess.run(["git", "-C", str(folder), *argv], capture_output=True, text=True, check=True, env=env).stdout.strip()


@pytest.fixture
def sealed(tmp_path):
    """A data folder, and a checkout with a spec and a root that was sealed into it."""
    data, here = tmp_path / "data", tmp_path / "checkout"
    root = here / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "shop").write_text("#!/bin/sh\n")
    (root / "bin" / "shop").chmod(0o755)
    (here / "stele.yaml").write_text(SPEC)
    (here / "shop.conf").write_text("level = 1\n")
    git(here, "init", "-q", "-b", "main")
    git(here, "remote", "add", "origin", "https://me:word@git.example/shop.git")
    git(here, "add", "-A")
    git(here, "commit", "-qm", "first")
    stele(data, "init", "--keys-only")
    return data, here, seal(data, here)


def seal(data: Path, here: Path) -> dict:
    return json.loads(stele(data, "--json", "seal", str(here / "root"), "-f", str(here / "stele.yaml")))


def provenance(data: Path, name: str = "shop") -> dict:
    return json.loads(stele(data, "inspect", name, "--provenance"))


def dependencies(found: dict) -> dict[str, dict]:
    return {item["name"]: item for item in found["buildDefinition"]["resolvedDependencies"]}


def test_provenance_names_the_commit_the_inputs_and_the_builder(sealed):
    data, here, said = sealed
    found = provenance(data)
    parts = dependencies(found)
    commit = git(here, "rev-parse", "HEAD")
    assert parts["source"]["digest"] == {"sha256": said["tree"][7:]}
    assert parts["source-commit"] == {
        "name": "source-commit",
        "uri": "git+https://git.example/shop.git",
        "digest": {"gitCommit": commit},
        "annotations": {"dirty": False, "modified": 0, "untracked": 0, "staged": False, "folder": "root"},
    }
    assert parts["spec-commit"]["digest"] == {"gitCommit": commit}
    assert said["provenance"] == {"commit": commit, "dirty": False}
    build = found["buildDefinition"]
    assert build["externalParameters"]["source"] == {"kind": "folder", "name": "root"}
    assert re.fullmatch("[0-9a-f]{64}", build["externalParameters"]["spec"]["digest"]["sha256"])
    run = found["runDetails"]
    assert run["builder"]["id"].startswith("https://")
    assert run["metadata"]["startedOn"] <= run["metadata"]["finishedOn"]
    assert str(here) not in json.dumps(found)
    assert "word" not in json.dumps(found)


@pytest.mark.root
def test_provenance_of_a_build_names_the_commit_of_its_context(sealed, tmp_path):
    data, here, _ = sealed
    (here / "Containerfile").write_text("FROM scratch\nCOPY root /\n")
    git(here, "add", "-A")
    git(here, "commit", "-qm", "a build")
    (tmp_path / "elsewhere.yaml").write_text('{"stele": 0, "name": "shop", "command": ["/bin/shop"]}')
    argv = ("--json", "seal", str(here / "Containerfile"), "-f", str(tmp_path / "elsewhere.yaml"))
    commit = git(here, "rev-parse", "HEAD")
    assert json.loads(stele(data, *argv))["provenance"] == {"commit": commit, "dirty": False}
    parts = dependencies(provenance(data))
    assert parts["source-commit"]["digest"] == {"gitCommit": commit}
    assert "spec-commit" not in parts
    (here / "root" / "bin" / "shop").write_text("changed\n")
    assert json.loads(stele(data, *argv))["provenance"] == {"commit": commit, "dirty": True}


def test_changes_that_are_not_in_the_commit_are_told(sealed):
    data, here, _ = sealed
    (here / "shop.conf").write_text("level = 2\n")
    (here / "root" / "new").write_text("x")
    assert seal(data, here)["provenance"]["dirty"] is True
    parts = dependencies(provenance(data))
    assert parts["source-commit"]["annotations"]["untracked"] == 1
    assert parts["spec-commit"]["annotations"]["modified"] == 1


def test_the_same_seal_again_attests_nothing_new_and_another_one_does(sealed):
    data, here, first = sealed

    def entries() -> set[str]:
        return {item["digest"] for item in json.loads((data / "store" / "index.json").read_bytes())["manifests"]}

    before = entries()
    assert seal(data, here)["release"] == first["release"]
    assert entries() == before
    git(here, "commit", "-q", "--allow-empty", "-m", "second")
    assert seal(data, here)["release"] == first["release"]
    assert dependencies(provenance(data))["source-commit"]["digest"]["gitCommit"] == git(here, "rev-parse", "HEAD")


def test_a_credential_stops_the_seal_and_nothing_of_it_is_kept(sealed):
    data, here, _ = sealed
    token = "ghp_" + "q8Zk2mP0vLx7Wb3TnR5yHs9JcD1fGa4uKe6o"
    (here / "root" / "config").write_text(f"a\nb = {token}\n")
    said = stele(data, "seal", str(here / "root"), "-f", str(here / "stele.yaml"), fails=True)
    assert "seal.secret-found" in said
    assert "/config, line 2 (github-token)" in " ".join(said.split())
    assert token[4:12] not in said
    for path in data.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes(), path
    with (here / "stele.yaml").open("a") as spec:
        spec.write("secrets:\n  allow:\n    - {path: /config, rule: github-token, reason: revoked last year}\n")
    assert seal(data, here)["secrets"]["allowed"] == [{"place": "/config", "line": 2, "rule": "github-token"}]
    assert json.loads(stele(data, "--json", "inspect", "shop"))["spec"]["secrets"]["allow"][0]["reason"] == "revoked last year"


def test_attestations_by_a_stranger_or_altered_are_refused(sealed, tmp_path):
    data, _, said = sealed
    store = data / "store"
    index = json.loads((store / "index.json").read_bytes())
    bundle = next(
        store / "blobs" / "sha256" / layer["digest"][7:]
        for item in index["manifests"]
        if item.get("annotations", {}).get("dev.sigstore.bundle.predicateType") == "https://cyclonedx.org/bom"
        for layer in json.loads((store / "blobs" / "sha256" / item["digest"][7:]).read_bytes())["layers"]
    )
    plain = json.loads(bundle.read_bytes())
    plain["dsseEnvelope"]["payload"] = base64.b64encode(
        base64.b64decode(plain["dsseEnvelope"]["payload"]).replace(b"stele", b"steal")
    ).decode()
    bundle.chmod(0o600)
    bundle.write_text(json.dumps(plain))
    assert "store.damaged" in stele(data, "inspect", "shop", "--sbom", fails=True)
    stranger = tmp_path / "stranger"
    stele(stranger, "init", "--keys-only")
    (data / "keys" / "trust.policy").write_bytes((stranger / "keys" / "trust.policy").read_bytes())
    assert "store.unknown-signer" in stele(data, "inspect", "shop", "--provenance", fails=True)
    assert said["release"]


@pytest.fixture
def cosign(cosign_program):
    def run(home: Path, *argv: object) -> subprocess.CompletedProcess[str]:
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "DO_NOT_TRACK": "1"}
        return subprocess.run([cosign_program, *map(str, argv)], capture_output=True, text=True, check=False, timeout=120, env=env)

    return run


def copied(data: Path, registry: str) -> str:
    """The release with all that refers to it in a registry; its reference."""
    store = data / "store"
    index = json.loads((store / "index.json").read_bytes())
    tags = [
        item["annotations"]["org.opencontainers.image.ref.name"]
        for item in index["manifests"]
        if "org.opencontainers.image.ref.name" in item.get("annotations", {})
    ]
    for tag in tags:
        target = f"docker://{registry}/shop:{tag}"
        subprocess.run(["skopeo", "copy", "-q", "--all", "--dest-tls-verify=false", f"oci:{store}:{tag}", target], check=True)
    name = next(tag for tag in tags if tag.startswith("shop-"))
    return f"{registry}/shop:{name}"


@pytest.mark.parametrize("kind", ["slsaprovenance1", "cyclonedx"])
def test_cosign_verifies_the_attestations(sealed, crane, cosign, tmp_path, kind):
    data, _, said = sealed
    reference = f"{copied(data, crane).rpartition(':')[0]}@{said['release']}"
    flags = ("--insecure-ignore-tlog=true", "--allow-insecure-registry", "--type", kind)
    good = cosign(tmp_path, "verify-attestation", "--key", data / "keys" / "release.pub", *flags, reference)
    assert good.returncode == 0, good.stderr
    statements = [json.loads(base64.b64decode(json.loads(line)["payload"])) for line in good.stdout.splitlines() if line.startswith("{")]
    assert [item["subject"][0]["digest"]["sha256"] for item in statements] == [said["release"][7:]]
    shown = json.loads(stele(data, "inspect", "shop", "--sbom" if kind == "cyclonedx" else "--provenance"))
    assert statements[0]["predicate"] == shown
    stranger = tmp_path / "stranger"
    stele(stranger, "init", "--keys-only")
    assert cosign(tmp_path, "verify-attestation", "--key", stranger / "keys" / "release.pub", *flags, reference).returncode != 0


def check_schema(text: str, version: str = "1.6") -> None:
    """Against CycloneDX's own JSON schema, in its strict form where there is one."""
    folder = resources.files("cyclonedx.schema") / "_res"
    parts = {
        f"http://cyclonedx.org/schema/{name}{end}.schema.json": json.loads((folder / f"{name}.SNAPSHOT.schema.json").read_text("utf-8"))
        for name in ("spdx", "jsf-0.82")
        for end in ("", ".SNAPSHOT")
    }
    schema = json.loads((folder / f"bom-{version}.SNAPSHOT.schema.json").read_text("utf-8"))
    registry = jsonschema_rs.Registry(list(parts.items()), draft=jsonschema_rs.Draft7)
    jsonschema_rs.Draft7Validator(schema, registry=registry, validate_formats=True).validate(json.loads(text))


def test_the_sbom_is_cyclonedx_in_every_form(sealed):
    data, _, _ = sealed
    text = stele(data, "inspect", "shop", "--sbom")
    check_schema(text)
    bom = Bom.from_json(json.loads(text))
    assert bom.validate()
    assert {item.name for item in bom.components} == {"/bin/shop"}
    check_schema(stele(data, "inspect", "shop", "--sbom", "--as", "1.5-json"), "1.5")
    check_schema(stele(data, "inspect", "shop", "--sbom", "--as", "1.4-json"), "1.4")
    assert stele(data, "inspect", "shop", "--sbom", "--as", "1.6-xml").startswith("<?xml")


def test_a_release_without_them_says_so(sealed):
    data, _, said = sealed
    index = data / "store" / "index.json"
    plain = json.loads(index.read_bytes())
    plain["manifests"] = [
        item
        for item in plain["manifests"]
        if "artifactType" not in item and item["annotations"]["org.opencontainers.image.ref.name"] != f"sha256-{said['release'][7:]}"
    ]
    index.write_text(json.dumps(plain))
    assert "store.no-attestation" in stele(data, "inspect", "shop", "--sbom", fails=True)
