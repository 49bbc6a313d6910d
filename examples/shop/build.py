"""Build the shop's images: a root file system from the host's own distribution, plus the shop's files, as one OCI layout.

Run it as `python3 -m examples.shop.build`; it prints the path of the layout, which holds the images `v1` and `v2`.
Everything is kept in a cache outside the clone (`STELE_CACHE`, else `$XDG_CACHE_HOME/stele`, else `~/.cache/stele` of
the calling user), keyed by the recipe; it is built under a lock, beside its place, and renamed into it when whole.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from examples.caller import Caller, caller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).resolve().parent
VERSIONS = ("v1", "v2")
RECIPE = 1  # raise it when this file changes what it builds
# spawn-fcgi only keeps systemd out (fcgiwrap asks for one of the two)
PACKAGES = ("nginx", "fcgiwrap", "spawn-fcgi", "mount")
EXCLUDED = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*", "/usr/share/info/*")
EPOCH = 315_532_800  # 1980-01-01, the time of what the build makes itself
BUILD_LIMIT_S = 1800
# files of the build that say where it was made, or that change by themselves; device nodes are dropped by type
DROPPED = re.compile(
    r"(dev|proc|sys|run|tmp)/.|var/log/.*[^/]$|var/cache/(apt|ldconfig|debconf)/.|var/lib/apt/.|etc/(hostname|resolv\.conf|machine-id)$"
    r"|etc/apt/(sources\.list|apt\.conf\.d/99mmdebstrap|trusted\.gpg\.d/.)|var/lib/dpkg/.*-old$|etc/.*-$|var/(lib/nginx|www/html)/."
)
MEDIA = "application/vnd.oci.image."


class BuildError(Exception):
    """The build cannot be done; the message says why and what to do."""


def cache_folder(who: Caller) -> Path:
    """Where builds are kept; it belongs to the calling user, also under sudo."""
    given = os.environ.get("STELE_CACHE")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") if who.uid == os.getuid() else None
    return (Path(base) if base else who.home / ".cache") / "stele"


def suite() -> tuple[str, str]:
    """Distribution id and code name of this host, whose archive keys are here too.

    Raises:
        BuildError: the host is neither Debian nor Ubuntu.
    """
    facts = platform.freedesktop_os_release()
    if facts.get("ID") not in {"debian", "ubuntu"} or not facts.get("VERSION_CODENAME"):
        raise BuildError(
            f"the demo builds its application with mmdebstrap on Debian or Ubuntu; this is {facts.get('PRETTY_NAME', 'unknown')}"
        )
    return facts["ID"], facts["VERSION_CODENAME"]


def mirrors(distribution: str, codename: str) -> list[str]:
    """The host's own apt sources of this distribution and release, as one-line entries; empty: mmdebstrap's defaults."""
    fields = ("CREATED_BY", "REPO_URI", "RELEASE", "CODENAME", "ORIGIN", "COMPONENT", "SIGNED_BY")
    line = "|".join(f"$({field})" for field in fields)
    done = subprocess.run(["apt-get", "indextargets", "--format", line], capture_output=True, text=True, timeout=60, check=False)
    keyring = _keyring(distribution)
    found: dict[str, None] = {}
    for row in done.stdout.splitlines():
        created_by, uri, release, code, origin, component, signed_by = (row.split("|") + [""] * len(fields))[: len(fields)]
        names = {codename, f"{codename}-updates", f"{codename}-security"}
        if created_by != "Packages" or component not in {"main", "universe"} or not names & {release, code}:
            continue
        if origin.lower() not in {distribution, ""}:
            continue  # somebody else's repository for this release
        key = signed_by if signed_by.startswith("/") else keyring
        found[f"deb {f'[signed-by={key}] ' if key else ''}{uri} {release} {component}"] = None
    return list(found)


def _keyring(distribution: str) -> str:
    for ending in ("gpg", "pgp"):
        path = Path(f"/usr/share/keyrings/{distribution}-archive-keyring.{ending}")
        if path.exists():
            return str(path)
    return ""


def apt_options() -> list[str]:
    """How this host reaches its mirrors (proxies, certificates, clock checks): used for the build, never kept in the image."""
    done = subprocess.run(["apt-config", "dump", "--no-empty"], capture_output=True, text=True, timeout=60, check=False)
    wanted = re.compile(r'Acquire::(?:(?:http|https|ftp)::[^ ]+|Check-[^ ]+|Retries) "')
    return [line.strip() for line in done.stdout.splitlines() if wanted.match(line)]


def recipe_key(distribution: str, codename: str) -> str:
    """16 hex digits over everything that the base depends on, save the state of the archive."""
    said = json.dumps([RECIPE, distribution, codename, platform.machine(), PACKAGES, EXCLUDED, DROPPED.pattern])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def build(*, fresh: bool = False, say: Callable[[str], None] = print) -> Path:
    """Return the OCI layout of the shop, built if the cache lacks it.

    Args:
        fresh: build anew from the archive's present packages.
        say: told of each long step.

    Raises:
        BuildError: a tool is missing, or the archive cannot be reached.
    """
    who = caller()
    cache = cache_folder(who)
    who.make_folder(cache)
    distribution, codename = suite()
    key = recipe_key(distribution, codename)
    base = cache / f"shop-base-{key}.tar"
    with _locked(cache / "shop.lock", who, say):
        for leftover in cache.glob("shop-*.partial"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        if fresh or not base.exists():
            _build_base(base, distribution, codename, say)
            who.give(base)
        layout = cache / f"shop-{_content_key(base)}"
        if not layout.exists():
            _build_layout(layout, base, say)
            who.give(layout)
    return layout


@contextlib.contextmanager
def _locked(path: Path, who: Caller, say: Callable[[str], None]) -> Iterator[None]:
    with path.open("w") as file:
        who.give(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another build of the shop is under way; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build_base(base: Path, distribution: str, codename: str, say: Callable[[str], None]) -> None:
    if shutil.which("mmdebstrap") is None:
        raise BuildError("mmdebstrap is not installed; `apt-get install mmdebstrap` brings it")
    partial = base.with_suffix(".partial")
    say(f"building the root file system from {distribution} {codename} packages: {', '.join(PACKAGES)} (under a minute, once)")
    argv = ["mmdebstrap", "--variant=essential", "--format=tar", f"--include={','.join(PACKAGES)}"]
    argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED]
    argv += [f"--aptopt={option}" for option in apt_options()]
    hooks = Path("/usr/share/mmdebstrap/hooks/maybe-merged-usr")  # as Debian's installer does; keeps usrmerge and its perl out
    argv += [f"--hook-dir={hooks}"] if distribution == "debian" and hooks.is_dir() else []
    env = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH), "TMPDIR": "/var/tmp", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    with partial.open("wb") as out, (base.with_suffix(".log")).open("wb") as log:
        argv += [codename, "-", *mirrors(distribution, codename)]
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=env)
        assert child.stdout is not None
        try:
            _filter(child.stdout, out)
            status = child.wait(BUILD_LIMIT_S)
        except tarfile.TarError:
            child.stdout.close()
            status = child.wait(BUILD_LIMIT_S) or 1
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
        _sync(out)
    caller().give(base.with_suffix(".log"))
    if status != 0:
        partial.unlink()
        tail = base.with_suffix(".log").read_text("utf-8", "replace").strip().splitlines()[-6:]
        raise BuildError(
            f"mmdebstrap ended with status {status}:\n    " + "\n    ".join(tail) + f"\n  the whole log: {base.with_suffix('.log')}"
            "\n  is the archive reachable (`apt-get update`)?"
            + ("" if os.geteuid() == 0 else " Without root, mmdebstrap needs the package uidmap and a range in /etc/subuid.")
        )
    partial.rename(base)


def _filter(source: IO[bytes], sink: IO[bytes]) -> None:
    """Copy a tar stream without device nodes, caches, logs, and traces of the building host."""
    with tarfile.open(fileobj=source, mode="r|") as old, tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as new:
        for member in old:
            name = member.name.removeprefix("./").rstrip("/")
            if member.ischr() or member.isblk() or member.isfifo() or DROPPED.match(name):
                continue
            new.addfile(member, old.extractfile(member) if member.isreg() else None)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _shop_files() -> list[Path]:
    return sorted(path for folder in ("shared", *VERSIONS) for path in (HERE / folder).rglob("*") if path.is_file())


def _content_key(base: Path) -> str:
    """16 hex digits over the base (by name, size and time of its build) and the bytes of the shop's files."""
    stat = base.stat()
    state = hashlib.sha256(f"{base.name} {stat.st_size} {stat.st_mtime_ns} {RECIPE}".encode())
    for path in _shop_files():
        state.update(f"\0{path.relative_to(HERE)}\0".encode() + path.read_bytes())
    return state.hexdigest()[:16]


def _build_layout(layout: Path, base: Path, say: Callable[[str], None]) -> None:
    say("adding the shop, versions 1 and 2")
    partial = layout.with_suffix(".partial")
    blobs = partial / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    staged = blobs / "base"
    try:
        os.link(base, staged)
    except OSError:
        shutil.copyfile(base, staged)
    shared = _adopt(blobs, staged)
    manifests = [_image(blobs, shared, version) for version in VERSIONS]
    (partial / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (partial / "index.json").write_text(json.dumps({"schemaVersion": 2, "mediaType": MEDIA + "index.v1+json", "manifests": manifests}))
    os.sync()
    partial.rename(layout)


def _image(blobs: Path, base: dict[str, Any], version: str) -> dict[str, Any]:
    """Write the image of one version: the shared base and a layer with the shop's own files. Returns its descriptor."""
    (blobs / "layer").write_bytes(_shop_layer(version))
    layer = _adopt(blobs, blobs / "layer")
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Cmd": ["/usr/local/bin/shop"], "User": "33:33", "Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [base["digest"], layer["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MEDIA + "manifest.v1+json",
        "config": {"mediaType": MEDIA + "config.v1+json", **_add(blobs, json.dumps(config).encode())},
        "layers": [{"mediaType": MEDIA + "layer.v1.tar", **one} for one in (base, layer)],
    }
    return {
        "mediaType": MEDIA + "manifest.v1+json",
        **_add(blobs, json.dumps(manifest).encode()),
        "annotations": {"org.opencontainers.image.ref.name": version},
    }


def _add(blobs: Path, data: bytes) -> dict[str, Any]:
    (blobs / "new").write_bytes(data)
    return _adopt(blobs, blobs / "new")


def _adopt(blobs: Path, path: Path) -> dict[str, Any]:
    """Give a file its digest as name; returns the digest and size of its descriptor."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    path.rename(blobs / digest)
    return {"digest": f"sha256:{digest}", "size": size}


def _shop_layer(version: str) -> bytes:
    """The shop's own files as a tar: launcher, CGI, style, site, catalogue, and this version's settings."""
    own, shared = HERE / version, HERE / "shared"
    files = {
        "usr/local/bin/shop": (shared / "shop", 0o755),
        "usr/lib/cgi-bin/lookup": (shared / "lookup", 0o755),
        "srv/shop/site/index.html": (own / "site" / "index.html", 0o644),
        "srv/shop/site/style.css": (shared / "style.css", 0o644),
        "srv/shop/products.txt": (own / "products.txt", 0o644),
        # also a setting of the spec: here for runtimes that know nothing of Stele
        "etc/nginx/nginx.conf": (own / "nginx.conf", 0o644),
    }
    folders = sorted({str(parent) for name in files for parent in Path(name).parents} - {"."})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for folder in folders:
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, EPOCH
            tar.addfile(entry)
        for name, (path, mode) in sorted(files.items()):
            data = path.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(data), mode, EPOCH
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def main() -> int:
    """Build and print where the layout is."""
    parser = argparse.ArgumentParser(prog="examples.shop.build", description="Build the demo shop as an OCI layout (images v1 and v2).")
    parser.add_argument("--fresh", action="store_true", help="build anew from the archive's present packages")
    options = parser.parse_args()
    begun = time.monotonic()
    try:
        layout = build(fresh=options.fresh, say=lambda text: print(text, file=sys.stderr, flush=True))
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"took {time.monotonic() - begun:.1f} s", file=sys.stderr)
    print(layout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
