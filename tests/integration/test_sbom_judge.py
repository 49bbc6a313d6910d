"""The SBOM beside syft's of the same root: the same packages, and every difference has a name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.judges import go_judge

# what syft lists and the SBOM does not, each with why (docs/spec/sbom.md, Beside syft)
EXPLAINED = {
    "pkg:github/actions/checkout@v4": "named by a workflow file that came with an npm package: it is not in the application",
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


def written(root: Path, tmp: Path) -> list[str]:
    """The purls of the SBOM that comes with a release of this root."""
    (tmp / "stele.yaml").write_text('{"stele": 0, "name": "app", "command": ["/bin/sh"]}')
    stele = [sys.executable, "-m", "stele", "--data", str(tmp / "data")]
    subprocess.run([*stele, "init", "--keys-only"], check=True, capture_output=True)
    subprocess.run([*stele, "seal", str(root), "-f", str(tmp / "stele.yaml")], check=True, capture_output=True)
    bom = json.loads(subprocess.run([*stele, "inspect", "app", "--sbom"], check=True, capture_output=True).stdout)
    return [item["purl"] for item in bom["components"] if item["type"] == "library"]


def normal(purl: str) -> str:
    """A purl as both can be compared: decoded (syft writes an epoch's colon as %3A), without the point release that syft adds."""
    return re.sub(r"distro=debian-12\.[0-9]+", "distro=debian-12", unquote(purl))


@pytest.mark.root
@pytest.mark.timeout(1800)  # syft may have to be built first
def test_the_written_sbom_names_the_packages_that_syft_finds(tmp_path):
    root = unpacked(tmp_path)
    syft = go_judge("github.com/anchore/syft/cmd/syft@v1.57.0")
    said = subprocess.run([str(syft), "scan", f"dir:{root}", "-q", "-o", "json"], capture_output=True, check=True, timeout=600).stdout
    found = json.loads(said)["artifacts"]
    ours = {normal(item) for item in written(root, tmp_path)}
    theirs = {normal(item["purl"]) for item in found}
    assert ours - theirs == set()
    assert theirs - ours == set(EXPLAINED)
    assert {"deb", "pypi", "npm"} == {item.partition("/")[0].removeprefix("pkg:") for item in ours}
