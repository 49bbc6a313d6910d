"""Judges that no package archive has: built once from their own registries, kept in the cache folder outside the clone.

Go programs are built with a toolchain that is itself a Go module, so that whichever `go` the host has will do. Sums are
checked by Go's checksum database, and by npm's lock file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.qemu import cache

GO = "1.27.3"


def go_judge(package: str, *, toolchain: str = GO) -> Path:
    """A Go program, e.g. `go_judge("github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3")`: the path of its binary.

    The version must be exact. The first call takes minutes, later ones nothing.
    """
    path, _, version = package.partition("@")
    name = path.rpartition("/")[2]

    def build(into: Path) -> None:
        go = _toolchain(toolchain)
        env = {**os.environ, "GOBIN": str(into), "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false", "CGO_ENABLED": "0"}
        subprocess.run([go, "install", "-ldflags=-s -w", package], env=env, check=True, cwd=into)

    return cache.made_once(f"judge-{name}-{version}-go{toolchain}".replace("-go", "_go"), build) / name


def go_main(folder: Path, *, toolchain: str = GO) -> Path:
    """A Go program of a few lines that only puts a published package to use: `folder` has main.go, go.mod and go.sum."""
    digest = hashlib.sha256(b"".join((folder / name).read_bytes() for name in ("main.go", "go.mod", "go.sum"))).hexdigest()[:16]

    def build(into: Path) -> None:
        env = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false -mod=readonly", "CGO_ENABLED": "0"}
        argv = [_toolchain(toolchain), "build", "-ldflags=-s -w", "-o", str(into / folder.name), "."]
        subprocess.run(argv, env=env, check=True, cwd=folder)

    return cache.made_once(f"judge-{folder.name}-{digest}_go{toolchain}", build) / folder.name


def go_module(module: str, *parts: str) -> Path:
    """A folder with some files and folders of a Go module, its test data for example. The version must be exact."""
    name, _, version = module.rpartition("/")[2].partition("@")

    def build(into: Path) -> None:
        env = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod"}
        done = subprocess.run(["go", "mod", "download", "-json", module], env=env, check=True, capture_output=True, cwd="/")
        found = json.loads(done.stdout)["Dir"]  # whose folders nobody may write to
        subprocess.run(["cp", "-r", "--no-preserve=mode", "--parents", *parts, str(into)], check=True, cwd=found)

    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
    return cache.made_once(f"judge-module-{name}-{version}_{digest}", build)


def npm_judge(name: str, lock: Path) -> Path:
    """A folder with `node_modules` as `lock` (a package-lock.json beside its package.json) says."""
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]

    def build(into: Path) -> None:
        for part in (lock, lock.with_name("package.json")):
            shutil.copy(part, into)
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=into, check=True)

    return cache.made_once(f"judge-{name}-{digest}", build)


def pypi_program(name: str, requirements: Path) -> Path:
    """A program that a wheel carries, as `requirements` pins it by hash; installed beside nothing else."""
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:16]

    def build(into: Path) -> None:
        argv = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-input", "--no-deps", "--no-compile"]
        argv += ["--only-binary=:all:", "--require-hashes", "--target", str(into), "-r", str(requirements)]
        subprocess.run(argv, check=True)

    folder = cache.made_once(f"judge-{name}-{digest}", build)
    return next(path for path in folder.rglob(name) if path.parent.name == "bin" and path.stat().st_size > 1 << 20)


def _toolchain(version: str) -> str:
    module = f"golang.org/toolchain@v0.0.1-go{version}.linux-{'arm64' if os.uname().machine == 'aarch64' else 'amd64'}"
    env = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod"}
    done = subprocess.run(["go", "mod", "download", "-json", module], env=env, check=True, capture_output=True, cwd="/")
    root = Path(json.loads(done.stdout)["Dir"])
    for folder in (root / "bin", *(root / "pkg" / "tool").glob("*")):
        for program in folder.iterdir():  # the module cache drops the bit that makes it a program
            program.chmod(0o755)
    return str(root / "bin" / "go")
