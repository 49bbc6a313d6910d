"""Real package managers upgrade one package of many: its stratum changes, and that of the database, and no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stele.flow import initialise, opening, sealing
from stele.flow.places import Places
from stele.host import immutable
from stele.model.release import Release
from stele.store.layout import Layout
from tests.distributed import quiet

NAMES = [f"part{number}" for number in range(12)]
SIZE = 3 << 20  # of each package: together they are in several strata


def content(name: str, version: str) -> bytes:
    return f"{name} {version}\n".encode() + bytes(SIZE)


def run(*argv: object, cwd: Path | None = None) -> None:
    env = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}  # dpkg wants to find its helpers
    words = [str(word) for word in argv]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, cwd=cwd, env=env)
    assert done.returncode == 0, done


class Sealed:
    """A folder that is sealed before and after."""

    def __init__(self, folder: Path) -> None:
        self.places, self.root = Places(folder / "data"), folder / "root"
        initialise.make_keys(self.places)
        (self.root / "srv").mkdir(parents=True)
        (self.root / "srv" / "own").write_bytes(b"no package's")
        self.spec = folder / "stele.yaml"
        self.spec.write_text(json.dumps({"stele": 0, "name": "app", "command": ["/srv/own"]}))

    def seal(self) -> tuple[dict[str, str], Release, Layout]:
        told = sealing.seal(self.places, self.root, self.spec, options=sealing.Options(), say=quiet, record=quiet)
        store = opening.open_store(self.places)
        return {item["name"]: item["diff_id"] for item in told["strata"]}, store.find(told["release"]), store

    def changed(self, upgrade: Callable[[], None], path: str) -> tuple[set[str], str, set[str]]:
        """Strata that an upgrade changes, the one that the file of the package is in, and all."""
        before, _, _ = self.seal()
        upgrade()
        after, release, store = self.seal()
        assert before.keys() == after.keys()
        (home,) = [item.name for item in release.strata for node in store.nodes(item) if node.path == path.encode() and node.kind == "file"]
        return {name for name, digest in after.items() if before[name] != digest}, home, set(after)


@pytest.fixture
def sealed(tmp_path):
    yield Sealed(tmp_path)
    for path in tmp_path.glob("data/store/erofs/*"):
        immutable.make_mutable(path)


# --- dpkg


def deb(folder: Path, name: str, version: str) -> Path:
    tree = folder / f"{name}-{version}"
    files = {f"usr/lib/{name}/data": content(name, version), f"usr/share/doc/{name}/changelog": version.encode()}
    files[f"usr/lib/{name}/only-{version}"] = b"this version has it"
    control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: nobody <nobody@example.com>\nDescription: a part\n"
    for path, data in {**files, "DEBIAN/control": control.encode()}.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        (tree / path).write_bytes(data)
    run("dpkg-deb", "-Znone", "-b", tree, folder / f"{name}_{version}.deb")
    return folder / f"{name}_{version}.deb"


@pytest.mark.needs("dpkg-deb")
def test_an_upgrade_by_dpkg_changes_the_stratum_of_its_package_and_the_database(sealed, tmp_path):
    admin = sealed.root / "var/lib/dpkg"
    for path in ("info", "updates", "triggers"):
        (admin / path).mkdir(parents=True)
    (admin / "status").touch()
    (sealed.root / "var/log").mkdir()
    force = [] if os.geteuid() == 0 else ["--force-not-root"]
    dpkg = ["dpkg", f"--root={sealed.root}", f"--log={sealed.root}/var/log/dpkg.log", *force, "-i"]
    run(*dpkg, *(deb(tmp_path, name, "1.0-1") for name in NAMES))
    newer = deb(tmp_path, "part5", "1.1-1")
    changed, home, everything = sealed.changed(lambda: run(*dpkg, newer), "usr/lib/part5/only-1.1-1")
    assert not (sealed.root / "usr/lib/part5/only-1.0-1").exists()
    assert home.startswith("system")
    assert changed == {home, "database"}
    assert len(everything) >= 5, everything  # several of the system's, which stayed


# --- pip


def wheel(folder: Path, name: str, version: str) -> Path:
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr(f"{name}/__init__.py", f"version = {version!r}\n")
        out.writestr(f"{name}/data", content(name, version))
        out.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        out.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        out.writestr(f"{info}/RECORD", "")
    return path


def test_an_upgrade_by_pip_changes_the_stratum_of_its_package(sealed, tmp_path):
    place = sealed.root / "srv/env"
    run(sys.executable, "-m", "venv", "--without-pip", place)
    pip = [sys.executable, "-m", "pip", "--python", place / "bin/python", "--disable-pip-version-check", "install", "--no-index"]
    run(*pip, *(wheel(tmp_path, name, "1.0") for name in NAMES))
    newer = wheel(tmp_path, "part5", "1.1")
    (site,) = (place / "lib").glob("python*/site-packages")
    path = str((site / "part5-1.1.dist-info/METADATA").relative_to(sealed.root))
    changed, home, everything = sealed.changed(lambda: run(*pip, newer), path)
    assert not (site / "part5-1.0.dist-info").exists()
    assert home.startswith("python")
    assert changed == {home}  # what pip knows of a package lies with it
    assert len(everything) >= 4, everything


# --- npm


def module(folder: Path, name: str, version: str) -> Path:
    tree = folder / f"{name}-{version}"
    tree.mkdir()
    (tree / "package.json").write_text(json.dumps({"name": name, "version": version, "license": "MIT"}))
    (tree / "data").write_bytes(content(name, version))
    run("npm", "pack", "--offline", "--cache", folder / "cache", "--pack-destination", folder, cwd=tree)
    return folder / f"{name}-{version}.tgz"


@pytest.mark.needs("npm")
def test_an_upgrade_by_npm_changes_the_stratum_of_its_package_and_the_database(sealed, tmp_path):
    npm = ["npm", "install", "--offline", "--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--cache", tmp_path / "cache"]
    modules = {name: module(tmp_path, name, "1.0.0") for name in NAMES}
    at = sealed.root / "srv"
    run(*npm, *modules.values(), cwd=at)
    modules["part5"] = module(tmp_path, "part5", "1.1.0")
    changed, home, everything = sealed.changed(lambda: run(*npm, *modules.values(), cwd=at), "srv/node_modules/part5/package.json")
    assert json.loads((at / "node_modules/part5/package.json").read_bytes())["version"] == "1.1.0"
    assert home.startswith("npm")
    assert changed == {home, "database"}  # node_modules/.package-lock.json
    assert len(everything) >= 5, everything
