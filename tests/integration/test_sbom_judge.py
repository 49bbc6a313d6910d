"""The SBOM beside syft's of the same root: the same packages, and every difference has a name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

import pytest

from tests import system_roots
from tests.judges import go_judge

# what syft lists and the SBOM does not, each with why (docs/spec/sbom.md, Beside syft)
EXPLAINED = {
    "pkg:github/actions/checkout@v4": "named by a workflow file that came with an npm package: it is not in the application",
    "pkg:rpm/fedora/gpg-pubkey@ab56064a-6b0a3728?distro=fedora-40": "a key that rpm keeps among its packages: no file of it is there",
    "pkg:npm/app": "the lock file's own project, which is the application itself and has no version there",
}


def unpacked(tmp: Path) -> Path:
    """A Debian root with a Python distribution and npm packages in it."""
    root = tmp / "root"
    root.mkdir()
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=essential", "--include=python3-minimal", "--format=directory", "bookworm", str(root)],
        check=True,
    )
    wheel = tmp / "My_Tool-1.5-py3-none-any.whl"
    info = "My_Tool-1.5.dist-info"
    with zipfile.ZipFile(wheel, "w") as out:
        out.writestr("my_tool/__init__.py", "x = 1\n")
        out.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: My_Tool\nVersion: 1.5\nLicense: MIT\n")
        out.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        out.writestr(f"{info}/RECORD", "")
    site = root / "usr/local/lib/python3.11/dist-packages"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--disable-pip-version-check", f"--target={site}"]
    subprocess.run([*pip, "--root-user-action=ignore", str(wheel)], check=True)
    npm = (("a", "a"), ("a/node_modules/b", "b"), ("@scope/c", "@scope/c"))
    for folder, name in npm:
        here = root / "srv/app/node_modules" / folder
        here.mkdir(parents=True)
        (here / "package.json").write_text(json.dumps({"name": name, "version": "1.2.3", "license": "MIT"}))
        (here / ".github/workflows").mkdir(parents=True)
        (here / ".github/workflows/ci.yml").write_text("on: push\njobs: {a: {runs-on: x, steps: [{uses: actions/checkout@v4}]}}\n")
    # of a folder, syft believes the lock file
    locked = {f"node_modules/{folder}": {"version": "1.2.3", "license": "MIT"} for folder, _ in npm}
    lock = {"name": "app", "version": "1.0.0", "lockfileVersion": 3, "requires": True, "packages": {"": {"name": "app"}, **locked}}
    (root / "srv/app/package-lock.json").write_text(json.dumps(lock))
    return root


class Sealed(NamedTuple):
    """The strata of a release, by name, and the packages of the SBOM that comes with it: purls and their licences."""

    strata: dict[str, str]
    packages: dict[str, list[str]]


def sealed(root: Path, tmp: Path) -> Sealed:
    """A root sealed by the command, into the data folder of `tmp`."""
    stele = [sys.executable, "-m", "stele", "--data", str(tmp / "data")]
    if not (tmp / "data").exists():
        (tmp / "stele.yaml").write_text('{"stele": 0, "name": "app", "command": ["/bin/sh"]}')
        subprocess.run([*stele, "init", "--keys-only"], check=True, capture_output=True)
    seal = [*stele, "seal", str(root), "-f", str(tmp / "stele.yaml"), "--json"]
    said = json.loads(subprocess.run(seal, check=True, capture_output=True).stdout)
    bom = json.loads(subprocess.run([*stele, "inspect", said["release"], "--sbom"], check=True, capture_output=True).stdout)
    packages = [item for item in bom["components"] if item["type"] == "library"]
    licences = {normal(item["purl"]): [spoken(each) for each in item.get("licenses", [])] for item in packages}
    assert len(licences) == len(packages)
    return Sealed({item["name"]: item["diff_id"] for item in said["strata"]}, licences)


def spoken(choice: dict[str, Any]) -> str:
    return choice.get("expression") or choice["license"].get("id") or choice["license"]["name"]


def by_syft(root: Path) -> dict[str, list[str]]:
    """The packages that syft finds: purls and their licences."""
    syft = go_judge("github.com/anchore/syft/cmd/syft@v1.57.0")
    said = subprocess.run([str(syft), "scan", f"dir:{root}", "-q", "-o", "json"], capture_output=True, check=True, timeout=600).stdout
    return {normal(item["purl"]): [each["value"] for each in item["licenses"]] for item in json.loads(said)["artifacts"]}


def only_its_own_stratum_changed(one: Sealed, two: Sealed) -> None:
    """One package is newer: its stratum changed and the package manager's database, and there is another stratum of packages."""
    assert one.strata.keys() == two.strata.keys()
    changed = {name for name in one.strata if one.strata[name] != two.strata[name]}
    system = {name for name in one.strata if name.startswith("system")}
    assert len(system) > 1
    assert "database" in changed
    assert len(changed) == len(changed & system) + 1 == 2, changed


def normal(purl: str) -> str:
    """A purl as both can be compared: decoded (syft writes an epoch's colon as %3A), without the point release that syft adds."""
    return re.sub(r"distro=debian-12\.[0-9]+", "distro=debian-12", unquote(purl))


@pytest.mark.root
@pytest.mark.timeout(1800)  # syft may have to be built first
def test_the_written_sbom_names_the_packages_that_syft_finds(tmp_path):
    root = unpacked(tmp_path)
    ours, theirs = sealed(root, tmp_path).packages, by_syft(root)
    assert ours.keys() - theirs.keys() == set()
    assert theirs.keys() - ours.keys() == {name for name in EXPLAINED if "/fedora/" not in name}
    assert {"deb", "pypi", "npm"} == {item.partition("/")[0].removeprefix("pkg:") for item in ours}


@pytest.mark.root
@pytest.mark.needs("rpm", "rpmbuild")
@pytest.mark.timeout(1800)
def test_packages_that_rpm_installed_are_those_that_syft_and_rpm_name_and_an_upgrade_changes_one_stratum(tmp_path):
    """Sub-packages, an epoch, a library for two architectures and a key among the packages; rpm installs and upgrades."""
    root, newer = system_roots.fedora(tmp_path)
    one = sealed(root, tmp_path)
    theirs = by_syft(root)
    assert {name: theirs[name] for name in theirs.keys() - EXPLAINED.keys()} == one.packages
    assert theirs.keys() - one.packages.keys() == {name for name in EXPLAINED if "/fedora/" in name}
    asked = system_roots.rpm(root, "-qa", "--qf", "%{NAME} %|EPOCH?{%{EPOCH}}:{0}| %{VERSION}-%{RELEASE} %{ARCH}\n").splitlines()
    assert sorted(map(as_rpm, one.packages)) == sorted(line for line in asked if not line.startswith("gpg-pubkey"))
    assert one.packages["pkg:rpm/fedora/shop@2.0-1.fc40?arch=x86_64&distro=fedora-40&epoch=3&upstream=shop-2.0-1.fc40.src.rpm"] == [
        system_roots.LICENCE
    ]
    system_roots.rpm(root, "-U", "--nodeps", "--ignoreos", newer)
    two = sealed(root, tmp_path)
    assert {as_rpm(name) for name in two.packages.keys() ^ one.packages.keys()} == {
        "engine 0 1.0-1.fc40 noarch",
        "engine 0 1.1-1.fc40 noarch",
    }
    only_its_own_stratum_changed(one, two)


def as_rpm(purl: str) -> str:
    """`NAME EPOCH VERSION-RELEASE ARCH` of a purl."""
    (name, version), more = purl.partition("?")[0].rpartition("/")[2].split("@"), dict(parse_qsl(purl.partition("?")[2]))
    return f"{name} {more.get('epoch', '0')} {version} {more['arch']}"


@pytest.mark.root
@pytest.mark.timeout(1800)
def test_packages_that_apk_installed_are_those_that_syft_names_and_a_newer_one_changes_one_stratum(tmp_path):
    """go-apk installs archives of Alpine's and Wolfi's own builders, and others packed by the test for sub-packages and sizes.

    There is no apk here, and go-apk does not upgrade: the newer package is in a root of its own, made in the same way.
    """
    root = system_roots.alpine(tmp_path, "one")
    one = sealed(root, tmp_path)
    assert by_syft(root) == one.packages
    assert {purl.partition("?")[0].removeprefix("pkg:apk/alpine/") for purl in one.packages} == {
        "alpine-baselayout@3.2.0-r23", "hello-wolfi@2.12.1-r0",
        "alpine-release@3.16.9-r0", "shop@2.0-r1", "shop-libs@2.0-r1", "engine@1.0-r0", "model@1.0-r0",
    }  # fmt: skip
    assert one.packages["pkg:apk/alpine/shop-libs@2.0-r1?arch=aarch64&distro=alpine-3.16.9&upstream=shop"] == ["LGPL-2.1-or-later"]
    assert one.packages["pkg:apk/alpine/shop@2.0-r1?arch=aarch64&distro=alpine-3.16.9"] == [system_roots.LICENCE]
    two = sealed(system_roots.alpine(tmp_path, "two", engine="1.1-r0"), tmp_path)
    assert len(two.packages.keys() ^ one.packages.keys()) == 2
    only_its_own_stratum_changed(one, two)


@pytest.mark.parametrize("name", system_roots.REAL)
@pytest.mark.timeout(1800)
def test_databases_that_rpm_left_in_images_of_many_systems_name_what_syft_names(tmp_path, name):
    """Berkeley DB in both byte orders, ndb and SQLite."""
    which = system_roots.REAL[name]
    root = system_roots.real(tmp_path, which)
    theirs = {purl: licences for purl, licences in by_syft(root).items() if "/gpg-pubkey@" not in purl}
    assert sealed(root, tmp_path).packages.keys() == theirs.keys()
    assert len(theirs) == which.count
