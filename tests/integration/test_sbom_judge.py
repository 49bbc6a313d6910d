"""The SBOM beside syft's of the same root: the same packages, and every difference has a name."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from stele.seal import packages, sources
from tests.judges import go_judge

# what syft finds that is no package of the application (docs/spec/sbom.md, Beside syft)
EXPLAINED = {"github-action", "github-action-workflow", "binary", "go-module"}


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


@pytest.mark.root
@pytest.mark.timeout(1800)  # syft may have to be built first
def test_syft_finds_the_same_packages(tmp_path):
    root = unpacked(tmp_path)
    syft = go_judge("github.com/anchore/syft/cmd/syft@v1.57.0")
    said = subprocess.run([str(syft), "scan", f"dir:{root}", "-q", "-o", "json"], capture_output=True, check=True, timeout=600).stdout
    theirs = {(item["type"], _name(item), item["version"]) for item in json.loads(said)["artifacts"]}
    with sources.load(root, kind="folder") as source:
        ours = {(found.ecosystem, found.name, found.version) for found in packages.find(source.tree, source.contents)}
    assert ours <= theirs
    more = {(kind, name) for kind, name, _ in theirs - ours if kind not in EXPLAINED}
    assert more <= {("npm", "app")}  # the lock file's own package
    assert {"deb", "python", "npm"} == {kind for kind, _, _ in ours}


def _name(item: dict[str, str]) -> str:
    return item["name"].lower().replace("_", "-") if item["type"] == "python" else item["name"]
