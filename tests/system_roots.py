"""Root file systems of rpm and apk, by the programs of their fields: rpmbuild and rpm, and go-apk (a whole apk in Go)."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import NamedTuple

from tests.judges import go_main, go_module

LICENCE = "MIT AND (Apache-2.0 OR GPL-2.0-or-later)"
LARGE = 9 << 20  # two such packages are more than one stratum holds
KEY = """-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEawo3KBYJKwYBBAHaRw8BAQdAYzIqa0kEUhv9U3ynFZ/oo5fCYZ3z0ZqFy2DP
f8OZhA20GXRlc3QgPHRlc3RAc3RlbGUuaW52YWxpZD6IkAQTFggAOBYhBOx0UA22
QVZGjT3Il4vvvZ2rVgZKBQJrCjcoAhsDBQsJCAcCBhUKCQgLAgQWAgMBAh4BAheA
AAoJEIvvvZ2rVgZKna0A/RZTPukN1KT16lxtnwqw5qI6lTLZ9QrkVorxsHHa7Qgp
AQDvwqSCYBhK0/fjxOIyBAKKMx2tVe+aZPJNJMqYQA7JDA==
=P0M7
-----END PGP PUBLIC KEY BLOCK-----
"""  # anybody's; rpm keeps keys among its packages

_SPEC = f"""
%global debug_package %{{nil}}
%global __os_install_post %{{nil}}
Name: shop
Version: 2.0
Release: 1.fc40
Epoch: 3
Summary: x
License: {LICENCE}
Provides: bundled(zlib) = 1.3
%description
x
%package libs
Summary: x
License: LGPL-2.1-or-later
%description libs
x
%package doc
Summary: x
BuildArch: noarch
%description doc
x
%install
mkdir -p %{{buildroot}}/usr/bin %{{buildroot}}/usr/lib/%{{_target_cpu}} %{{buildroot}}/usr/share/doc/shop %{{buildroot}}/etc
echo shop > %{{buildroot}}/usr/bin/shop
echo %{{_target_cpu}} > %{{buildroot}}/usr/lib/%{{_target_cpu}}/libshop.so.1
ln -s libshop.so.1 %{{buildroot}}/usr/lib/%{{_target_cpu}}/libshop.so
echo read > %{{buildroot}}/usr/share/doc/shop/README
echo a=1 > %{{buildroot}}/etc/shop.conf
%post -p <lua>
posix.stat("/")
%files
%attr(4755, root, root) /usr/bin/shop
%config(noreplace) /etc/shop.conf
%ghost /etc/shop.state
%files libs
/usr/lib/%{{_target_cpu}}
%files doc
%doc /usr/share/doc/shop
"""
_LARGE = """
Name: {name}
Version: {version}
Release: 1.fc40
Summary: x
License: BSD-3-Clause
BuildArch: noarch
%description
x
%install
mkdir -p %{{buildroot}}/usr/share/{name}
head -c {size} /dev/zero > %{{buildroot}}/usr/share/{name}/data
echo {version} > %{{buildroot}}/usr/share/{name}/version
%files
/usr/share/{name}
"""
_RELEASE = """
Name: fedora-release-common
Version: 40
Release: 39
Summary: x
License: MIT
BuildArch: noarch
%description
x
%install
mkdir -p %{buildroot}/usr/lib %{buildroot}/etc
printf 'NAME="Fedora Linux"\\nID=fedora\\nVERSION_ID=40\\n' > %{buildroot}/usr/lib/os-release
ln -s ../usr/lib/os-release %{buildroot}/etc/os-release
%files
/usr/lib/os-release
/etc/os-release
"""


def _rpms(top: Path, spec: str, target: str = "x86_64") -> list[Path]:
    top.mkdir()
    (top / "x.spec").write_text(spec)
    define = [f"--define=_topdir {top}", "--define=_binary_payload w1.gzdio"]
    subprocess.run(["rpmbuild", "-bb", "--quiet", "--target", target, *define, str(top / "x.spec")], check=True, capture_output=True)
    return sorted(top.rglob("*.rpm"))


def rpm(root: Path, *argv: str | Path) -> str:
    """What rpm does to, or says of, the packages of a root."""
    command = ["rpm", f"--root={root}", "--define=_dbpath /usr/lib/sysimage/rpm", "--define=_db_backend sqlite"]
    return subprocess.run([*command, *map(str, argv)], check=True, capture_output=True, text=True).stdout


def fedora(tmp: Path) -> tuple[Path, Path]:
    """A root that rpm has installed packages in, and a package that is newer than the one there."""
    root = tmp / "root"
    root.mkdir()
    files = _rpms(tmp / "shop", _SPEC)
    files += [path for path in _rpms(tmp / "shop32", _SPEC, "i686") if "-libs-" in path.name]
    files += _rpms(tmp / "release", _RELEASE)
    for name in ("engine", "model"):
        files += _rpms(tmp / name, _LARGE.format(name=name, version="1.0", size=LARGE))
    rpm(root, "-i", "--nodeps", "--ignoreos", "--ignorearch", *files)
    (tmp / "key.asc").write_text(KEY)
    rpm(root, "--import", tmp / "key.asc")
    (newer,) = _rpms(tmp / "newer", _LARGE.format(name="engine", version="1.1", size=LARGE))
    return root, newer


class Real(NamedTuple):
    """A database that rpm left in an image that people use: its place in the test data of go-rpmdb and in a root, and who it is of."""

    data: str
    place: str
    release: str
    count: int


REAL = {
    "centos-6": Real("centos6-plain/Packages", "var/lib/rpm/Packages", 'ID="centos"\nVERSION_ID="6"\n', 129),
    "centos-7": Real("centos7-plain/Packages", "var/lib/rpm/Packages", 'ID="centos"\nVERSION_ID="7"\n', 144),
    "rhel-8-s390x": Real("ubi8-s390x/Packages", "var/lib/rpm/Packages", 'ID="rhel"\nVERSION_ID="8.4"\n', 181),
    "sles-15": Real("sle15-bci/Packages.db", "usr/lib/sysimage/rpm/Packages.db", 'ID="sles"\nVERSION_ID="15.3"\n', 35),
    "opensuse-leap": Real("sle15-bci/Packages.db", "var/lib/rpm/Packages.db", 'ID="opensuse-leap"\nVERSION_ID="15.3"\n', 35),
    "fedora-35": Real("fedora35/rpmdb.sqlite", "var/lib/rpm/rpmdb.sqlite", "ID=fedora\nVERSION_ID=35\n", 137),
    "mariner-2": Real("cbl-mariner-2.0/rpmdb.sqlite", "var/lib/rpm/rpmdb.sqlite", 'ID=mariner\nVERSION_ID="2.0"\n', 129),
}


def real(tmp: Path, which: Real) -> Path:
    """A root with a real database, and nothing of what it speaks of."""
    data = [f"pkg/testdata/{each.data}" for each in REAL.values()]
    found = go_module("github.com/knqyf263/go-rpmdb@v0.1.1", *data) / "pkg/testdata" / which.data
    root = tmp / "root"
    for name in (which.place, "etc/os-release"):
        (root / name).parent.mkdir(parents=True)
    shutil.copyfile(found, root / which.place)
    (root / "etc/os-release").write_text(which.release)
    return root


class Apk(NamedTuple):
    """A package that `packed` writes: the lines of its .PKGINFO besides the usual ones, and its files."""

    name: str
    version: str
    info: tuple[str, ...]
    files: tuple[tuple[str, bytes], ...]


def _segment(members: dict[str, bytes], *, end: bool) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        folders = {str(folder) for name in members for folder in Path(name).parents} - {"."}
        for name in sorted({*members, *folders}):
            info = tarfile.TarInfo(name)
            info.mode = 0o755 if name in folders else 0o644
            info.type = tarfile.DIRTYPE if name in folders else tarfile.REGTYPE
            info.size = len(members.get(name, b""))
            if name in members and not name.startswith("."):
                info.pax_headers = {"APK-TOOLS.checksum.SHA1": hashlib.sha1(members[name], usedforsecurity=False).hexdigest()}
            tar.addfile(info, io.BytesIO(members.get(name, b"")))
        length = tar.offset
    return gzip.compress(out.getvalue() if end else out.getvalue()[:length], 1, mtime=0)


def packed(folder: Path, package: Apk) -> Path:
    """An apk file (Alpine's package format 2, unsigned): a tar of .PKGINFO and scripts without its end, then one of the files."""
    data = _segment(dict(package.files), end=True)
    lines = [
        f"pkgname = {package.name}", f"pkgver = {package.version}", "pkgdesc = x", "arch = aarch64", f"size = {len(data)}",
        *package.info, f"datahash = {hashlib.sha256(data).hexdigest()}",
    ]  # fmt: skip
    control = {".PKGINFO": "\n".join([*lines, ""]).encode(), ".post-install": b"#!/bin/sh\n:\n"}
    path = folder / f"{package.name}-{package.version}.apk"
    path.write_bytes(_segment(control, end=False) + data)
    return path


def alpine(tmp: Path, name: str, engine: str = "1.0-r0") -> Path:
    """A root that go-apk has installed packages in: two of Alpine's and Wolfi's own archives, and some that are made here."""
    said = ("origin = shop", f"license = {LICENCE}", "provides = cmd:shop=2.0-r1", "depend = so:libshop.so.1", "triggers = /usr/share/x")
    large = ((f"usr/share/{part}/data", bytes(LARGE)) for part in ("engine", "model"))
    made = [
        Apk("alpine-release", "3.16.9-r0", ("origin = alpine-base", "license = MIT"), (("etc/os-release", _ALPINE),)),
        Apk("shop", "2.0-r1", said, (("usr/bin/shop", b"shop"),)),
        Apk("shop-libs", "2.0-r1", ("origin = shop", "license = LGPL-2.1-or-later"), (("usr/lib/libshop.so.1", b"so"),)),
        Apk("engine", engine, ("origin = engine", "license = BSD-3-Clause"), (next(large), ("usr/share/engine/version", engine.encode()))),
        Apk("model", "1.0-r0", ("license = BSD-3-Clause",), (next(large),)),
    ]
    root, apks = tmp / name, tmp / f"{name}-apks"
    root.mkdir()
    apks.mkdir()
    real = go_module("github.com/chainguard-dev/go-apk@v0.0.0-20240605175618-f3471089c263", "pkg/apk/testdata") / "pkg/apk/testdata"
    files = [real / "alpine-316/alpine-baselayout-3.2.0-r23.apk", real / "hello-wolfi-2.12.1-r0.apk"]
    install = go_main(Path(__file__).parent / "integration/judges/apk-install")
    subprocess.run([install, root, "aarch64", *files, *(packed(apks, package) for package in made)], check=True, capture_output=True)
    return root


_ALPINE = b'NAME="Alpine Linux"\nID=alpine\nVERSION_ID=3.16.9\nPRETTY_NAME="Alpine Linux v3.16"\n'
