"""The locked Python dependencies for a guest's own Python, as an EROFS image that it mounts at /site."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.qemu import cache, image

CLONE = Path(__file__).resolve().parents[2]
RECIPE = 3
# every wheel tag that glibc 2.28 satisfies; both guests are newer
PLATFORM = "x86_64-manylinux_2_28"
SYSTEM_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


def site(suite: image.Suite) -> Path:
    """The cached image for `suite`; made (a few seconds, network) when uv.lock names other versions than last time.

    Raises:
        image.BuildError: it could not be made.
    """
    requirements = _uv("export", "--frozen", "--quiet", "--no-default-groups", "--group", "guest", "--no-emit-project", "--no-header")
    key = hashlib.sha256(f"{RECIPE}\n{PLATFORM}\n{suite.python}\n{requirements}".encode()).hexdigest()[:16]

    def build(folder: Path) -> None:
        wanted = folder / "requirements.txt"
        wanted.write_text(requirements)
        _uv(
            *("pip", "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"),
            *("--python-version", suite.python, "--python-platform", PLATFORM, "--python", sys.executable),
            *("--target", str(folder / "site"), "-r", str(wanted)),
        )
        _compile(image.image(suite), folder / "site")
        packed = subprocess.run(
            # -T0 makes sources older than their bytecode, which therefore carries unchecked hashes, no times
            ["mkfs.erofs", "--all-root", "-T0", str(folder / "site.erofs"), str(folder / "site")],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if packed.returncode != 0:
            raise image.BuildError(f"mkfs.erofs failed:\n{packed.stderr}\n  remedy: is the cache folder full?")
        shutil.rmtree(folder / "site")

    return cache.made_once(f"site-{suite.name}-{key}", build) / "site.erofs"


def _compile(booted: image.Image, folder: Path) -> None:
    """Bytecode by the guest's own Python: it cannot keep any on a read-only image, and emulated compiling takes 10 s."""
    if os.geteuid() != 0:
        return  # it works all the same, slower
    with tempfile.TemporaryDirectory(prefix="stele-root-") as root:
        script = (
            'mount -o loop,ro,noload "$1" "$2" && mount --bind "$3" "$2/site" && '
            'exec chroot "$2" python3 -m compileall -q --invalidation-mode unchecked-hash /site'
        )
        # its own mount namespace: nothing stays mounted, however it ends
        argv = ["unshare", "--mount", "sh", "-c", script, "sh", str(booted.root), root, str(folder)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode != 0:
            raise image.BuildError(
                f"compiling the guest's dependencies failed:\n{(done.stdout + done.stderr)[-2000:]}\n"
                "  remedy: is there a free loop device (losetup -f)?"
            )


def _uv(*arguments: str) -> str:
    environment = dict(os.environ)
    if "SSL_CERT_FILE" not in environment and Path(SYSTEM_BUNDLE).is_file():
        environment["SSL_CERT_FILE"] = SYSTEM_BUNDLE  # uv brings its own roots; a private CA is only in the system's
    uv = Path(sys.executable).with_name("uv")
    try:
        done = subprocess.run(
            [str(uv), *arguments],
            cwd=CLONE,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise image.BuildError(f"{uv} is missing.\n  remedy: scripts/bootstrap test, then use .venv/bin/python") from error
    if done.returncode != 0:
        raise image.BuildError(
            f"uv {arguments[0]} failed:\n{done.stderr.strip()[-2000:]}\n"
            "  remedy: check that the package index can be reached; `uv lock` after a change of pyproject.toml"
        )
    return done.stdout
